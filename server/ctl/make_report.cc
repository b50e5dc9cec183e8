#include "server/ctl/make_report.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/app/version.h"
#include "common/base/status.h"
#include "server/report/report.h"

namespace quantfl::ctl {
namespace {

constexpr uint64_t kCsvBytesMax = uint64_t{1} << 30;
constexpr char kClientRounds[] = "client_rounds.csv";

// "runs/a" and "runs/a/" are one folder.
std::string Trimmed(absl::string_view folder) {
  while (folder.size() > 1 && absl::ConsumeSuffix(&folder, "/")) {
  }
  return std::string(folder);
}

absl::Status JoinCsvFiles(const std::vector<std::string>& folders, const std::string& name,
                          const std::string& out_dir, base::Env& env) {
  std::vector<report::NamedCsv> files;
  for (const std::string& folder : folders) {
    // Earlier versions wrote no client_rounds.csv.
    if (!env.Exists(absl::StrCat(folder, "/", name)) && name == kClientRounds) continue;
    QFL_ASSIGN_OR_RETURN(std::string csv,
                         env.ReadFile(absl::StrCat(folder, "/", name), kCsvBytesMax));
    files.push_back({folder, std::move(csv)});
  }
  if (files.empty()) return absl::OkStatus();
  QFL_ASSIGN_OR_RETURN(const std::string joined, report::JoinCsv(files));
  return env.WriteFileAtomically(absl::StrCat(out_dir, "/", name), joined);
}

}  // namespace

absl::StatusOr<std::string> MakeReport(const std::vector<std::string>& results_dirs,
                                       const std::string& out_dir, base::Env& env) {
  std::vector<std::string> folders;
  for (const std::string& folder : results_dirs) folders.push_back(Trimmed(folder));
  const bool one = folders.size() == 1;
  const std::string out = out_dir.empty() && one ? folders[0] : Trimmed(out_dir);
  if (out.empty()) {
    return absl::InvalidArgumentError(
        "several runs in one page: say with --out which folder it goes to");
  }
  std::vector<report::RunRecords> runs;
  for (const std::string& folder : folders) {
    // Its rounds.csv would be overwritten by that of all of them.
    if (!one && folder == out) {
      return absl::InvalidArgumentError(
          absl::StrCat("--out ", out, " is the results folder of one of the runs: choose another"));
    }
    QFL_ASSIGN_OR_RETURN(report::RunRecords run, report::LoadRun(env, folder));
    runs.push_back(std::move(run));
  }
  QFL_ASSIGN_OR_RETURN(const std::string page, report::Page(runs, app::kVersion));
  QFL_RETURN_IF_ERROR(env.CreateDirs(out));
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(absl::StrCat(out, "/report.html"), page));
  if (!one) {
    for (const char* name : {"rounds.csv", "clients.csv", kClientRounds}) {
      QFL_RETURN_IF_ERROR(JoinCsvFiles(folders, name, out, env));
    }
  }
  return absl::StrCat(out, "/report.html\n");
}

}  // namespace quantfl::ctl
