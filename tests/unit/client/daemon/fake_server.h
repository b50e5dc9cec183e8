#ifndef QUANTFL_TESTS_UNIT_CLIENT_DAEMON_FAKE_SERVER_H_
#define QUANTFL_TESTS_UNIT_CLIENT_DAEMON_FAKE_SERVER_H_

// A coordinator of a few lines, for the daemon's tests: it says what the test tells it to say, and
// writes down what it was asked. Answers go out through an executor. Thread-safe.

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/daemon/transport.h"
#include "common/base/executor.h"
#include "common/base/mutex.h"

namespace quantfl::daemon {

class FakeServer {
 public:
  explicit FakeServer(base::Executor& answers) : answers_(answers) {}

  federation::RunDescriptor run;
  absl::Status join_error, fetch_error;
  uint64_t cut_fetch_after = UINT64_MAX;  // bytes of the next Fetch, once
  bool flip_bits = false;                 // of what is fetched
  bool endless = false;                   // a fetch that never stops
  bool hold_uploads = false;              // never answered

  base::Digest AddArtifact(std::string bytes) {
    base::MutexLock lock(mutex_);
    const base::Digest digest = base::Sha256(bytes);
    artifacts_[digest] = std::move(bytes);
    return digest;
  }
  // To every stream, open or still to come.
  void Tell(federation::Instruction instruction) {
    base::MutexLock lock(mutex_);
    current_ = instruction;
    for (const auto& [ordinal, next] : streams_) {
      answers_.Post([next = next, instruction] { next(instruction); });
    }
  }
  std::vector<std::string> TakeCalls() {
    base::MutexLock lock(mutex_);
    return std::exchange(calls_, {});
  }
  int CountCalls(absl::string_view prefix) const {
    base::MutexLock lock(mutex_);
    return static_cast<int>(
        std::count_if(calls_.begin(), calls_.end(), [&](const std::string& call) {
          return absl::string_view(call).substr(0, prefix.size()) == prefix;
        }));
  }
  std::vector<federation::UpdateOffer> offers() const {
    base::MutexLock lock(mutex_);
    return offers_;
  }
  std::vector<std::string> uploaded_chunks() const {
    base::MutexLock lock(mutex_);
    return chunks_;
  }
  std::vector<federation::ClientReport> reports() const {
    base::MutexLock lock(mutex_);
    return reports_;
  }
  uint64_t fetched_bytes() const {
    base::MutexLock lock(mutex_);
    return fetched_bytes_;
  }
  std::string last_failure() const {
    base::MutexLock lock(mutex_);
    return failure_;
  }
  // Called with each report, on the transport's thread.
  std::function<void()> on_report;

  std::unique_ptr<Transport> MakeTransport(uint32_t ordinal);

 private:
  friend class FakeTransport;
  base::Executor& answers_;
  mutable base::Mutex mutex_;
  std::map<base::Digest, std::string> artifacts_ QFL_GUARDED_BY(mutex_);
  std::optional<federation::Instruction> current_ QFL_GUARDED_BY(mutex_);
  std::map<uint32_t, std::function<void(federation::Instruction)>> streams_ QFL_GUARDED_BY(mutex_);
  std::vector<std::string> calls_ QFL_GUARDED_BY(mutex_);
  std::vector<federation::UpdateOffer> offers_ QFL_GUARDED_BY(mutex_);
  std::vector<std::string> chunks_ QFL_GUARDED_BY(mutex_);
  std::vector<federation::ClientReport> reports_ QFL_GUARDED_BY(mutex_);
  std::string failure_ QFL_GUARDED_BY(mutex_);
  uint64_t fetched_bytes_ QFL_GUARDED_BY(mutex_) = 0;  // sent, not necessarily taken
};

class FakeTransport : public Transport {
 public:
  FakeTransport(FakeServer& server, uint32_t ordinal) : server_(server), ordinal_(ordinal) {}
  ~FakeTransport() override { Disconnect(); }

  void Join(federation::JoinRequest request,
            std::function<void(absl::StatusOr<federation::JoinAnswer>)> done) override {
    Note(absl::StrCat("join ", request.name.ToString()));
    if (!server_.join_error.ok()) {
      return Answer([done, status = server_.join_error] { done(status); });
    }
    federation::JoinAnswer answer;
    answer.session = absl::StrCat("session-", ordinal_);
    if (request.role == federation::Role::kTrainer) {
      answer.client_index = request.client_index.value_or(base::ClientIndex(ordinal_));
    }
    answer.run = server_.run;
    Answer([done, answer] { done(answer); });
  }
  void Tasks(std::string, std::function<void(federation::Instruction)> next,
             std::function<void(absl::Status)> done) override {
    Note("tasks");
    if (absl::IsUnavailable(server_.join_error)) {  // nobody listens
      return Answer([done, status = server_.join_error] { done(status); });
    }
    base::MutexLock lock(server_.mutex_);
    server_.streams_[ordinal_] = next;
    stream_done_ = done;
    if (server_.current_.has_value()) Answer([next, i = *server_.current_] { next(i); });
  }
  void Fetch(std::string, base::Digest digest, uint64_t offset, Piece piece,
             std::function<void(absl::Status)> done) override {
    Note(absl::StrCat("fetch ", digest.ShortHex(), " from ", offset));
    if (!server_.fetch_error.ok()) {
      return Answer([done, status = std::exchange(server_.fetch_error, {})] { done(status); });
    }
    std::string bytes;
    {
      base::MutexLock lock(server_.mutex_);
      bytes = server_.artifacts_[digest].substr(offset);
    }
    const uint64_t cut = std::exchange(server_.cut_fetch_after, UINT64_MAX);
    const bool is_cut = cut < bytes.size();
    if (is_cut) bytes.resize(cut);
    if (server_.flip_bits && !bytes.empty()) bytes[0] ^= 1;
    const bool endless = server_.endless;
    auto sender = std::make_shared<Sender>();
    sender->server = &server_;
    sender->bytes = bytes + (endless ? std::string(100'000, 'x') : "");
    sender->piece = std::move(piece);
    sender->end = [=] {
      if (!endless) done(is_cut ? absl::UnavailableError("cut") : absl::OkStatus());
    };
    Answer([sender] { sender->Next(); });
  }
  void Upload(std::string, federation::UpdateOffer offer, std::shared_ptr<ChunkSource> chunks,
              std::function<void(absl::StatusOr<UploadResult>)> done) override {
    Note(absl::StrCat("upload ", offer.task_id.value()));
    if (server_.hold_uploads) return;
    Answer([this_server = &server_, offer, chunks, done] {
      std::vector<std::string> read;
      for (uint32_t i = 0; i < offer.chunk_count; ++i) {
        absl::StatusOr<std::string> chunk = chunks->ReadChunk(i);
        if (!chunk.ok()) return done(chunk.status());
        read.push_back(*std::move(chunk));
      }
      {
        base::MutexLock lock(this_server->mutex_);
        this_server->offers_.push_back(offer);
        this_server->chunks_ = std::move(read);
      }
      done(UploadResult{{federation::Verdict::kAccepted, ""}, 0});
    });
  }
  void Report(std::string, federation::ClientReport report,
              std::function<void(absl::Status)> done) override {
    Note(absl::StrCat("report ", report.task_id.value()));
    {
      base::MutexLock lock(server_.mutex_);
      server_.reports_.push_back(report);
    }
    Answer([done] { done(absl::OkStatus()); });
    if (server_.on_report) server_.on_report();
  }
  void FailTask(std::string, federation::TaskFailure failure,
                std::function<void(absl::Status)> done) override {
    Note(absl::StrCat("fail ", failure.task_id.value()));
    {
      base::MutexLock lock(server_.mutex_);
      server_.failure_ = failure.reason;
    }
    Answer([done] { done(absl::OkStatus()); });
  }
  void Disconnect() override {
    base::MutexLock lock(server_.mutex_);
    if (server_.streams_.erase(ordinal_) == 0) return;
    server_.calls_.push_back("disconnect");
    Answer([done = std::exchange(stream_done_, nullptr)] { done(absl::CancelledError("")); });
  }
  federation::ByteCounters Counters() override {
    federation::ByteCounters counters;
    counters.uplink.messages = 1234;
    return counters;
  }

 private:
  // One piece at a time: the next when its turn has come.
  struct Sender : std::enable_shared_from_this<Sender> {
    FakeServer* server;
    std::string bytes;
    Piece piece;
    std::function<void()> end;
    size_t at = 0;
    void Next() {
      if (at >= bytes.size()) return end();
      std::string next = bytes.substr(at, 1000);
      at += next.size();
      {
        base::MutexLock lock(server->mutex_);
        server->fetched_bytes_ += next.size();
      }
      const auto turn = [self = shared_from_this()](const void*) {
        self->server->answers_.Post([self] { self->Next(); });
      };
      piece(std::move(next), std::shared_ptr<const void>(this, turn));
    }
  };
  void Note(std::string call) {
    base::MutexLock lock(server_.mutex_);
    server_.calls_.push_back(std::move(call));
  }
  void Answer(base::Task task) { server_.answers_.Post(std::move(task)); }

  FakeServer& server_;
  const uint32_t ordinal_;
  std::function<void(absl::Status)> stream_done_;
};

inline std::unique_ptr<Transport> FakeServer::MakeTransport(uint32_t ordinal) {
  return std::make_unique<FakeTransport>(*this, ordinal);
}

}  // namespace quantfl::daemon

#endif  // QUANTFL_TESTS_UNIT_CLIENT_DAEMON_FAKE_SERVER_H_
