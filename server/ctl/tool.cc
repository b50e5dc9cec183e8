#include "server/ctl/tool.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/app/config.h"
#include "common/app/exit_codes.h"
#include "common/app/version.h"
#include "common/base/status.h"
#include "common/data/dataset.h"
#include "common/data/formats.h"
#include "common/federation/types.h"
#include "common/fetch/datasets.h"
#include "common/terminal/progress_line.h"
#include "server/ctl/certs.h"
#include "server/ctl/codec_files.h"
#include "server/ctl/compare.h"
#include "server/ctl/connect.h"
#include "server/ctl/inspect.h"
#include "server/ctl/make_report.h"
#include "server/ctl/new_token.h"
#include "server/ctl/table.h"
#include "server/ctl/watch.h"

namespace quantfl::ctl {
namespace {

constexpr uint64_t kInspectedBytesMax = uint64_t{64} << 30;
constexpr Table::Align kRight = Table::Align::kRight;

struct Partitions {
  std::string data_dir;
  std::string format = "idx";
  std::string kind = "dirichlet";
  federation::PartitionSpec spec;
};

void AddConnection(CLI::App& command, ConnectOptions& options) {
  command
      .add_option("--results-dir", options.results_dir,
                  "Results folder of the run; by default the newest one under runs/")
      ->type_name("DIR");
  command
      .add_option("--state-dir", options.state_dir,
                  "Its state folder, where that is not <results-dir>/state")
      ->type_name("DIR");
  command
      .add_option("--operator", options.address,
                  "Address of the operators' listener, instead of a folder")
      ->type_name("HOST:PORT");
  command
      .add_option("--token-file", options.token_file,
                  "The operators' token; by default the one in the state folder")
      ->type_name("FILE");
  command.add_option("--ca", options.ca, "PEM file to check the coordinator's certificate with")
      ->type_name("FILE");
  command
      .add_option("--certificate", options.certificate,
                  "PEM file with an operator's certificate, where the coordinator wants one")
      ->type_name("FILE");
  command.add_option("--key", options.key, "PEM file with its key")->type_name("FILE");
  command.add_option("--server-name", options.server_name, "Name in that certificate")
      ->type_name("NAME");
  command.add_flag("--allow-insecure", options.allow_insecure,
                   "Send the token in plain text to an address that is not loopback");
}

std::string StreamBytes(const federation::LevelBytes& levels) {
  return levels.stream.has_value() ? terminal::HumanBytes(*levels.stream) : "-";
}

std::string StatusText(const coordinator::RunStatus& status) {
  std::string out = absl::StrCat(HeaderText(status), RowTitles());
  for (const coordinator::RoundRecord& record : status.rounds) {
    // The line below speaks of the one under way.
    if (record.committed || !record.reason.empty() || IsOver(status)) out += RowText(record);
  }
  return absl::StrCat(out, NowText(status), "\n");
}

// Bytes are the TCP stream's; on a terminal of less than 100 columns they are all.
std::string ClientsText(const std::vector<coordinator::MemberStatus>& members, bool narrow) {
  std::vector<Table::Column> columns = {{"client"},        {"role"},           {"state"},
                                        {"round", kRight}, {"upload", kRight}, {"up", kRight},
                                        {"down", kRight}};
  if (!narrow) columns.insert(columns.end(), {{"payload up", kRight}, {"down", kRight}});
  Table table(std::move(columns));
  for (const coordinator::MemberStatus& m : members) {
    std::vector<std::string> cells = {
        m.name.ToString(),
        absl::StrCat(federation::ToString(m.role),
                     m.client_index ? absl::StrCat(" ", m.client_index->value()) : ""),
        m.state,
        m.last_round.value() > 0 ? absl::StrCat(m.last_round.value()) : "-",
        m.upload_chunks_total > 0 ? absl::StrCat(m.upload_chunks_done, "/", m.upload_chunks_total)
                                  : "-",
        StreamBytes(m.counters.uplink),
        StreamBytes(m.counters.downlink)};
    if (!narrow) {
      cells.push_back(terminal::HumanBytes(m.counters.uplink.payload));
      cells.push_back(terminal::HumanBytes(m.counters.downlink.payload));
    }
    table.AddRow(std::move(cells));
  }
  if (members.empty()) return "nobody has joined yet\n";
  std::string text = table.ToString();
  for (const coordinator::MemberStatus& m : members) {
    if (m.reason.empty()) continue;
    absl::StrAppend(&text, Printable(absl::StrCat(m.name.ToString(), ": ", m.reason)));
    if (m.quarantined_until) {
      absl::StrAppend(&text, "; until ",
                      absl::FormatTime(*m.quarantined_until, absl::LocalTimeZone()));
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

absl::StatusOr<std::string> PartitionsText(Partitions options, base::Env& env) {
  QFL_ASSIGN_OR_RETURN(options.spec.kind, federation::ParsePartitionKind(options.kind));
  QFL_ASSIGN_OR_RETURN(const data::Format format, data::ParseFormat(options.format));
  QFL_ASSIGN_OR_RETURN(const data::Dataset dataset,
                       data::LoadFolder(env, options.data_dir, format, data::Split::kTrain));
  QFL_ASSIGN_OR_RETURN(const auto partitions, data::Partition(dataset, options.spec));
  return data::PartitionTable(dataset.labels, partitions);
}

// The mistake in the first argument where that is no command. CLI11 would say that one is required.
std::string UnknownCommand(const CLI::App& cli, int argc, const char* const* argv) {
  if (argc < 2 || argv[1][0] == '-') return "";
  const std::string given = argv[1];
  std::string nearest;
  size_t distance = 3;
  for (const CLI::App* command : cli.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == given) return "";
    const size_t d = app::EditDistance(command->get_name(), given);
    if (d < distance) nearest = command->get_name(), distance = d;
  }
  return absl::StrCat("no command \"", Printable(given), "\"",
                      nearest.empty() ? "" : absl::StrCat(" (did you mean \"", nearest, "\"?)"));
}

// What a command's callback leaves: the program's end.
struct Outcome {
  absl::Status status;
  int code = app::kExitOk;  // where the status is OK
};

class Tool {
 public:
  Tool(base::Env& env, base::Clock& clock, std::FILE* out, std::FILE* error)
      : env_(env), clock_(clock), out_(out), error_(error) {}

  int Run(int argc, const char* const* argv) {
    CLI::App cli("Looks after a federated run, and makes and shows the files that one needs.",
                 "quantflctl");
    cli.set_version_flag("--version", absl::StrCat("quantflctl ", app::kVersion),
                         "Print the version and leave");
    cli.require_subcommand(1);
    cli.get_formatter()->column_width(34);
    DeclareRunCommands(cli);
    DeclareFileCommands(cli);
    DeclareCertCommands(cli);
    if (const std::string unknown = UnknownCommand(cli, argc, argv); !unknown.empty()) {
      std::fprintf(error_, "quantflctl: %s; see --help\n", unknown.c_str());
      return app::kExitUsage;
    }
    try {
      cli.parse(argc, argv);
    } catch (const CLI::Success& success) {
      return cli.exit(success);
    } catch (const CLI::ParseError& mistake) {
      std::fprintf(error_, "quantflctl: %s (see --help)\n", mistake.what());
      return app::kExitUsage;
    }
    if (outcome_.status.ok()) return outcome_.code;
    std::fprintf(error_, "quantflctl: %s\n",
                 Printable(std::string(outcome_.status.message())).c_str());
    return app::ExitCodeFor(outcome_.status);
  }

 private:
  void Print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), out_);
    std::fflush(out_);
  }
  void Print(const absl::StatusOr<std::string>& text) {
    outcome_.status = text.status();
    if (text.ok()) Print(*text);
  }

  void DeclareRunCommands(CLI::App& cli) {
    CLI::App& status = *cli.add_subcommand("status", "Show the run and its rounds so far");
    AddConnection(status, connect_);
    status.callback([this] {
      WithClient([this](rpc::OperatorClient& client) -> absl::Status {
        QFL_ASSIGN_OR_RETURN(const coordinator::RunStatus run, client.GetStatus());
        Print(StatusText(run));
        return absl::OkStatus();
      });
    });

    CLI::App& watch = *cli.add_subcommand(
        "watch", "Show the run as it goes on, until it ends; exit code 1 if it failed");
    AddConnection(watch, connect_);
    watch
        .add_option("--wait", wait_s_,
                    "Wait for the coordinator of --results-dir or --state-dir to be there")
        ->type_name("SECONDS")
        ->check(CLI::Range(0.0, 86'400.0));
    watch.callback([this] { WatchRun(); });

    CLI::App& clients = *cli.add_subcommand("clients", "List who has joined, and what they do");
    AddConnection(clients, connect_);
    clients.callback([this] {
      WithClient([this](rpc::OperatorClient& client) -> absl::Status {
        QFL_ASSIGN_OR_RETURN(const std::vector<coordinator::MemberStatus> members,
                             client.ListMembers());
        Print(ClientsText(members, isatty(fileno(out_)) == 1 && TerminalColumns(out_) < 100));
        return absl::OkStatus();
      });
    });

    for (const auto& [name, about, command] :
         {std::tuple<const char*, const char*, coordinator::RunCommand>{
              "pause", "Begin no further round", coordinator::RunCommand::kPause},
          {"resume", "Go on after pause", coordinator::RunCommand::kResume},
          {"stop", "End the run, keeping what is committed", coordinator::RunCommand::kStop}}) {
      CLI::App& subcommand = *cli.add_subcommand(name, about);
      AddConnection(subcommand, connect_);
      subcommand.callback([this, command = command] {
        WithClient([command](rpc::OperatorClient& client) { return client.Command(command); });
      });
    }

    CLI::App& evict = *cli.add_subcommand("evict", "Take a client out of the run");
    AddConnection(evict, connect_);
    evict.add_option("NAME", name_, "device/ordinal, as `clients` shows it")->required();
    evict.add_option("--reason", reason_, "What the client is told")->type_name("TEXT");
    evict.callback([this] {
      WithClient([this](rpc::OperatorClient& client) -> absl::Status {
        QFL_ASSIGN_OR_RETURN(const federation::ClientName name,
                             federation::ClientName::Parse(name_));
        return client.Evict(name, reason_);
      });
    });

    CLI::App& readmit =
        *cli.add_subcommand("readmit", "Let a client back in that was evicted or quarantined");
    AddConnection(readmit, connect_);
    readmit.add_option("NAME", name_, "device/ordinal, as `clients` shows it")->required();
    readmit.callback([this] {
      WithClient([this](rpc::OperatorClient& client) -> absl::Status {
        QFL_ASSIGN_OR_RETURN(const federation::ClientName name,
                             federation::ClientName::Parse(name_));
        return client.Readmit(name);
      });
    });
  }

  void DeclareFileCommands(CLI::App& cli) {
    CLI::App& compare =
        *cli.add_subcommand("compare", "Show what runs cost and bought, side by side");
    compare.add_option("RESULTS_DIR", folders_, "Results folders of runs that have ended")
        ->required();
    compare.callback([this] { Print(Compare(folders_, env_)); });

    CLI::App& report = *cli.add_subcommand(
        "report", "Make one page of runs: pictures, tables, and what repeats them");
    report.add_option("RESULTS_DIR", folders_, "Results folders of runs that have ended")
        ->required();
    report
        .add_option("--out", out_dir_,
                    "Folder for report.html and the tables; made where it is missing "
                    "[the results folder, where there is one]")
        ->type_name("DIR");
    report.callback([this] { Print(MakeReport(folders_, out_dir_, env_)); });

    CLI::App& inspect = *cli.add_subcommand(
        "inspect", "Show what is in a checkpoint (safetensors), an update file or a schema");
    inspect.add_option("FILE", file_, "The file")->required();
    inspect
        .add_option("--schema", schema_,
                    "For an update: the schema, or a checkpoint of the model that it is for")
        ->type_name("FILE");
    inspect.callback([this] { Print(InspectFiles()); });

    CLI::App& encode =
        *cli.add_subcommand("encode", "Encode the tensors of a safetensors file as an update file");
    encode.add_option("IN", file_, "The safetensors file, F32 tensors")->required();
    encode.add_option("OUT", out_file_, "The update file; replaced if it is there")->required();
    encode
        .add_option("--codec", encode_.codec,
                    "As codec.uplink, e.g. bu:16 or uniform,max_bytes=20000,pack=rans [fp32]")
        ->type_name("SPEC");
    encode
        .add_option("--schema", schema_,
                    "Which tensors travel, and how; by default those of the file, BatchNorm "
                    "statistics as fp32")
        ->type_name("FILE");
    encode.add_option("--seed", encode_.seed, "Of stochastic rounding [1]");
    encode.callback([this] { Print(EncodeFiles()); });

    CLI::App& decode = *cli.add_subcommand(
        "decode", "Decode an update file to a safetensors file with the tensors that travelled");
    decode.add_option("IN", file_, "The update file")->required();
    decode.add_option("OUT", out_file_, "The safetensors file; replaced if it is there")
        ->required();
    decode
        .add_option("--schema", schema_,
                    "The schema, or a checkpoint of the model that the update is for; not needed "
                    "for a built-in architecture")
        ->type_name("FILE");
    decode.callback([this] { Print(DecodeFiles()); });

    CLI::App& data = *cli.add_subcommand("data", "Data sets");
    data.require_subcommand(1);
    CLI::App& get = *data.add_subcommand("get", "Download a data set from its publisher");
    std::vector<std::string> names;
    for (const fetch::DatasetInfo& info : fetch::Datasets()) names.push_back(info.name);
    get.add_option("NAME", name_, absl::StrCat("One of: ", absl::StrJoin(names, ", ")))->required();
    get.add_option("--out", get_.folder, "Folder to write to; made where it is missing")
        ->type_name("DIR")
        ->required();
    get.add_option("--mirror", get_.mirror, "Address of a folder to take the files from instead")
        ->type_name("URL");
    get.callback([this] {
      absl::StatusOr<fetch::DatasetInfo> info = fetch::FindDataset(name_);
      if (info.ok()) {
        terminal::ProgressLine progress(out_, clock_);
        outcome_.status = fetch::GetDataset(*info, get_, env_, progress);
      } else {
        outcome_.status = info.status();
      }
    });

    CLI::App& partitions = *data.add_subcommand(
        "partitions", "Show how a run would cut a data set: a table of label counts");
    partitions.add_option("--data-dir", partitions_.data_dir, "Folder of the data set")
        ->type_name("DIR")
        ->required();
    partitions
        .add_option("--format", partitions_.format,
                    absl::StrCat("One of: ", absl::StrJoin(data::FormatNames(), ", "), " [idx]"))
        ->check(CLI::IsMember(data::FormatNames()));
    partitions.add_option("--partitions", partitions_.spec.partitions, "Clients")
        ->required()
        ->check(CLI::Range(1u, 1'000'000u));
    partitions
        .add_option("--partition", partitions_.kind,
                    "iid, dirichlet, shards or natural [dirichlet]")
        ->check(CLI::IsMember({"iid", "dirichlet", "shards", "natural"}));
    partitions.add_option("--alpha", partitions_.spec.alpha, "Of dirichlet [0.5]")
        ->check(CLI::Range(1e-6, 1e6));
    partitions
        .add_option("--shards-per-client", partitions_.spec.shards_per_client, "Of shards [2]")
        ->check(CLI::Range(1u, 1'000'000u));
    partitions.add_option("--seed", partitions_.spec.seed, "Of the cut [1]");
    partitions.add_option("--examples-max", partitions_.spec.examples_max,
                          "Cut the data set to so many after a seeded shuffle; 0: all [0]");
    partitions.callback([this] { Print(PartitionsText(partitions_, env_)); });

    CLI::App& token = *cli.add_subcommand("token", "Join tokens");
    token.require_subcommand(1);
    CLI::App& make = *token.add_subcommand(
        "new", "Make a device's token: prints it once and adds its hash to the tokens file");
    make.add_option("DEVICE", name_, "Its name: 1..64 of A-Z a-z 0-9 . _ -")->required();
    make.add_option("--role", role_, "trainer, evaluator or operator [trainer]")
        ->check(CLI::IsMember({"trainer", "evaluator", "operator"}));
    make.add_option("--tokens-file", file_, "The coordinator's server.tokens_file")
        ->type_name("FILE")
        ->required();
    make.callback([this] {
      absl::StatusOr<std::string> made = NewToken(name_, role_, file_, env_);
      Print(made.ok() ? absl::StrCat(*made, "\n") : std::move(made));
    });
  }

  void DeclareCertCommands(CLI::App& cli) {
    CLI::App& group =
        *cli.add_subcommand("certs", "A test bed's own certificates, for server.tls = \"mtls\"");
    group.require_subcommand(1);
    const auto add_folder = [this](CLI::App& command) {
      command.add_option("--dir", certs_.folder, "Folder of the authority [certs]")
          ->type_name("DIR");
    };
    const auto add_days = [this](CLI::App& command, const std::string& otherwise) {
      command.add_option("--days", certs_.days, absl::StrCat("Validity [", otherwise, "]"))
          ->check(CLI::Range(1e-6, 36'500.0));
    };
    CLI::App& init =
        *group.add_subcommand("init", "Make an authority and the server's certificate");
    add_folder(init);
    add_days(init, "3650 for the authority, 397 for the server");
    init.add_option("--server", names_,
                    "Names and addresses by which clients dial the coordinator; loopback's are "
                    "always in it")
        ->type_name("NAME");
    init.add_option("--name", name_, "Of the authority [QuantFL test bed]")->type_name("TEXT");
    init.callback([this] {
      Print(
          InitCerts(certs_, name_.empty() ? "QuantFL test bed" : name_, names_, env_, absl::Now()));
    });
    CLI::App& issue = *group.add_subcommand(
        "issue", "Make a certificate for each device, operator, or all names of a server");
    issue.add_option("NAME", names_, "Devices: 1..64 of A-Z a-z 0-9 . _ -")->required();
    add_folder(issue);
    add_days(issue, "365; a server's 397");
    issue.add_option("--role", role_, "trainer, evaluator, operator or server [trainer]")
        ->check(CLI::IsMember({"trainer", "evaluator", "operator", "server"}));
    issue.add_flag("--renew", renew_, "Replace what is there; it stays valid until it is revoked");
    issue.callback([this] { Print(IssueCerts(certs_, role_, names_, renew_, env_, absl::Now())); });
    CLI::App& revoke = *group.add_subcommand(
        "revoke", "Have a coordinator that runs, and every later one, let certificates in no more");
    revoke.add_option("NAME", names_, "Names, or serials as `certs show` prints them")->required();
    add_folder(revoke);
    revoke.add_option("--reason", reason_, "Kept in revoked.txt")->type_name("TEXT");
    revoke.callback(
        [this] { Print(RevokeCerts(certs_.folder, names_, reason_, env_, absl::Now())); });
    CLI::App& show =
        *group.add_subcommand("show", "List a folder's certificates, or show what one says");
    show.add_option("PATH", file_, "A folder, or a certificate's PEM file [certs]");
    show.callback(
        [this] { Print(ShowCerts(file_.empty() ? certs_.folder : file_, env_, absl::Now())); });
  }

  void WithClient(const std::function<absl::Status(rpc::OperatorClient&)>& work) {
    const absl::StatusOr<Connection> connection = Connect(connect_, env_);
    outcome_.status = connection.ok() ? work(*connection->client) : connection.status();
  }

  void WatchRun() {
    connect_.wait = absl::Seconds(wait_s_);
    const absl::StatusOr<Connection> connection = Connect(connect_, env_);
    if (!connection.ok()) {
      outcome_.status = connection.status();
      return;
    }
    if (!connection->web.empty()) Print(absl::StrCat("live page: ", connection->web, "\n"));
    const absl::StatusOr<coordinator::RunStatus> end =
        Watch(*connection->client, out_, isatty(fileno(out_)) == 1,
              [&]() -> absl::StatusOr<coordinator::RunStatus> {
                if (connection->results_dir.empty())
                  return absl::NotFoundError("no results folder");
                return EndOfRun(connection->results_dir, env_);
              });
    outcome_.status = end.status();
    if (end.ok() && end->state == "failed") outcome_.code = app::kExitRunFailed;
  }

  // Of --schema; empty without.
  absl::StatusOr<std::string> ReadSchema() {
    if (schema_.empty()) return std::string();
    return env_.ReadFile(schema_, kInspectedBytesMax);
  }

  absl::StatusOr<std::string> InspectFiles() {
    QFL_ASSIGN_OR_RETURN(const std::string bytes, env_.ReadFile(file_, kInspectedBytesMax));
    QFL_ASSIGN_OR_RETURN(const std::string schema, ReadSchema());
    return Inspect(file_, bytes, schema);
  }

  absl::StatusOr<std::string> EncodeFiles() {
    QFL_ASSIGN_OR_RETURN(const std::string bytes, env_.ReadFile(file_, kInspectedBytesMax));
    QFL_ASSIGN_OR_RETURN(encode_.schema, ReadSchema());
    absl::StatusOr<EncodedFile> encoded = EncodeFile(bytes, encode_);
    QFL_RETURN_IF_ERROR(base::Annotate(encoded.status(), file_));
    QFL_RETURN_IF_ERROR(env_.WriteFileAtomically(out_file_, encoded->bytes));
    return std::move(encoded->summary);
  }

  absl::StatusOr<std::string> DecodeFiles() {
    QFL_ASSIGN_OR_RETURN(const std::string bytes, env_.ReadFile(file_, kInspectedBytesMax));
    QFL_ASSIGN_OR_RETURN(const std::string schema, ReadSchema());
    const absl::StatusOr<std::string> decoded = DecodeFile(bytes, schema);
    QFL_RETURN_IF_ERROR(base::Annotate(decoded.status(), file_));
    QFL_RETURN_IF_ERROR(env_.WriteFileAtomically(out_file_, *decoded));
    return std::string();
  }

  base::Env& env_;
  base::Clock& clock_;
  std::FILE* const out_;
  std::FILE* const error_;
  Outcome outcome_;

  // What the arguments set.
  ConnectOptions connect_;
  double wait_s_ = 0;
  std::string name_, reason_, file_, out_file_, schema_, out_dir_, role_ = "trainer";
  std::vector<std::string> folders_, names_;
  CertsOptions certs_{"certs"};
  bool renew_ = false;
  fetch::GetDatasetOptions get_;
  EncodeOptions encode_;
  Partitions partitions_;
};

}  // namespace

int RunTool(int argc, const char* const* argv, base::Env& env, base::Clock& clock, std::FILE* out,
            std::FILE* error) {
  return Tool(env, clock, out, error).Run(argc, argv);
}

}  // namespace quantfl::ctl
