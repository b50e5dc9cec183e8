#ifndef QUANTFL_SERVER_RUN_CONFIG_H_
#define QUANTFL_SERVER_RUN_CONFIG_H_

// run.toml: one run of the coordinator. The keys, their ranges and their defaults are declared in
// run_config.cc and shown by `quantfl-coordinator --help`.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/app/config.h"
#include "common/app/logging.h"
#include "common/federation/types.h"
#include "server/coordinator/coordinator.h"

namespace quantfl {

inline constexpr char kCustomArchitecture[] = "custom";
inline constexpr char kTorchScriptArchitecture[] = "torchscript";

struct RunConfig {
  std::string name = "run";
  uint64_t seed = 1;
  std::string results_dir;  // ResolveDefaults
  std::string state_dir;    // ResolveDefaults

  std::string listen = "127.0.0.1:7447";
  std::string operator_listen = "127.0.0.1:7448";
  std::string tls = "off";  // "off", "token", "mtls"
  std::string certificate;
  std::string private_key;
  std::string tokens_file;
  std::string client_ca;
  std::string revoked_file;
  std::string operator_token_file;  // ResolveDefaults
  bool allow_insecure = false;
  uint32_t max_connections = 4096;
  uint32_t max_connections_per_host = 1024;
  uint64_t transport_bytes_max = uint64_t{256} << 20;
  uint32_t max_concurrent_uploads = 64;
  uint32_t decode_errors_max = 3;
  absl::Duration quarantine = absl::Hours(1);
  uint32_t sessions_per_device_max = 10'000;
  double joins_per_second = 500, joins_per_second_of_device = 20;
  uint64_t disk_free_min_bytes = uint64_t{256} << 20;
  uint32_t streams_per_connection = 16;
  uint32_t streams_per_client = 16;
  absl::Duration handshake_timeout = absl::Seconds(20);
  absl::Duration connection_idle = absl::Minutes(5);

  bool web = true;
  std::string web_listen = "127.0.0.1:7449";
  bool web_allow_remote = false;
  uint32_t web_streams_max = 16;

  std::string architecture = "lenet5";
  uint32_t classes = 10;
  std::string model_file;
  std::vector<double> input_mean;                     // empty: the checkpoint's
  std::vector<double> input_stddev;                   // empty: the checkpoint's
  std::optional<uint32_t> input_height, input_width;  // none: the checkpoint's
  federation::AugmentSpec augment;
  uint32_t input_channels = 0;  // ResolveInput

  std::string partition = "iid";
  federation::PartitionSpec partition_spec;
  std::string trainable = "all";  // model::ApplyTrainable
  bool freeze_bn = false;         // model::FreezeStatistics
  federation::TrainingSpec training;
  std::string optimiser = "sgd";
  std::string schedule = "constant";
  coordinator::LearningRateSchedule schedule_spec;
  std::string cache_dtype = "fp16";
  uint32_t max_examples = 1u << 20;
  std::string uplink = "bu:16";
  std::string downlink = "fp32";
  uint32_t steps_kept = 8;
  bool allow_divergent = false;
  std::string budget_level = "stream";
  coordinator::BudgetOptions budget;
  ledger::EnergyModel energy;
  std::string server_optimiser = "fedavg";
  std::optional<double> server_learning_rate;  // none: DefaultServerLearningRate
  aggregation::ServerOptimiserSpec server_optimiser_spec;
  round::RoundPolicy round;
  aggregation::BoundSpec bound;
  std::string selection = "uniform";
  bool evaluate = true;
  std::string early_stop_watch = "auto";
  app::LogOptions log;

  // The folders that depend on others. Call once, after Load.
  void ResolveDefaults();
  // Fills what the keys of [input] leave open: from the checkpoint's metadata, else from what is
  // known of the architecture. Call once, after Load. Errors of data::ReadInputMetadata, and of
  // federation::ValidateInput where keys and checkpoint do not go together.
  absl::Status ResolveInput(const std::map<std::string, std::string>& metadata);
  // What the engine is given. The values were checked by Load.
  coordinator::RunOptions Options() const;
};

// Declares every key of run.toml with `c`'s fields as targets and defaults.
void DeclareRunConfig(app::Config& config, RunConfig* c);

// "host:port", "[::1]:port", ":port"; port 0..65535. INVALID_ARGUMENT with what is expected. Asks
// no resolver.
absl::Status CheckAddress(absl::string_view text);

}  // namespace quantfl

#endif  // QUANTFL_SERVER_RUN_CONFIG_H_
