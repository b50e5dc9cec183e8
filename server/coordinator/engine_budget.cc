// Whether the next round can be paid for.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/coordinator/engine.h"

namespace quantfl::coordinator {

using base::LogLevel;
using base::MemberId;

Engine::RoundEstimate Engine::EstimateRound(const round::StoreTasks& e) const {
  RoundEstimate estimate;
  estimate.round = e.round;
  estimate.trainers = MembersOf(federation::Role::kTrainer);
  const uint64_t whole = model_.broadcast->bytes.size();
  // Who evaluates fetches the round's own model as well, before the next round is looked at.
  uint64_t evaluated = 0;
  if (options_.policy.client_evaluation_every > 0) {
    evaluated = std::min(whole, UpdateBytesMax(options_.downlink.codec, schema_->update_layout()));
  }
  for (const auto& item : e.items) {
    const Member& member = members_[item.member.value()];
    RoundCost cost;
    cost.client = NameOf(item.member);
    cost.uplink_payload = update_bytes_max_;
    uint64_t steps = 0;
    if (member.holds) {
      for (const federation::ModelStep& step : steps_.From(*member.holds)) steps += step.bytes;
    }
    cost.downlink_payload = (steps > 0 ? steps : whole) + evaluated;
    estimate.members.push_back(item.member);
    estimate.costs.push_back(std::move(cost));
  }
  return estimate;
}

std::string Engine::CheckBudget(RoundEstimate estimate) const {
  const BudgetOptions& budget = options_.budget;
  const Totals totals = ReadTotals(estimate.trainers, {});
  if (budget.bytes_per_client) {
    for (size_t i = 0; i < estimate.members.size(); ++i) {
      const federation::ByteCounters bytes = UsageOf(estimate.members[i]).total;
      estimate.costs[i].spent = bytes.uplink.messages + bytes.downlink.messages == 0
                                    ? std::optional<uint64_t>(0)
                                    : SpentBytes(bytes, budget.level);
    }
  }
  return WhyNotRound(budget, estimate.round, SpentBytes(totals.trainers, budget.level),
                     estimate.costs);
}

std::string Engine::Bought() const {
  uint32_t rounds = 0;
  std::string accuracy = "no accuracy was measured";
  for (const RoundRecord& record : records_.Read().All()) {
    if (!record.committed) continue;
    if (record.round > base::RoundId(0)) ++rounds;
    const std::optional<double> found = record.accuracy ? record.accuracy : record.clients.accuracy;
    if (found) {
      accuracy = absl::StrFormat("an accuracy of %.2f %%%s", 100 * *found,
                                 record.accuracy ? "" : " on clients' data");
    }
  }
  return absl::StrCat("it bought ", rounds, rounds == 1 ? " round, " : " rounds, ", accuracy);
}

void Engine::EndForBudget(uint64_t batch, const std::string& why) {
  // Stopped meanwhile: that was the end.
  if (machine_.phase() != round::Phase::kAssigning) return;
  records_.pop_back();
  client_rounds_.erase(records_.size());
  for (auto it = notes_.lower_bound(current_tasks_); it != notes_.end();) it = notes_.erase(it);
  const std::string reason = absl::StrCat(why, "; ", Bought());
  Note(LogLevel::kInfo, "budget_reached", {{"reason", reason}});
  Dispatch(round::BudgetReached{batch, reason});
}

}  // namespace quantfl::coordinator
