#include "server/coordinator/budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/codec/update.h"

namespace quantfl::coordinator {
namespace {

constexpr uint64_t kMessagesFixed = 1 << 10, kStreamFixed = 4 << 10;
// Parts of a thousand.
constexpr uint64_t kMessagesShare = 2, kStreamShare = 10, kLinkShare = 80;
// Of a header's exponents and tables, which contexts have where they pay.
constexpr uint64_t kHeaderRest = 256;

uint64_t Share(uint64_t bytes, uint64_t thousandths) {
  return bytes / 1000 * thousandths + (bytes % 1000 * thousandths + 999) / 1000;
}

std::string Key(absl::string_view key, uint64_t bytes, ledger::Level level) {
  return absl::StrCat("budget.", key, " = ", bytes, " (", ledger::ToString(level), " bytes)");
}

}  // namespace

uint64_t UpdateBytesMax(const codec::Spec& spec, const codec::Layout& layout) {
  // Entropy coding never makes a chunk larger than the fixed pack does.
  codec::Spec fixed = spec;
  fixed.pack = codec::Pack::kFixed;
  fixed.context = codec::Context::kNone;
  fixed.class_rule = codec::ClassRule::kNone;
  fixed.max_bytes = 0;
  fixed.target_nmse = 0;
  if (spec.quantiser == codec::QuantiserId::kUniform && codec::HasRateControl(spec)) {
    fixed.step_rms = 1;
  }
  const uint32_t chunks = codec::ChunkCount(fixed, layout);
  uint64_t bytes = kHeaderRest;
  for (const codec::Layout::Tensor& tensor : layout.tensors()) {
    const bool quantised = tensor.policy == codec::TensorPolicy::kQuantise;
    const auto bits = static_cast<uint64_t>(quantised ? codec::BitsPerCode(fixed) : 32);
    // A byte more for each chunk that the tensor may be cut by.
    bytes += (tensor.size * bits + 7) / 8 + 2;
    if (!quantised) continue;
    const uint64_t explicit_bytes = 2 * uint64_t{fixed.levels};
    const bool has_codebook = codec::HasExplicitCodebook(fixed);
    bytes += 8 + (has_codebook ? explicit_bytes : 0);
    if (fixed.scope == codec::Scope::kBlock) {
      const uint64_t blocks = tensor.size / fixed.block_size + 2;
      bytes += blocks * (has_codebook ? explicit_bytes : 4);
    }
  }
  // Chunks' own fields, and segments and blocks that a chunk's end cuts in two.
  const uint64_t per_cut = fixed.scope == codec::Scope::kBlock ? 2 * uint64_t{fixed.levels} + 8 : 8;
  bytes += chunks * (16 + per_cut);
  return spec.max_bytes == 0 ? bytes : std::min(bytes, spec.max_bytes);
}

uint64_t BytesMaxAt(ledger::Level level, uint64_t payload) {
  switch (level) {
    case ledger::Level::kPayload:
      return payload;
    case ledger::Level::kMessages:
      return payload + Share(payload, kMessagesShare) + kMessagesFixed;
    case ledger::Level::kStream:
    case ledger::Level::kTcp:
      return payload + Share(payload, kStreamShare) + kStreamFixed;
    case ledger::Level::kLink: {
      const uint64_t stream = BytesMaxAt(ledger::Level::kStream, payload);
      return stream + Share(stream, kLinkShare);
    }
  }
  return payload;
}

std::optional<uint64_t> SpentBytes(const federation::ByteCounters& counters, ledger::Level level) {
  const std::optional<uint64_t> up = ledger::BytesAt(counters.uplink, level);
  const std::optional<uint64_t> down = ledger::BytesAt(counters.downlink, level);
  if (!up || !down) return std::nullopt;
  return *up + *down;
}

std::string WhyNotRound(const BudgetOptions& budget, base::RoundId round,
                        std::optional<uint64_t> spent, absl::Span<const RoundCost> costs) {
  const ledger::Level level = budget.level;
  uint64_t uplink = 0, both = 0;
  for (const RoundCost& cost : costs) {
    const uint64_t up = BytesMaxAt(level, cost.uplink_payload);
    uplink += up;
    both += up + BytesMaxAt(level, cost.downlink_payload);
  }
  std::string unread =
      absl::StrCat("budget.level = \"", ledger::ToString(level),
                   "\" cannot be read here; \"messages\" and \"payload\" always can");
  if (budget.total_bytes) {
    if (!spent) return unread;
    if (*spent + both > *budget.total_bytes) {
      return absl::StrCat(Key("total_bytes", *budget.total_bytes, level), ": ", *spent,
                          " are spent, round ", round.value(), " may need ", both, " more");
    }
  }
  if (budget.uplink_bytes_per_round && uplink > *budget.uplink_bytes_per_round) {
    return absl::StrCat(
        Key("uplink_bytes_per_round", *budget.uplink_bytes_per_round, level), ": the ",
        costs.size(), " updates of round ", round.value(), " may need ", uplink,
        "; allow that much, ask fewer clients (round.cohort), or have the codec meet it: "
        "codec.uplink with ',max_bytes=N'");
  }
  if (!budget.bytes_per_client) return "";
  for (const RoundCost& cost : costs) {
    if (!cost.spent) return absl::StrCat(unread, " (", cost.client, ")");
    const uint64_t more =
        BytesMaxAt(level, cost.uplink_payload) + BytesMaxAt(level, cost.downlink_payload);
    if (*cost.spent + more <= *budget.bytes_per_client) continue;
    return absl::StrCat(Key("bytes_per_client", *budget.bytes_per_client, level), ": ", cost.client,
                        " has spent ", *cost.spent, ", round ", round.value(), " may need ", more,
                        " more of it");
  }
  return "";
}

}  // namespace quantfl::coordinator
