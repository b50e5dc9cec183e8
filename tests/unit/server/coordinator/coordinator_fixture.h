#ifndef QUANTFL_TESTS_UNIT_SERVER_COORDINATOR_COORDINATOR_FIXTURE_H_
#define QUANTFL_TESTS_UNIT_SERVER_COORDINATOR_COORDINATOR_FIXTURE_H_

// A coordinator whose executors all are one ManualEventLoop, and clients made by hand.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/env.h"
#include "common/model/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {

using base::ClientIndex;
using base::RoundId;
using base::TaskId;
using federation::Role;
using federation::Verdict;

class RecordingLogger : public base::Logger {
 public:
  void Log(base::LogLevel, absl::string_view event, std::vector<base::LogField> fields) override {
    std::string line(event);
    for (const auto& field : fields) line += " " + field.key + "=" + field.value;
    lines.push_back(std::move(line));
  }
  bool Has(const std::string& part) const {
    for (const std::string& line : lines) {
      if (line.find(part) != std::string::npos) return true;
    }
    return false;
  }
  std::vector<std::string> lines;
};

class RecordingSink : public InstructionSink {
 public:
  void Push(const federation::Instruction& instruction) override {
    EXPECT_FALSE(closed.has_value()) << "pushed after Close";
    instructions.push_back(instruction);
  }
  void Close(absl::Status status) override {
    EXPECT_FALSE(closed.has_value()) << "closed twice";
    closed = std::move(status);
  }
  template <typename T>
  const T* Last() const {
    return instructions.empty() ? nullptr : std::get_if<T>(&instructions.back().what);
  }
  std::vector<federation::Instruction> instructions;
  std::optional<absl::Status> closed;
};

struct FakeClient {
  Peer peer;
  std::string session;
  std::shared_ptr<RecordingSink> sink;

  // Of its last instruction; fails the test if that is not to train.
  federation::TrainTask Task() const {
    const auto* task = sink->Last<federation::TrainTask>();
    if (task != nullptr) return *task;
    ADD_FAILURE() << "not told to train";
    return {};
  }
};

struct FakeUpdate {
  federation::UpdateOffer offer;
  std::vector<std::string> chunks;

  void Seal() {
    std::string all = offer.codec_header;
    for (const std::string& chunk : chunks) all += chunk;
    offer.digest = base::Sha256(all);
    offer.payload_bytes = all.size();
    offer.chunk_count = static_cast<uint32_t>(chunks.size());
  }
};

class CoordinatorTest : public testing::Test {
 public:
  CoordinatorTest() : loop(clock), schema(MakeSchema()) {
    options.run.name = "test";
    options.run.seed = 7;
    options.run.classes = 10;
    options.run.partition.partitions = 8;
    options.codec = codec::BuSpec(16);
    options.policy.rounds = 2;
    options.policy.min_clients = 2;
    options.evaluate = false;
  }
  ~CoordinatorTest() override { coordinator.reset(); }

  static model::Schema MakeSchema() {
    auto made =
        model::Schema::Create("tiny", {{"layer.weight", {700, 1000}, model::Policy::kQuantise},
                                       {"counter", {1}, model::Policy::kSkip},
                                       {"layer.bias", {10}, model::Policy::kFp32}});
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  std::vector<float> InitialFlat() const {
    std::vector<float> flat(schema.size());
    for (size_t i = 0; i < flat.size(); ++i) flat[i] = 0.01f * static_cast<float>(i % 17);
    return flat;
  }
  std::string InitialBytes() const {
    return model::SerializeSafetensors(schema, InitialFlat(), {{"input_mean", "0.5"}});
  }

  void Begin(bool start = true) {
    auto opened = store::OpenFileRunStore(env, "/run/state");
    ASSERT_TRUE(opened.ok()) << opened.status();
    store = *std::move(opened);
    auto created = Coordinator::Create(options, schema, InitialBytes(), Deps());
    ASSERT_TRUE(created.ok()) << created.status();
    coordinator = *std::move(created);
    if (start) coordinator->Start([this](RunStatus status) { ended = std::move(status); });
    Run();
  }
  CoordinatorDeps Deps() {
    return {&loop,   &loop,       &loop,   &clock,
            &logger, store.get(), &ledger, [this] { return absl::StatusOr<uint64_t>(free_bytes); }};
  }
  void Run() { loop.RunReady(); }
  // Lets time pass, with everything that becomes due.
  void Wait(absl::Duration d) {
    loop.RunUntil([] { return false; }, clock.Now() + d);
  }

  absl::StatusOr<federation::JoinAnswer> Join(const Peer& peer, federation::JoinRequest request) {
    absl::StatusOr<federation::JoinAnswer> answer = absl::UnknownError("no answer");
    coordinator->Join(peer, std::move(request), [&](auto a) { answer = std::move(a); });
    Run();
    return answer;
  }
  static federation::JoinRequest Request(const std::string& device, uint32_t ordinal = 0,
                                         Role role = Role::kTrainer) {
    federation::JoinRequest request;
    request.name = {device, ordinal};
    request.role = role;
    request.codecs = {"fp32", "bu"};
    return request;
  }
  FakeClient Client(const std::string& device, std::optional<uint32_t> index = std::nullopt,
                    Role role = Role::kTrainer) {
    FakeClient client;
    client.peer.device = device;
    federation::JoinRequest request = Request(device, 0, role);
    if (index) request.client_index = ClientIndex(*index);
    auto answer = Join(client.peer, request);
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (answer.ok()) client.session = answer->session;
    Open(client);
    return client;
  }
  void Open(FakeClient& client) {
    client.sink = std::make_shared<RecordingSink>();
    coordinator->OpenTasks(client.peer, client.session, client.sink);
    Run();
  }
  void Close(const FakeClient& client) {
    coordinator->CloseTasks(client.session, client.sink);
    Run();
  }

  std::vector<float> Delta(uint64_t seed) const {
    base::Prng prng({seed, 0, 0, base::PrngPurpose::kSynthetic});
    std::vector<float> delta(schema.update_layout().n());
    for (float& value : delta) value = (prng.UniformFloat() - 0.5f) * 0.02f;
    return delta;
  }
  FakeUpdate Update(TaskId task, uint64_t seed, std::optional<codec::Spec> spec = std::nullopt) {
    auto encoded = codec::Encode(Delta(seed), schema.update_layout(), spec.value_or(options.codec),
                                 {seed, 0, 0, base::PrngPurpose::kRounding});
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    FakeUpdate update;
    update.offer.task_id = task;
    update.offer.examples = 100;
    update.offer.codec_header = encoded->header;
    update.chunks = encoded->chunks;
    update.Seal();
    return update;
  }

  absl::StatusOr<OfferAnswer> Offer(const FakeClient& client,
                                    const federation::UpdateOffer& offer) {
    absl::StatusOr<OfferAnswer> answer = absl::UnknownError("no answer");
    coordinator->Offer(client.peer, client.session, offer, [&](auto a) { answer = std::move(a); });
    Run();
    return answer;
  }
  absl::Status Append(const std::shared_ptr<Upload>& upload, const std::string& chunk) {
    absl::Status status = absl::UnknownError("no answer");
    coordinator->Append(upload, chunk, [&](absl::Status s) { status = std::move(s); });
    Run();
    return status;
  }
  absl::StatusOr<federation::UpdateVerdict> Finish(const std::shared_ptr<Upload>& upload) {
    absl::StatusOr<federation::UpdateVerdict> verdict = absl::UnknownError("no answer");
    coordinator->Finish(upload, [&](auto v) { verdict = std::move(v); });
    Run();
    return verdict;
  }
  // The whole way of an update.
  absl::StatusOr<federation::UpdateVerdict> Send(const FakeClient& client,
                                                 const FakeUpdate& update) {
    auto answer = Offer(client, update.offer);
    if (!answer.ok()) return answer.status();
    if (answer->verdict) return *answer->verdict;
    for (size_t i = answer->continue_from; i < update.chunks.size(); ++i) {
      absl::Status status = Append(answer->upload, update.chunks[i]);
      if (!status.ok()) return status;
    }
    return Finish(answer->upload);
  }
  // Trains in no time.
  void Deliver(const FakeClient& client, uint64_t seed) {
    const auto verdict = Send(client, Update(client.Task().task_id, seed));
    ASSERT_TRUE(verdict.ok()) << verdict.status();
    EXPECT_EQ(verdict->verdict, Verdict::kAccepted) << verdict->reason;
  }

  RunStatus Status() {
    RunStatus status;
    coordinator->GetStatus([&](RunStatus s) { status = std::move(s); });
    Run();
    return status;
  }
  std::vector<MemberStatus> Members() {
    std::vector<MemberStatus> members;
    coordinator->ListMembers([&](auto m) { members = std::move(m); });
    Run();
    return members;
  }
  absl::Status Command(RunCommand command) {
    absl::Status status = absl::UnknownError("no answer");
    coordinator->Command(command, [&](absl::Status s) { status = std::move(s); });
    Run();
    return status;
  }

  base::ManualClock clock;
  base::ManualEventLoop loop;
  base::MemoryEnv env;
  uint64_t free_bytes = ~uint64_t{0};
  RecordingLogger logger;
  ledger::Ledger ledger;
  model::Schema schema;
  RunOptions options;
  std::unique_ptr<store::RunStore> store;
  std::unique_ptr<Coordinator> coordinator;
  std::optional<RunStatus> ended;
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_TESTS_UNIT_SERVER_COORDINATOR_COORDINATOR_FIXTURE_H_
