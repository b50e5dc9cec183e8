#ifndef QUANTFL_COMMON_CODEC_KERNELS_TARGETS_H_
#define QUANTFL_COMMON_CODEC_KERNELS_TARGETS_H_

// Before Highway in each of the kernels' files: instruction sets that are not worth their compile
// time. Who has SSSE3 alone runs the plain code; who has SVE runs NEON.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

#endif  // QUANTFL_COMMON_CODEC_KERNELS_TARGETS_H_
