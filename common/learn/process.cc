#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <malloc.h>

#include "common/learn/learner.h"

namespace quantfl::learn {

void ConfigureProcess() {
  // glibc returns large tensors to the kernel after every batch otherwise, and page faults take up
  // to a third of the time. 32 MiB is the largest mmap threshold that glibc accepts.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);

  at::set_num_threads(1);
  // OpenBLAS has a thread pool of its own. Which BLAS is there is the administrator's choice
  // (update-alternatives), so it is asked for, not linked.
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); symbol != nullptr) {
    reinterpret_cast<void (*)(int)>(symbol)(1);
  }
}

}  // namespace quantfl::learn
