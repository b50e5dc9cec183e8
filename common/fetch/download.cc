#include "common/fetch/download.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>
#include <new>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::fetch {
namespace {

constexpr long kRedirectionsMax = 5;

// curl_global_init is not thread-safe on its own; a local static is initialised once.
bool CurlReady() {
  static const bool ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return ready;
}

struct Transfer {
  std::string body;
  uint64_t bytes_max = 0;
  bool too_long = false;
  bool out_of_memory = false;
  bool cancelled = false;
  const DownloadProgress* progress = nullptr;
};

size_t OnBody(char* data, size_t, size_t size, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  if (size > transfer.bytes_max - transfer.body.size()) {
    transfer.too_long = true;
    return 0;
  }
  // An exception must not pass through libcurl's C code.
  try {
    transfer.body.append(data, size);
  } catch (const std::bad_alloc&) {
    transfer.out_of_memory = true;
    return 0;
  }
  return size;
}

int OnProgress(void* context, curl_off_t total, curl_off_t done, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(context);
  if (!*transfer.progress) return 0;
  transfer.cancelled =
      !(*transfer.progress)(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
  return transfer.cancelled ? 1 : 0;
}

absl::Status HttpStatus(long code) {
  const std::string message = absl::StrCat("the server answered HTTP ", code);
  if (code == 404 || code == 410) return absl::NotFoundError(message);
  if (code == 401 || code == 403) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

absl::Status TransferStatus(CURLcode code, const Transfer& transfer, const char* detail) {
  if (transfer.too_long) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the answer is longer than the ", transfer.bytes_max, " bytes that the file may have"));
  }
  if (transfer.out_of_memory || code == CURLE_OUT_OF_MEMORY) {
    return absl::ResourceExhaustedError("out of memory");
  }
  if (transfer.cancelled) return absl::CancelledError("the download was cancelled");
  const absl::string_view reason = *detail != '\0' ? detail : curl_easy_strerror(code);
  switch (code) {
    case CURLE_OK:
      return absl::OkStatus();
    case CURLE_URL_MALFORMAT:
      return absl::InvalidArgumentError(reason);
    case CURLE_PARTIAL_FILE:
      return absl::DataLossError(absl::StrCat("truncated: ", reason));
    case CURLE_FILESIZE_EXCEEDED:
      return absl::ResourceExhaustedError(absl::StrCat("the announced answer is longer than the ",
                                                       transfer.bytes_max,
                                                       " bytes that the file may have"));
    default:
      return absl::UnavailableError(reason);
  }
}

absl::StatusOr<std::string> Get(const DownloadRequest& request, const DownloadProgress& progress) {
  if (!absl::StartsWithIgnoreCase(request.url, "http://") &&
      !absl::StartsWithIgnoreCase(request.url, "https://")) {
    return absl::InvalidArgumentError("the address must begin with http:// or https://");
  }
  if (!CurlReady()) return absl::InternalError("libcurl cannot be initialised");
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> handle(curl_easy_init(),
                                                                   curl_easy_cleanup);
  if (handle == nullptr) return absl::ResourceExhaustedError("out of memory");
  CURL* const curl = handle.get();
  Transfer transfer;
  transfer.bytes_max = request.bytes_max;
  transfer.progress = &progress;
  char detail[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, kRedirectionsMax);
  // Time-outs without signals: the caller may have other threads.
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(request.connect_timeout)));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(
      curl, CURLOPT_LOW_SPEED_TIME,
      static_cast<long>(std::max<int64_t>(1, absl::ToInt64Seconds(request.stall_timeout))));
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "quantfl");
  curl_easy_setopt(curl, CURLOPT_MAXFILESIZE_LARGE, static_cast<curl_off_t>(request.bytes_max));
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);

  const CURLcode code = curl_easy_perform(curl);
  long http_code = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http_code);
  if (code == CURLE_HTTP_RETURNED_ERROR) return HttpStatus(http_code);
  QFL_RETURN_IF_ERROR(TransferStatus(code, transfer, detail));
  return std::move(transfer.body);
}

}  // namespace

absl::StatusOr<std::string> Fetch(const DownloadRequest& request,
                                  const DownloadProgress& progress) {
  absl::StatusOr<std::string> body = Get(request, progress);
  if (!body.ok()) return base::Annotate(body.status(), request.url);
  if (request.verify) QFL_RETURN_IF_ERROR(base::Annotate(request.verify(*body), request.url));
  return body;
}

absl::Status Download(const DownloadRequest& request, base::Env& env,
                      const DownloadProgress& progress) {
  QFL_ASSIGN_OR_RETURN(const std::string body, Fetch(request, progress));
  return env.WriteFileAtomically(request.path, body);
}

}  // namespace quantfl::fetch
