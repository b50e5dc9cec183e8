#include "common/rpc/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace quantfl::rpc {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
void ExpectRefused(const absl::StatusOr<T>& result, const std::string& names) {
  ASSERT_FALSE(result.ok()) << names;
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(names));
}

federation::RunDescriptor SomeRun() {
  federation::RunDescriptor run;
  run.run_id = "0123456789abcdef";
  run.name = "demo";
  run.seed = 42;
  run.architecture = "lenet5";
  run.classes = 11;
  run.schema = base::Sha256("schema");
  run.initial_model = base::Sha256("model");
  run.input = {0.25, 0.5};
  run.partition = {federation::PartitionKind::kDirichlet, 7, 0.75, 9, 1234, 5};
  return run;
}

federation::TrainTask SomeTask() {
  federation::TrainTask task;
  task.task_id = base::TaskId(77);
  task.round = base::RoundId(3);
  task.model = base::Sha256("broadcast");
  task.codec = {codec::QuantiserId::kBq,
                200,
                codec::Scope::kBlock,
                4096,
                codec::Representative::kMean,
                codec::Rounding::kStochastic,
                codec::Pack::kRans,
                codec::Context::kHistory,
                codec::ClassRule::kKernelPlanes,
                codec::Transform::kDct,
                2.5f,
                0.125f,
                0.75f,
                true,
                uint64_t{1} << 40,
                0.0625f};
  task.bound_exponents = {-4, 0, 100, -128, 127};
  task.max_examples = 500;
  task.training = {0.1, 0.8, 0.001, 16, 3};
  task.training.local_steps = 12;
  task.training.optimiser = federation::Optimiser::kAdam;
  task.training.beta1 = 0.7;
  task.training.beta2 = 0.99;
  task.training.epsilon = 1e-6;
  task.training.label_smoothing = 0.1;
  task.training.cache_dtype = federation::CacheDtype::kFp32;
  task.training.cache_passes = 3;
  task.steps.push_back({base::Sha256("b"), base::Sha256("a"), 99, base::RoundId(2), false});
  task.steps.push_back({base::Sha256("c"), base::Sha256("d"), 7, base::RoundId(3), false});
  task.model_bytes = 12345;
  return task;
}

TEST(ConvertTest, JoinRequest_RoundTrips) {
  federation::JoinRequest request;
  request.software_version = "0.1.0";
  request.started_us = 1'800'000'000'000'001;
  request.name = {"pi-07", 3};
  request.role = federation::Role::kEvaluator;
  request.client_index = base::ClientIndex(0);
  request.codecs = {"fp32", "bu"};
  const auto back = FromProto(ToProto(request));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->protocol_version, federation::kProtocolVersion);
  EXPECT_EQ(back->software_version, request.software_version);
  EXPECT_EQ(back->started_us, request.started_us);
  EXPECT_EQ(back->name, request.name);
  EXPECT_EQ(back->role, request.role);
  EXPECT_EQ(back->client_index, request.client_index);
  EXPECT_EQ(back->codecs, request.codecs);
  request.client_index.reset();
  EXPECT_EQ(FromProto(ToProto(request))->client_index, std::nullopt);
}

TEST(ConvertTest, JoinRequestOfAnotherVersion_ReachesWhoNamesBothVersions) {
  v1::JoinRequest request;
  request.set_protocol_version(99);
  const auto back = FromProto(request);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->protocol_version, 99u);
}

TEST(ConvertTest, HostileJoinRequest_IsRefusedByField) {
  federation::JoinRequest good;
  good.name = {"pi", 0};
  const auto spoiled = [&](const std::function<void(v1::JoinRequest&)>& spoil) {
    v1::JoinRequest request = ToProto(good);
    spoil(request);
    return FromProto(request);
  };
  ASSERT_TRUE(spoiled([](auto&) {}).ok());
  ExpectRefused(spoiled([](auto& r) { r.mutable_name()->set_device(""); }), "device");
  ExpectRefused(spoiled([](auto& r) { r.mutable_name()->set_device("../etc"); }), "device");
  ExpectRefused(spoiled([](auto& r) { r.clear_name(); }), "device");
  ExpectRefused(spoiled([](auto& r) { r.set_role(v1::ROLE_UNSPECIFIED); }), "role is 0");
  ExpectRefused(spoiled([](auto& r) { r.set_role(static_cast<v1::Role>(9)); }), "role is 9");
  ExpectRefused(spoiled([](auto& r) { r.set_software_version(std::string(5000, 'x')); }),
                "software_version is 5000 bytes");
  ExpectRefused(spoiled([](auto& r) { r.set_software_version("1\nlevel=error"); }),
                "software_version");
  ExpectRefused(spoiled([](auto& r) {
                  for (int i = 0; i < 65; ++i) r.add_codecs("bu");
                }),
                "codecs is 65");
}

TEST(ConvertTest, JoinAnswer_RoundTrips) {
  federation::JoinAnswer answer;
  answer.session = "0123456789abcdef0123456789abcdef";
  answer.client_index = base::ClientIndex(5);
  answer.run = SomeRun();
  const auto back = FromProto(ToProto(answer));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->session, answer.session);
  EXPECT_EQ(back->client_index, answer.client_index);
  EXPECT_EQ(back->run, answer.run);
}

TEST(ConvertTest, RunDescriptor_WholeInputRoundTrips) {
  federation::RunDescriptor run = SomeRun();
  run.input = {.mean = {0.485, 0.456, 0.406},
               .stddev = 0.25,
               .channels = 3,
               .height = 128,
               .width = 96,
               .augment = {.crop_padding = 4, .flip = true}};
  const v1::RunDescriptor proto = ToProto(run);
  const auto back = FromProto(proto);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, run);
  // What a client of the first version reads, and refuses.
  EXPECT_EQ(proto.input().stddev(), 0);
  EXPECT_EQ(ToProto(SomeRun()).input().stddev(), 0.5);
}

TEST(ConvertTest, HostileRunDescriptor_IsRefusedByField) {
  const auto spoiled = [&](const std::function<void(v1::RunDescriptor&)>& spoil) {
    v1::RunDescriptor run = ToProto(SomeRun());
    spoil(run);
    return FromProto(run);
  };
  ExpectRefused(spoiled([](auto& r) { r.set_run_id("../../../../etc/"); }), "run_id");
  ExpectRefused(spoiled([](auto& r) { r.set_schema_digest("short"); }), "schema_digest");
  ExpectRefused(spoiled([](auto& r) { r.mutable_input()->set_stddev(0); }), "stddev");
  ExpectRefused(spoiled([](auto& r) { r.mutable_input()->set_mean(kNan); }), "mean");
  ExpectRefused(spoiled([](auto& r) { r.mutable_input()->set_height(1u << 31); }), "input.height");
  ExpectRefused(spoiled([](auto& r) { r.mutable_input()->set_crop_padding(9999); }),
                "input.crop_padding");
  ExpectRefused(spoiled([](auto& r) {
                  r.mutable_input()->add_channel_mean(0.5);
                  r.mutable_input()->add_channel_stddev(kNan);
                }),
                "input.stddev");
  ExpectRefused(spoiled([](auto& r) {
                  for (int i = 0; i < 100'000; ++i) r.mutable_input()->add_channel_mean(0.5);
                }),
                "input.mean has 100000 numbers");
  ExpectRefused(spoiled([](auto& r) { r.mutable_partition()->set_alpha(-1); }), "alpha");
  ExpectRefused(spoiled([](auto& r) {
                  r.mutable_partition()->set_kind(static_cast<v1::PartitionSpec::Kind>(9));
                }),
                "partition.kind is 9");
  ExpectRefused(spoiled([](auto& r) {
                  r.mutable_partition()->set_kind(v1::PartitionSpec::KIND_SHARDS);
                  r.mutable_partition()->set_shards_per_client(0);
                }),
                "shards_per_client is 0");
}

TEST(ConvertTest, EveryPartition_RoundTrips) {
  for (const auto kind : {federation::PartitionKind::kOwn, federation::PartitionKind::kIid,
                          federation::PartitionKind::kDirichlet, federation::PartitionKind::kShards,
                          federation::PartitionKind::kNatural}) {
    federation::RunDescriptor run = SomeRun();
    run.partition.kind = kind;
    const absl::StatusOr<federation::RunDescriptor> back = FromProto(ToProto(run));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, run);
    EXPECT_EQ(*federation::ParsePartitionKind(federation::ToString(kind)), kind);
  }
  EXPECT_FALSE(federation::ParsePartitionKind("IID").ok());
}

TEST(ConvertTest, EveryInstruction_RoundTrips) {
  federation::EvaluateTask evaluate{base::TaskId(9), base::RoundId(2), base::Sha256("m")};
  evaluate.steps.push_back({base::Sha256("b"), base::Sha256("a"), 99, base::RoundId(2), true});
  evaluate.model_bytes = 1000;
  const federation::Instruction instructions[] = {
      {1, federation::StandBy{}},
      {2, SomeTask()},
      {3, evaluate},
      {4, federation::WaitUntil{absl::Milliseconds(10), absl::Seconds(3), "not needed"}},
      {uint64_t{1} << 63, federation::Finished{"all 10 rounds done"}},
  };
  for (const auto& instruction : instructions) {
    const auto back = FromProto(ToProto(instruction));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, instruction);
  }
}

TEST(ConvertTest, HostileInstruction_IsRefusedByField) {
  const auto spoiled = [&](const std::function<void(v1::Instruction&)>& spoil) {
    v1::Instruction instruction = ToProto({1, SomeTask()});
    spoil(instruction);
    return FromProto(instruction);
  };
  ExpectRefused(FromProto(v1::Instruction()), "does not know");
  ExpectRefused(spoiled([](auto& i) { i.mutable_train()->set_model_digest("x"); }), "model_digest");
  ExpectRefused(spoiled([](auto& i) { i.mutable_train()->mutable_codec()->set_levels(65536); }),
                "codec.levels is 65536");
  ExpectRefused(spoiled([](auto& i) { i.mutable_train()->mutable_codec()->set_quantiser(256); }),
                "codec.quantiser is 256");
  ExpectRefused(
      spoiled([](auto& i) { i.mutable_train()->set_bound_exponents(std::string(2 << 20, 0)); }),
      "bound_exponents");
  ExpectRefused(
      spoiled([](auto& i) { i.mutable_train()->mutable_training()->set_learning_rate(kInfinity); }),
      "learning_rate");
  ExpectRefused(
      spoiled([](auto& i) { i.mutable_train()->mutable_training()->set_beta2(kInfinity); }),
      "beta2");
  ExpectRefused(
      spoiled([](auto& i) { i.mutable_train()->mutable_training()->set_label_smoothing(kNan); }),
      "label_smoothing");
  ExpectRefused(
      spoiled([](auto& i) {
        i.mutable_train()->mutable_training()->set_optimiser(static_cast<v1::Optimiser>(2));
      }),
      "train.training.optimiser is 2");
  ExpectRefused(
      spoiled([](auto& i) {
        i.mutable_train()->mutable_training()->set_cache_dtype(static_cast<v1::CacheDtype>(9));
      }),
      "train.training.cache_dtype is 9");
  ExpectRefused(
      spoiled([](auto& i) { i.mutable_train()->mutable_steps(0)->set_artifact_digest("short"); }),
      "train: steps.artifact_digest");
  ExpectRefused(spoiled([](auto& i) {
                  for (int s = 0; s < 64; ++s) i.mutable_train()->add_steps();
                }),
                "at most 64");
  ExpectRefused(spoiled([](auto& i) {
                  i.mutable_wait_until()->set_after_ms_min(5);
                  i.mutable_wait_until()->set_after_ms_max(4);
                }),
                "after_ms");
  ExpectRefused(spoiled([](auto& i) {
                  i.mutable_wait_until()->set_after_ms_max(std::numeric_limits<uint64_t>::max());
                }),
                "after_ms");
}

federation::UpdateOffer SomeOffer() {
  federation::UpdateOffer offer;
  offer.task_id = base::TaskId(7);
  offer.digest = base::Sha256("update");
  offer.codec_header = "header";
  offer.payload_bytes = 6 + 1000;
  offer.chunk_count = 2;
  offer.examples = 12;
  return offer;
}

v1::UpdateOffer OfferToProto(const federation::UpdateOffer& offer) {
  v1::UpdateOffer proto = ToProtoWithoutHeader(offer);
  proto.set_codec_header(offer.codec_header);
  return proto;
}

TEST(ConvertTest, UpdateOffer_RoundTrips) {
  const federation::UpdateOffer offer = SomeOffer();
  const auto back = FromProto(OfferToProto(offer), 1 << 20);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->task_id, offer.task_id);
  EXPECT_EQ(back->digest, offer.digest);
  EXPECT_EQ(back->codec_header, offer.codec_header);
  EXPECT_EQ(back->payload_bytes, offer.payload_bytes);
  EXPECT_EQ(back->chunk_count, offer.chunk_count);
  EXPECT_EQ(back->examples, offer.examples);
}

TEST(ConvertTest, HostileOffer_IsRefusedBeforeAnythingIsAllocated) {
  const auto spoiled = [&](const std::function<void(v1::UpdateOffer&)>& spoil) {
    v1::UpdateOffer offer = OfferToProto(SomeOffer());
    spoil(offer);
    return FromProto(offer, 1 << 20);
  };
  ExpectRefused(spoiled([](auto& o) { o.set_digest(""); }), "offer.digest");
  ExpectRefused(spoiled([](auto& o) { o.set_codec_header_bytes(0); }), "codec_header_bytes is 0");
  ExpectRefused(spoiled([](auto& o) { o.set_codec_header_bytes(uint64_t{1} << 62); }),
                "codec_header_bytes");
  ExpectRefused(spoiled([](auto& o) { o.set_codec_header_bytes(5); }), "codec_header is 6");
  ExpectRefused(spoiled([](auto& o) { o.set_codec_header_bytes(100'000); }), "codec_header is 6");
  ExpectRefused(spoiled([](auto& o) { o.set_chunk_count(0); }), "chunk_count is 0");
  ExpectRefused(spoiled([](auto& o) { o.set_chunk_count(0xffffffff); }), "chunk_count");
  ExpectRefused(spoiled([](auto& o) { o.set_payload_bytes(6); }), "payload_bytes is 6");
  ExpectRefused(spoiled([](auto& o) { o.set_payload_bytes(1 << 20); }), "payload_bytes");
  ExpectRefused(spoiled([](auto& o) { o.set_payload_bytes(~uint64_t{0}); }), "payload_bytes");
}

TEST(ConvertTest, EveryVerdict_RoundTrips) {
  for (int kind = 1; kind <= 5; ++kind) {
    const federation::UpdateVerdict verdict{static_cast<federation::Verdict>(kind), "reason"};
    EXPECT_EQ(*FromProto(ToProto(verdict)), verdict);
  }
  ExpectRefused(FromProto(v1::UpdateVerdict()), "verdict.kind is 0");
}

TEST(ConvertTest, LongReason_IsCutBetweenCharacters) {
  std::string reason(kReasonBytesMax - 1, 'x');
  reason += "\xc3\xa9 and more";
  const v1::UpdateVerdict proto =
      ToProto(federation::UpdateVerdict{federation::Verdict::kRefused, reason});
  EXPECT_EQ(proto.reason(), std::string(kReasonBytesMax - 1, 'x'));
}

TEST(ConvertTest, Reports_RoundTrip) {
  federation::ClientReport report;
  report.task_id = base::TaskId(3);
  report.what = federation::TrainingReport{0.5,
                                           100,
                                           0.25,
                                           2,
                                           absl::Seconds(1),
                                           absl::Seconds(2),
                                           absl::Milliseconds(500),
                                           absl::ZeroDuration(),
                                           {12.5, 80.25},
                                           "damaged"};
  report.counters.uplink = {1, 2, 3, std::nullopt, std::nullopt};
  report.counters.downlink = {4, 5, std::nullopt, 6, std::nullopt};
  auto back = FromProto(ToProto("s", report));
  ASSERT_TRUE(back.ok()) << back.status();
  const auto& training = std::get<federation::ClientReport>(*back);
  EXPECT_EQ(training.task_id, report.task_id);
  EXPECT_EQ(std::get<federation::TrainingReport>(training.what).train, absl::Seconds(2));
  EXPECT_EQ(std::get<federation::TrainingReport>(training.what).squared_norm, 2);
  EXPECT_EQ(std::get<federation::TrainingReport>(training.what).compute,
            (federation::ComputeUse{12.5, 80.25}));
  EXPECT_EQ(std::get<federation::TrainingReport>(training.what).model_repair, "damaged");
  EXPECT_EQ(training.counters.uplink.stream, 3u);
  EXPECT_EQ(training.counters.uplink.tcp, std::nullopt);
  EXPECT_EQ(training.counters.downlink.tcp, 6u);

  report.what = federation::EvaluationReport{1.5, 0.75, 10'000, absl::Seconds(1), absl::Seconds(4)};
  back = FromProto(ToProto("s", report));
  ASSERT_TRUE(back.ok()) << back.status();
  const auto& evaluation = std::get<federation::ClientReport>(*back);
  EXPECT_EQ(std::get<federation::EvaluationReport>(evaluation.what).compute,
            federation::ComputeUse());
  EXPECT_EQ(std::get<federation::EvaluationReport>(evaluation.what).accuracy, 0.75);

  back = FromProto(ToProto("s", federation::TaskFailure{base::TaskId(8), "out of memory"}));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(std::get<federation::TaskFailure>(*back).reason, "out of memory");
}

TEST(ConvertTest, HostileReport_IsRefusedByField) {
  ExpectRefused(FromProto(v1::ReportRequest()), "without contents");
  v1::ReportRequest request;
  request.mutable_training()->set_loss(kNan);
  ExpectRefused(FromProto(request), "training.loss");
  request.mutable_training()->set_loss(1);
  request.mutable_training()->set_train_s(-1);
  ExpectRefused(FromProto(request), "training.train_s");
  request.mutable_evaluation()->set_accuracy(1.5);
  ExpectRefused(FromProto(request), "evaluation.accuracy");
}

TEST(ConvertTest, Session_IsThirtyTwoHexadecimalDigits) {
  EXPECT_TRUE(SessionFromProto("0123456789abcdef0123456789ABCDEF").ok());
  ExpectRefused(SessionFromProto(""), "session");
  ExpectRefused(SessionFromProto(std::string(32, 'g')), "session");
}

}  // namespace
}  // namespace quantfl::rpc
