#ifndef QUANTFL_CLIENT_CLIENT_CONFIG_H_
#define QUANTFL_CLIENT_CLIENT_CONFIG_H_

// client.toml: a client daemon on a device. The keys, their ranges and their defaults are declared
// in client_config.cc and shown by `quantfl-client --help`.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/daemon/daemon.h"
#include "common/app/config.h"
#include "common/app/logging.h"
#include "common/base/digest.h"

namespace quantfl {

struct ClientConfig {
  std::string coordinator;
  std::string role = "trainer";
  daemon::DaemonOptions daemon;  // device: the host's name where it can be a device's

  std::string tls = "off";  // "off", "token", "mtls"
  std::string ca;
  std::string certificate;
  std::string private_key;
  std::string token_file;
  std::string server_name;
  bool allow_insecure = false;
  absl::Duration progress_timeout = absl::Seconds(60);

  std::string data_dir;
  std::string data_format = "idx";
  double holdout = 0;
  bool test_split = false;

  std::vector<std::string> torchscript_files;
  std::vector<std::string> torchscript_allow;  // 64 hexadecimal digits each

  std::string cache_mode = "memory";  // "off", "memory", "file"
  uint64_t cache_bytes_max = uint64_t{1} << 30;
  app::LogOptions log;

  // With tls.mode "mtls", before ResolveDefaults: the device is the certificate's, whose PEM text
  // `certificate_pem` is. INVALID_ARGUMENT naming both where `device` was set to another (one
  // that is not `host_name`), or where the role is not the certificate's.
  absl::Status TakeIdentity(absl::string_view certificate_pem, const std::string& host_name);
  // What depends on other keys. Call once, after Load.
  void ResolveDefaults();
  // torchscript_allow, which Load has checked.
  std::vector<base::Digest> TorchScriptAllowed() const;
};

// Declares every key of client.toml with `c`'s fields as targets and defaults.
//   host_name  of this machine, the default device; may be anything
void DeclareClientConfig(app::Config& config, ClientConfig* c, const std::string& host_name);

}  // namespace quantfl

#endif  // QUANTFL_CLIENT_CLIENT_CONFIG_H_
