#ifndef QUANTFL_COMMON_MODEL_SCHEMA_H_
#define QUANTFL_COMMON_MODEL_SCHEMA_H_

// What a model's parameters are: names, shapes, policies. Travels once; everything else refers to
// it by digest.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/digest.h"
#include "common/codec/spec.h"

namespace quantfl::model {

// How a tensor travels. kSkip: it is in the checkpoint, but never in an update.
enum class Policy : uint8_t { kQuantise = 0, kFp32 = 1, kSkip = 2 };

struct TensorInfo {
  std::string name;             // 1..256 bytes of printable ASCII
  std::vector<uint64_t> shape;  // 0..8 dimensions, each >= 1; none means a scalar
  Policy policy = Policy::kQuantise;

  uint64_t size() const;
  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

// Ordered; names unique. Immutable. All parameters are float32; the flat vector of a model is its
// tensors one behind the other in this order.
class Schema {
 public:
  // INVALID_ARGUMENT naming tensor and limit.
  static absl::StatusOr<Schema> Create(std::string architecture, std::vector<TensorInfo> tensors);
  // Canonical bytes (proto/README.md): magic "QFLS", version, counts, then each tensor. DATA_LOSS.
  static absl::StatusOr<Schema> Parse(absl::string_view canonical_bytes);
  std::string CanonicalBytes() const;
  const base::Digest& digest() const { return digest_; }  // SHA-256 of CanonicalBytes()

  const std::string& architecture() const { return architecture_; }  // "lenet5"
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  uint64_t size() const { return size_; }  // of the flat vector, skipped ones included
  // What an update holds: the tensors whose policy is not kSkip.
  const codec::Layout& update_layout() const { return layout_; }

  // flat[size()] -> update[update_layout().n()] and back (the other positions stay as they are).
  std::vector<float> Gather(absl::Span<const float> flat) const;
  void Scatter(absl::Span<const float> update, absl::Span<float> flat) const;

 private:
  Schema(std::string architecture, std::vector<TensorInfo> tensors, codec::Layout layout);
  std::string architecture_;
  std::vector<TensorInfo> tensors_;
  uint64_t size_ = 0;
  codec::Layout layout_;
  base::Digest digest_;
};

// Whether both have the same names and shapes in the same order; policies may differ.
bool SameTensors(const Schema& a, const Schema& b);

inline constexpr uint64_t kSchemaBytesMax = 16u << 20;

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_SCHEMA_H_
