#ifndef QUANTFL_SERVER_CTL_CERTS_H_
#define QUANTFL_SERVER_CTL_CERTS_H_

// A test bed's certificates in one folder:
//   ca.pem ca.key          the authority; the key signs, and stays where it is
//   server.pem server.key  the coordinator's
//   NAME.pem NAME.key      a device's or an operator's, to be taken there
//   issued.txt             every certificate that was made: serial, role, name, last day
//   revoked.txt            serials that are not let in any more: server.revoked_file
// Keys have mode 0600; every file is written atomically; one process at a time works on a folder.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/env.h"

namespace quantfl::ctl {

struct CertsOptions {
  std::string folder;
  double days = 0;  // 0: 3650 for an authority, 397 for a server, 365 for others
};

// What each returns is for people: what was made, and the lines of configuration that use it.

// Makes the folder, the authority and the server's certificate.
//   servers  the coordinator's names and addresses as clients dial them; loopback's are added
// ALREADY_EXISTS if the folder has an authority.
absl::StatusOr<std::string> InitCerts(const CertsOptions& options, const std::string& name,
                                      const std::vector<std::string>& servers, base::Env& env,
                                      absl::Time now);

// One for each name, or, with role "server", one for all of them together.
//   role   "trainer", "evaluator", "operator" or "server"
//   renew  whether to replace a certificate that is there; it stays valid until it is revoked
// NOT_FOUND: no authority; ALREADY_EXISTS naming the file; INVALID_ARGUMENT. Nothing is written
// unless every name is right.
absl::StatusOr<std::string> IssueCerts(const CertsOptions& options, const std::string& role,
                                       const std::vector<std::string>& names, bool renew,
                                       base::Env& env, absl::Time now);

//   what  names, for every certificate that they have, or serials
// NOT_FOUND naming what is neither; nothing is written then.
absl::StatusOr<std::string> RevokeCerts(const std::string& folder,
                                        const std::vector<std::string>& what,
                                        const std::string& reason, base::Env& env, absl::Time now);

// The table of a folder, or what a certificate's file says.
absl::StatusOr<std::string> ShowCerts(const std::string& path, base::Env& env, absl::Time now);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_CERTS_H_
