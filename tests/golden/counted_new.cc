#include "tests/golden/counted_new.h"

#include <cstdlib>
#include <new>

namespace {
uint64_t asked = 0;
}  // namespace

void* operator new(size_t size) {
  asked += size;
  if (void* const memory = std::malloc(size); memory != nullptr) return memory;
  throw std::bad_alloc();
}
void* operator new[](size_t size) { return operator new(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  asked += size;
  return std::malloc(size);
}
void* operator new[](size_t size, const std::nothrow_t& tag) noexcept {
  return operator new(size, tag);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace quantfl::golden {

uint64_t BytesAsked() { return asked; }

}  // namespace quantfl::golden
