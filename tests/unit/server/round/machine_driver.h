#ifndef QUANTFL_TESTS_UNIT_SERVER_ROUND_MACHINE_DRIVER_H_
#define QUANTFL_TESTS_UNIT_SERVER_ROUND_MACHINE_DRIVER_H_

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gtest/gtest.h"
#include "server/round/round_machine.h"

namespace quantfl::round {

using base::ClientIndex;
using base::MemberId;
using base::RoundId;
using base::TaskId;
using federation::Role;
using federation::Verdict;

// Feeds a machine and remembers what came out. Storage, fold and commit answer at once unless told
// otherwise.
class MachineDriver {
 public:
  explicit MachineDriver(RoundPolicy policy, bool evaluate = false, uint64_t seed = 1)
      : machine({policy, seed, evaluate}) {}

  std::vector<Effect> Send(const Event& event) {
    std::vector<Effect> all;
    std::deque<Event> events = {event};
    while (!events.empty()) {
      const std::vector<Effect> effects = machine.Handle(events.front(), now);
      events.pop_front();
      for (const Effect& effect : effects) {
        all.push_back(effect);
        if (const auto* store = std::get_if<StoreTasks>(&effect)) {
          batches.push_back(*store);
          if (answer_tasks) events.push_back(TasksStored{store->batch, absl::OkStatus()});
        } else if (const auto* instruct = std::get_if<Instruct>(&effect)) {
          orders[instruct->member].push_back(*instruct);
        } else if (const auto* update = std::get_if<StoreUpdate>(&effect)) {
          if (answer_updates) {
            events.push_back(UpdateStored{update->member, update->task, absl::OkStatus()});
          }
        } else if (const auto* gave_up = std::get_if<AbandonRound>(&effect)) {
          abandoned = *gave_up;
        } else if (std::holds_alternative<StartFold>(effect)) {
          if (answer_fold) events.push_back(FoldDone{absl::OkStatus()});
        } else if (std::holds_alternative<CommitRound>(effect)) {
          if (answer_commit) events.push_back(RoundStored{absl::OkStatus()});
        }
      }
    }
    return all;
  }

  void Reconnect(MemberId id) {
    Send(StreamClosed{id});
    Send(StreamOpened{id});
  }

  // Moves the time on, with the Ticks that the machine asks for.
  std::vector<Effect> Wait(absl::Duration d) {
    const base::SteadyTime until = now + d;
    std::vector<Effect> all;
    while (machine.next_wake() <= until) {
      now = std::max(now, machine.next_wake());
      const std::vector<Effect> effects = Send(Tick{});
      all.insert(all.end(), effects.begin(), effects.end());
    }
    now = until;
    return all;
  }

  MemberId Trainer(uint32_t client_index, bool connect = true) {
    const MemberId id(next_member++);
    Send(MemberJoined{id, Role::kTrainer, ClientIndex(client_index)});
    if (connect) Send(StreamOpened{id});
    return id;
  }
  MemberId Evaluator(bool connect = true) {
    const MemberId id(next_member++);
    Send(MemberJoined{id, Role::kEvaluator, std::nullopt});
    if (connect) Send(StreamOpened{id});
    return id;
  }

  // The task in a member's last instruction; fails the test if there is none.
  TaskId TaskOf(MemberId id) {
    const Order order = LastOrder(id);
    if (const auto* train = std::get_if<TrainOrder>(&order)) return train->task;
    if (const auto* evaluate = std::get_if<EvaluateOrder>(&order)) return evaluate->task;
    ADD_FAILURE() << "member " << id.value() << " has no task";
    return TaskId();
  }
  Order LastOrder(MemberId id) {
    return orders[id].empty() ? Order(federation::StandBy{}) : orders[id].back().order;
  }
  template <typename T>
  bool Told(MemberId id) {
    return !orders[id].empty() && std::holds_alternative<T>(orders[id].back().order);
  }

  static base::Digest DigestOf(uint8_t seed) {
    base::Digest digest;
    digest.bytes[0] = seed;
    return digest;
  }
  // Offers and, if admitted, delivers; the verdict, or nothing if there was none.
  std::optional<Verdict> Upload(MemberId id, TaskId task, uint8_t digest = 1) {
    std::vector<Effect> effects = Send(UploadOffered{id, task, DigestOf(digest)});
    if (Has<AdmitUpload>(effects)) {
      Send(UploadStarted{task});
      effects = Send(UpdateReceived{id, task, DigestOf(digest), 1});
    }
    return VerdictIn(effects);
  }
  std::optional<Verdict> Upload(MemberId id) { return Upload(id, TaskOf(id)); }

  template <typename T>
  static bool Has(const std::vector<Effect>& effects) {
    return Get<T>(effects).has_value();
  }
  template <typename T>
  static std::optional<T> Get(const std::vector<Effect>& effects) {
    for (const Effect& effect : effects) {
      if (const auto* found = std::get_if<T>(&effect)) return *found;
    }
    return std::nullopt;
  }
  static std::optional<Verdict> VerdictIn(const std::vector<Effect>& effects) {
    const auto answer = Get<AnswerUpload>(effects);
    if (!answer) return std::nullopt;
    return answer->verdict.verdict;
  }

  RoundMachine machine;
  base::SteadyTime now = base::SteadyTime::FromOrigin(absl::Hours(1));
  bool answer_tasks = true, answer_updates = true, answer_fold = true, answer_commit = true;
  uint32_t next_member = 0;
  std::vector<StoreTasks> batches;
  std::optional<AbandonRound> abandoned;  // the last
  std::map<MemberId, std::vector<Instruct>> orders;
};

inline RoundPolicy SmallPolicy(uint32_t clients, uint32_t rounds = 2) {
  RoundPolicy policy;
  policy.rounds = rounds;
  policy.min_clients = clients;
  policy.round_deadline = absl::Minutes(10);
  policy.idle_timeout = absl::Minutes(1);
  policy.evaluation_deadline = absl::Minutes(5);
  return policy;
}

}  // namespace quantfl::round

#endif  // QUANTFL_TESTS_UNIT_SERVER_ROUND_MACHINE_DRIVER_H_
