#ifndef QUANTFL_TESTS_BENCHMARK_IN_MEMORY_UPDATE_H_
#define QUANTFL_TESTS_BENCHMARK_IN_MEMORY_UPDATE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "common/codec/update.h"
#include "server/aggregation/fold.h"

namespace quantfl {

// An update for the fold, of a client with 600 examples.
class InMemory : public aggregation::UpdateSource {
 public:
  InMemory(codec::EncodedUpdate update, const codec::Layout& layout)
      : update_(std::move(update)), header_(*codec::ParseHeader(update_.header, layout)) {}
  const codec::UpdateHeader& header() const override { return header_; }
  uint32_t weight() const override { return 600; }
  absl::StatusOr<std::string> ReadChunk(uint32_t index) const override {
    return update_.chunks[index];
  }

 private:
  codec::EncodedUpdate update_;
  codec::UpdateHeader header_;
};

}  // namespace quantfl

#endif  // QUANTFL_TESTS_BENCHMARK_IN_MEMORY_UPDATE_H_
