#ifndef QUANTFL_COMMON_CODEC_SPEC_H_
#define QUANTFL_COMMON_CODEC_SPEC_H_

// What an encoder is asked to do. Every id below is on the wire: ids are never renumbered, and
// those that this version does not implement are refused by Validate with UNIMPLEMENTED naming
// them.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::codec {

enum class QuantiserId : uint8_t {
  kFp32 = 0,
  kBu = 1,
  kBq = 2,
  kUniform = 3,
  kFp16 = 4,
  kInt8 = 5,
  kQsgd = 16,
  kSignSgd = 17,
  kTopK = 18,
  kEden = 19
};
enum class Scope : uint8_t { kTensor = 0, kBlock = 1, kModel = 2 };
// kGain: the midpoint times a factor for each tensor, of uniform.
enum class Representative : uint8_t { kMidpoint = 0, kMean = 1, kGain = 2 };
enum class Rounding : uint8_t { kNearest = 0, kStochastic = 1 };
enum class Pack : uint8_t { kFixed = 0, kRans = 1 };
enum class Context : uint8_t { kNone = 0, kOwn = 1, kHistory = 2 };
// Which classes choose a symbol's table within a context.
enum class ClassRule : uint8_t {
  kNone = 0,
  kRowsByColumns = 1,
  kRowsByColumnsSign = 2,
  kKernelPlanes = 3
};
enum class Transform : uint8_t { kNone = 0, kDct = 1 };

struct Spec {
  QuantiserId quantiser = QuantiserId::kBu;
  // 2..256 for bu, bq; odd, 3..255 for uniform; 255 for int8; 0 for fp32, fp16
  uint16_t levels = 16;
  Scope scope = Scope::kTensor;
  uint32_t block_size = 0;  // parameters, 8..2^20, a multiple of 8; 0 unless scope is block
  Representative representative = Representative::kMidpoint;
  Rounding rounding = Rounding::kNearest;
  Pack pack = Pack::kFixed;
  Context context = Context::kNone;
  ClassRule class_rule = ClassRule::kNone;
  Transform transform = Transform::kNone;

  // What an encoder is asked for and a decoder has no use for. The spec of a parsed header has
  // none of it but the step: the one that was used.
  // Of uniform, exactly one of the two, in units of the update's root mean square or absolute, and
  // none with rate control.
  float step_rms = 0;
  float step = 0;
  // Of uniform: half the width of the bucket of zero, in steps: 0.5..1 with nearest, 0..1 with
  // stochastic rounding, below which values become 0. 0 is the least.
  float zero = 0;
  // Of bucket means: a factor for each scope with which <Q(x), x> = <x, x>.
  bool unbias = false;
  // Rate control of uniform, bu and bq, at most one of the two; levels is then the most that there
  // may be, of bu and bq. Bytes of the encoded update, header and chunks, at most; or the squared
  // error, as a part of the squared norm, at most.
  uint64_t max_bytes = 0;
  float target_nmse = 0;

  friend bool operator==(const Spec&, const Spec&) = default;
};

inline constexpr uint16_t kLevelsMin = 2;
inline constexpr uint16_t kLevelsMax = 256;
inline constexpr uint16_t kInt8Levels = 255;
inline constexpr uint16_t kUniformLevels = 15;         // unless a text says otherwise
inline constexpr uint16_t kUniformLevelsOfRate = 255;  // the same with rate control
inline constexpr float kStepRmsMin = 0x1p-10f;
inline constexpr float kStepRmsMax = 0x1p10f;
inline constexpr float kStepMin = 0x1p-100f;
inline constexpr float kStepMax = 0x1p100f;
inline constexpr uint32_t kBlockSizeStep = 8;  // so that the codes of a block begin on a byte
inline constexpr uint32_t kBlockSizeMax = 1u << 20;

Spec Fp32Spec();
Spec Fp16Spec();
Spec Int8Spec();
Spec BuSpec(uint16_t levels);
Spec BqSpec(uint16_t levels);
Spec UniformSpec(uint16_t levels, float step_rms);

// INVALID_ARGUMENT naming the field, its value and its range, also where two fields do not go
// together; UNIMPLEMENTED for reserved ids.
absl::Status Validate(const Spec& spec);

// The form in configurations and tables: "fp32", "bu:16", "bu:16,round=stochastic,scope=block:64".
// A name, levels where it has them, then options in any order, each at most once; what is not
// stated has its default. INVALID_ARGUMENT lists the forms there are. The result is valid.
absl::StatusOr<Spec> ParseSpec(absl::string_view text);
// Without what has its default, options in one order: equal specs have equal texts.
std::string ToString(const Spec& spec);

// "bu": what a client says it can encode. Empty for an unknown id.
absl::string_view QuantiserName(QuantiserId id);
// The names of all quantisers that Encode implements.
std::vector<std::string> QuantiserNames();

// ceil(log2(levels)), 1..8; 16 for fp16, 32 for fp32.
int BitsPerCode(const Spec& spec);

// Whether an update whose header says `encoded` is what was asked for, as far as a header tells: an
// encoder leaves out contexts that do not pay, and with rate control it chooses within limits.
bool Fulfils(const Spec& encoded, const Spec& asked);

// Whether values travel as codes of a codebook, and not one by one.
bool HasCodes(const Spec& spec);
// Whether representatives travel one by one, as fp16: bq, and bu with bucket means.
bool HasExplicitCodebook(const Spec& spec);
// Whether a code stands for its distance from the middle one times a scale: uniform, int8.
bool IsSymmetric(const Spec& spec);
// Whether `spec` asks for a size or an error.
bool HasRateControl(const Spec& spec);
// Whether the header alone bounds the decoded value of each code: scope tensor, where a codebook
// has one tensor's bound to respect.
bool HeaderBoundsCodes(const Spec& spec);

enum class TensorPolicy : uint8_t { kQuantise = 0, kFp32 = 1 };

struct TensorLayout {
  std::vector<uint64_t> shape;  // product >= 1
  TensorPolicy policy = TensorPolicy::kQuantise;
};

inline constexpr uint64_t kTensorsMax = uint64_t{1} << 20;
inline constexpr uint64_t kUpdateParamsMax = uint64_t{1} << 36;

// The tensors of an update in order; n parameters in all. A tensor that does not travel (policy
// skip of the schema, not trained) is not in it. Immutable.
class Layout {
 public:
  struct Tensor {
    std::vector<uint64_t> shape;
    TensorPolicy policy;
    uint64_t offset;  // of its first parameter in the update
    uint64_t size;    // parameters
    uint32_t
        quantised_index;  // among the tensors of policy kQuantise: how many stand before this one
  };
  // INVALID_ARGUMENT: no tensor, an empty one, more than 2^20 tensors, n above 2^36, or a digest
  // that is not 32 bytes.
  static absl::StatusOr<Layout> Create(std::vector<TensorLayout> tensors,
                                       std::string schema_digest_bytes);

  const std::vector<Tensor>& tensors() const { return tensors_; }
  uint64_t n() const { return n_; }
  const std::string& schema_digest() const { return schema_digest_; }  // 32 bytes
  bool has_fp32() const { return has_fp32_; }                          // a tensor of policy kFp32
  uint32_t quantised_count() const { return quantised_count_; }  // tensors of policy kQuantise

 private:
  std::vector<Tensor> tensors_;
  uint64_t n_ = 0;
  bool has_fp32_ = false;
  uint32_t quantised_count_ = 0;
  std::string schema_digest_;
};

// Parameters in a chunk: the largest power of two up to 2^20 with which no chunk of the layout
// holds more than kCodeBytesMax of segments in the fixed pack (byte-aligned, fp32 where the policy
// says so, with the side information of blocks). At least 2^15, unless tensors of few parameters
// have codebooks of their own (explicit ones with scope block). `spec` must be valid.
// O(tensors + chunks).
uint32_t ParamsPerChunk(const Spec& spec, const Layout& layout);
uint32_t ChunkCount(const Spec& spec, const Layout& layout);

inline constexpr uint32_t kCodeBytesMax = 192 * 1024;
inline constexpr uint32_t kChunkBytesMax = kCodeBytesMax + 64;  // codes and the chunk's own fields
inline constexpr uint32_t kHeaderBytesMax =
    64 * 1024;  // one header message; a longer header travels in parts

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_SPEC_H_
