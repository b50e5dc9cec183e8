#ifndef QUANTFL_SERVER_RUN_CONFIG_H_
#define QUANTFL_SERVER_RUN_CONFIG_H_

// run.toml: one run of the coordinator. The keys, their ranges and their defaults are declared in
// run_config.cc and shown by `quantfl-coordinator --help`.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/app/config.h"
#include "common/app/logging.h"
#include "common/federation/types.h"
#include "server/coordinator/coordinator.h"

namespace quantfl {

inline constexpr char kCustomArchitecture[] = "custom";

struct RunConfig {
  std::string name = "run";
  uint64_t seed = 1;
  std::string results_dir;  // ResolveDefaults
  std::string state_dir;    // ResolveDefaults

  std::string listen = "127.0.0.1:7447";
  std::string operator_listen = "127.0.0.1:7448";
  std::string tls = "off";  // "off", "token"
  std::string certificate;
  std::string private_key;
  std::string tokens_file;
  std::string operator_token_file;  // ResolveDefaults
  bool allow_insecure = false;
  uint32_t max_connections = 4096;
  uint32_t max_connections_per_host = 1024;
  uint64_t transport_bytes_max = uint64_t{256} << 20;
  uint32_t max_concurrent_uploads = 64;
  uint32_t decode_errors_max = 3;

  std::string architecture = "lenet5";
  uint32_t classes = 10;
  std::string model_file;
  std::optional<double> input_mean;    // none: the checkpoint's
  std::optional<double> input_stddev;  // none: the checkpoint's

  std::string partition = "iid";
  federation::PartitionSpec partition_spec;
  std::string trainable = "all";  // model::ApplyTrainable
  federation::TrainingSpec training;
  uint32_t max_examples = 1u << 20;
  std::string uplink = "bu:16";
  round::RoundPolicy round;
  bool evaluate = true;
  app::LogOptions log;

  // The folders that depend on others. Call once, after Load.
  void ResolveDefaults();
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
