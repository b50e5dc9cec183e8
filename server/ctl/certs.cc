#include "server/ctl/certs.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/app/lock_file.h"
#include "common/base/status.h"
#include "common/certs/authority.h"
#include "common/certs/certificate.h"
#include "server/ctl/table.h"

namespace quantfl::ctl {
namespace {

using certs::Certificate;
using certs::KeyPair;

constexpr uint64_t kFileBytesMax = 32u << 20;
constexpr int kOwnerOnly = 0600;
constexpr int kEverybody = 0644;
constexpr char kServer[] = "server";
constexpr double kAuthorityDays = 3650, kServerDays = 397, kClientDays = 365;
constexpr size_t kSerialDigitsMin = 16;

std::string In(const std::string& folder, absl::string_view name) {
  return absl::StrCat(folder, "/", name);
}
std::string Day(absl::Time time) { return absl::FormatTime("%Y-%m-%d", time, absl::UTCTimeZone()); }
std::string Second(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}
absl::Duration Validity(const CertsOptions& options, double days) {
  return absl::Hours(24) * (options.days == 0 ? days : options.days);
}

absl::StatusOr<std::string> ReadOr(base::Env& env, const std::string& file,
                                   absl::string_view otherwise) {
  if (!env.Exists(file)) return std::string(otherwise);
  return env.ReadFile(file, kFileBytesMax);
}

// A line of issued.txt.
struct Issued {
  std::string serial, role, name, until;
};

absl::StatusOr<std::vector<Issued>> ReadIssued(const std::string& folder, base::Env& env) {
  const std::string file = In(folder, "issued.txt");
  QFL_ASSIGN_OR_RETURN(const std::string text, ReadOr(env, file, ""));
  std::vector<Issued> result;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.empty() || line.front() == '#') continue;
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() != 4) {
      return absl::DataLossError(absl::StrCat(
          file, ": a line with ", fields.size(),
          " fields; expected serial, role, name and end, as `quantflctl certs issue` writes them"));
    }
    result.push_back({fields[0], fields[1], fields[2], fields[3]});
  }
  return result;
}

absl::Status AppendLine(const std::string& file, absl::string_view title, absl::string_view line,
                        base::Env& env) {
  QFL_ASSIGN_OR_RETURN(std::string text, ReadOr(env, file, title));
  if (!text.empty() && text.back() != '\n') text += '\n';
  absl::StrAppend(&text, line, "\n");
  return env.WriteFileAtomically(file, text, kEverybody);
}

constexpr absl::string_view kRevokedTitle =
    "# Serials that the coordinator does not let in any more (server.revoked_file).\n";

absl::Status Keep(const std::string& folder, const std::string& name, const std::string& role,
                  const std::string& whose, const KeyPair& pair, base::Env& env) {
  QFL_ASSIGN_OR_RETURN(const Certificate made, certs::ReadCertificate(pair.certificate, name));
  // First the register: what is in nobody's hands can be revoked too.
  QFL_RETURN_IF_ERROR(AppendLine(
      In(folder, "issued.txt"), "# serial role name valid_until\n",
      absl::StrCat(made.serial, " ", role, " ", whose, " ", Second(made.not_after)), env));
  QFL_RETURN_IF_ERROR(
      env.WriteFileAtomically(In(folder, name + ".key"), pair.private_key, kOwnerOnly));
  return env.WriteFileAtomically(In(folder, name + ".pem"), pair.certificate, kEverybody);
}

absl::StatusOr<KeyPair> ReadAuthority(const std::string& folder, base::Env& env) {
  KeyPair authority;
  for (const auto& [name, text] :
       {std::pair("ca.pem", &authority.certificate), std::pair("ca.key", &authority.private_key)}) {
    absl::StatusOr<std::string> read = env.ReadFile(In(folder, name), kFileBytesMax);
    if (absl::IsNotFound(read.status())) {
      return absl::NotFoundError(absl::StrCat(
          folder, " has no ", name, ": make an authority first (quantflctl certs init --dir ",
          folder, " --server NAME)"));
    }
    QFL_RETURN_IF_ERROR(read.status());
    *text = *std::move(read);
  }
  QFL_RETURN_IF_ERROR(certs::CheckKey(authority.certificate, In(folder, "ca.pem"),
                                      authority.private_key, In(folder, "ca.key")));
  return authority;
}

std::string ServerLines(const std::string& folder) {
  return absl::StrCat("for run.toml:\n[server]\ntls = \"mtls\"\ncertificate = \"", folder,
                      "/server.pem\"\nprivate_key = \"", folder, "/server.key\"\nclient_ca = \"",
                      folder, "/ca.pem\"\nrevoked_file = \"", folder, "/revoked.txt\"\n");
}

std::string ClientLines(const std::string& name) {
  return absl::StrCat("for client.toml, with ca.pem, ", name, ".pem and ", name,
                      ".key beside it:\n[tls]\nmode = \"mtls\"\nca = \"ca.pem\"\ncertificate = \"",
                      name, ".pem\"\nprivate_key = \"", name, ".key\"\n");
}

std::string StateOf(const std::string& serial, absl::Time until, const certs::DenyList& denied,
                    absl::Time now) {
  if (denied.Contains(serial)) return "revoked";
  return until < now ? "expired" : "valid";
}

absl::StatusOr<certs::DenyList> ReadDenied(const std::string& folder, base::Env& env) {
  const std::string file = In(folder, "revoked.txt");
  QFL_ASSIGN_OR_RETURN(const std::string text, ReadOr(env, file, ""));
  return certs::DenyList::Parse(text, file);
}

absl::StatusOr<std::string> ShowFolder(const std::string& folder, base::Env& env, absl::Time now) {
  QFL_ASSIGN_OR_RETURN(const std::vector<Issued> issued, ReadIssued(folder, env));
  QFL_ASSIGN_OR_RETURN(const certs::DenyList denied, ReadDenied(folder, env));
  if (issued.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, " has no issued.txt: no certificate was made there"));
  }
  Table table({{"name"}, {"role"}, {"state"}, {"until"}, {"serial"}});
  for (const Issued& one : issued) {
    absl::Time until;
    std::string error;
    if (!absl::ParseTime(absl::RFC3339_full, one.until, &until, &error)) {
      return absl::DataLossError(
          absl::StrCat(In(folder, "issued.txt"), ": \"", one.until, "\" is no time"));
    }
    table.AddRow({Printable(one.name), Printable(one.role), StateOf(one.serial, until, denied, now),
                  Day(until), Printable(one.serial)});
  }
  return table.ToString();
}

absl::StatusOr<std::string> ShowFile(const std::string& file, const std::string& pem,
                                     absl::Time now) {
  QFL_ASSIGN_OR_RETURN(const Certificate shown, certs::ReadCertificate(pem, file));
  const absl::StatusOr<certs::Identity> identity = shown.TheIdentity();
  std::string whose = "nobody (no quantfl:// name)";
  if (shown.is_authority) whose = "an authority";
  if (identity.ok()) {
    whose = absl::StrCat(identity->device, ", role ", identity->RoleName());
  }
  return absl::StrCat("of       ", Printable(whose), "\nnames    ",
                      Printable(absl::StrJoin(shown.names, ", ")), "\nsubject  ",
                      Printable(shown.subject), "\nissuer   ", Printable(shown.issuer),
                      "\nserial   ", shown.serial, "\nvalid    ", Second(shown.not_before), " to ",
                      Second(shown.not_after), shown.not_after < now ? "  (expired)" : "", "\n");
}

}  // namespace

absl::StatusOr<std::string> InitCerts(const CertsOptions& options, const std::string& name,
                                      const std::vector<std::string>& servers, base::Env& env,
                                      absl::Time now) {
  QFL_ASSIGN_OR_RETURN(const KeyPair authority,
                       certs::MakeAuthority(name, Validity(options, kAuthorityDays), now));
  std::vector<std::string> names = servers;
  for (const char* local : {"localhost", "127.0.0.1", "::1"}) {
    if (std::find(names.begin(), names.end(), local) == names.end()) names.push_back(local);
  }
  QFL_ASSIGN_OR_RETURN(const KeyPair server,
                       certs::IssueServer(authority, names, Validity(options, kServerDays), now));
  QFL_RETURN_IF_ERROR(env.CreateDirs(options.folder));
  QFL_ASSIGN_OR_RETURN(const auto lock, app::LockFile::Acquire(options.folder));
  for (const char* file : {"ca.key", "ca.pem"}) {
    if (env.Exists(In(options.folder, file))) {
      return absl::AlreadyExistsError(absl::StrCat(
          In(options.folder, file),
          " is there: certificates of a new authority would not go with "
          "those of this one; use another folder, or `certs issue` with this authority"));
    }
  }
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(In(options.folder, "revoked.txt"), kRevokedTitle));
  QFL_RETURN_IF_ERROR(
      env.WriteFileAtomically(In(options.folder, "ca.key"), authority.private_key, kOwnerOnly));
  QFL_RETURN_IF_ERROR(
      env.WriteFileAtomically(In(options.folder, "ca.pem"), authority.certificate, kEverybody));
  QFL_RETURN_IF_ERROR(Keep(options.folder, kServer, kServer, names.front(), server, env));
  return absl::StrCat("made ", options.folder, "/ca.pem, and a certificate for ",
                      absl::StrJoin(names, ", "), "\n", ServerLines(options.folder));
}

absl::StatusOr<std::string> IssueCerts(const CertsOptions& options, const std::string& role,
                                       const std::vector<std::string>& names, bool renew,
                                       base::Env& env, absl::Time now) {
  QFL_ASSIGN_OR_RETURN(const KeyPair authority, ReadAuthority(options.folder, env));
  QFL_ASSIGN_OR_RETURN(const auto lock, app::LockFile::Acquire(options.folder));
  std::vector<std::pair<std::string, KeyPair>> made;
  if (role == kServer) {
    QFL_ASSIGN_OR_RETURN(KeyPair pair,
                         certs::IssueServer(authority, names, Validity(options, kServerDays), now));
    made.emplace_back(kServer, std::move(pair));
  } else {
    for (const std::string& name : names) {
      if (name == "ca" || name == kServer) {
        return absl::InvalidArgumentError(
            absl::StrCat("the name \"", name, "\" is that of a file of the folder's own"));
      }
      const absl::StatusOr<certs::Identity> identity = certs::Identity::Make(role, name);
      if (!identity.ok()) {
        return base::Annotate(identity.status(), absl::StrCat("\"", Printable(name), "\""));
      }
      QFL_ASSIGN_OR_RETURN(KeyPair pair, certs::IssueClient(authority, *identity,
                                                            Validity(options, kClientDays), now));
      made.emplace_back(name, std::move(pair));
    }
  }
  for (const auto& [file, pair] : made) {
    if (!renew && env.Exists(In(options.folder, file + ".pem"))) {
      return absl::AlreadyExistsError(
          absl::StrCat(In(options.folder, file + ".pem"), " is there; --renew makes another"));
    }
  }
  for (const auto& [file, pair] : made) {
    QFL_RETURN_IF_ERROR(
        Keep(options.folder, file, role, role == kServer ? names.front() : file, pair, env));
  }
  std::string text;
  for (const auto& [file, pair] : made) {
    absl::StrAppend(&text, "made ", options.folder, "/", file, ".pem\n");
  }
  const bool is_client = role != kServer && role != "operator";
  if (is_client) absl::StrAppend(&text, ClientLines(made.front().first));
  return text;
}

absl::StatusOr<std::string> RevokeCerts(const std::string& folder,
                                        const std::vector<std::string>& what,
                                        const std::string& reason, base::Env& env, absl::Time now) {
  QFL_RETURN_IF_ERROR(ReadAuthority(folder, env).status());
  QFL_ASSIGN_OR_RETURN(const auto lock, app::LockFile::Acquire(folder));
  QFL_ASSIGN_OR_RETURN(const std::vector<Issued> issued, ReadIssued(folder, env));
  QFL_ASSIGN_OR_RETURN(const certs::DenyList denied, ReadDenied(folder, env));
  std::string lines, text;
  const auto add = [&](const std::string& serial, const std::string& whose) {
    if (denied.Contains(serial)) {
      absl::StrAppend(&text, serial, " ", whose, ": was revoked before\n");
      return;
    }
    absl::StrAppend(&lines, serial, " ", whose, " ", Day(now), reason.empty() ? "" : " ",
                    Printable(reason), "\n");
    absl::StrAppend(&text, serial, " ", whose, ": revoked\n");
  };
  for (const std::string& one : what) {
    bool found = false;
    for (const Issued& entry : issued) {
      if (entry.name != one && entry.serial != one) continue;
      add(entry.serial, entry.name);
      found = true;
    }
    const bool is_serial = one.size() >= kSerialDigitsMin && certs::DenyList::Parse(one, "").ok();
    if (!found && !is_serial) {
      return absl::NotFoundError(
          absl::StrCat("no certificate of \"", Printable(one), "\" was made in ", folder,
                       "; `quantflctl certs show ", folder, "` lists them. A serial has ",
                       kSerialDigitsMin, " hexadecimal digits or more"));
    }
    if (!found) add(one, "-");
  }
  if (!lines.empty()) {
    lines.pop_back();
    QFL_RETURN_IF_ERROR(AppendLine(In(folder, "revoked.txt"), kRevokedTitle, lines, env));
  }
  return absl::StrCat(text, "a coordinator that has ", folder,
                      "/revoked.txt as server.revoked_file reads it within seconds\n");
}

absl::StatusOr<std::string> ShowCerts(const std::string& path, base::Env& env, absl::Time now) {
  if (env.Exists(In(path, "issued.txt"))) return ShowFolder(path, env, now);
  const absl::StatusOr<std::string> pem = env.ReadFile(path, kFileBytesMax);
  if (absl::IsInvalidArgument(pem.status()))
    return ShowFolder(path, env, now);  // says what a folder lacks
  QFL_RETURN_IF_ERROR(pem.status());
  return ShowFile(path, *pem, now);
}

}  // namespace quantfl::ctl
