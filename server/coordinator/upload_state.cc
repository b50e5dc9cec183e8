#include "server/coordinator/upload_state.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::coordinator {

UploadState::UploadState(UploadPlan plan) : plan_(std::move(plan)) {
  hasher_.Update(plan_.offer.codec_header);
  payload_.tables = plan_.header.table_bytes;
  payload_.side_information = plan_.header.side_bytes - plan_.header.table_bytes;
  payload_.headers = plan_.offer.codec_header.size() - plan_.header.side_bytes;
}

uint64_t UploadState::Claim() {
  base::MutexLock lock(mutex_);
  revoked_ = absl::OkStatus();
  return ++generation_;
}

void UploadState::Revoke(absl::Status why) {
  base::MutexLock lock(mutex_);
  revoked_ = std::move(why);
}

bool UploadState::IsHeldBy(uint64_t generation) const {
  base::MutexLock lock(mutex_);
  return generation == generation_ && revoked_.ok();
}

absl::Status UploadState::CheckHeld(uint64_t generation) const {
  if (generation != generation_) return absl::AbortedError("a newer offer of this task took over");
  return revoked_;
}

absl::Status UploadState::Fail(absl::Status status) {
  revoked_ = absl::AbortedError("this upload has failed already");
  return status;
}

absl::Status UploadState::Append(uint64_t generation, std::string chunk,
                                 const std::function<void(uint32_t, std::string)>& store) {
  base::MutexLock lock(mutex_);
  QFL_RETURN_IF_ERROR(CheckHeld(generation));
  if (chunks_ >= plan_.header.chunk_count) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("a chunk after the last: there are ", plan_.header.chunk_count)));
  }
  if (chunk.size() > codec::kChunkBytesMax ||
      payload_.total() + chunk.size() > plan_.offer.payload_bytes) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("chunk ", chunks_, " has ", chunk.size(), " bytes: at most ",
                     codec::kChunkBytesMax, " a chunk and ", plan_.offer.payload_bytes,
                     " in all, as offered, of which ", payload_.total(), " came before")));
  }
  const codec::Layout& layout = plan_.schema->update_layout();
  auto view = codec::ParseChunk(chunk, plan_.header, layout, chunks_);
  if (!view.ok()) return Fail(view.status());
  absl::Status bounded = codec::CheckBounds(*view, *plan_.bounds);
  if (!bounded.ok()) return Fail(std::move(bounded));

  payload_.codes += view->payload.codes;
  payload_.tables += view->payload.tables;
  payload_.side_information += view->payload.side_information;
  payload_.headers += view->payload.headers;
  hasher_.Update(chunk);
  checksum_.Add(*view, plan_.header);
  store(chunks_++, std::move(chunk));
  return absl::OkStatus();
}

absl::Status UploadState::Verify(uint64_t generation) {
  base::MutexLock lock(mutex_);
  QFL_RETURN_IF_ERROR(CheckHeld(generation));
  if (verified_) return absl::OkStatus();
  if (chunks_ != plan_.header.chunk_count) {
    return Fail(absl::InvalidArgumentError(absl::StrCat("the upload ends after ", chunks_, " of ",
                                                        plan_.header.chunk_count, " chunks")));
  }
  if (payload_.total() != plan_.offer.payload_bytes) {
    return Fail(
        absl::InvalidArgumentError(absl::StrCat("the upload has ", payload_.total(), " bytes; ",
                                                plan_.offer.payload_bytes, " were offered")));
  }
  if (checksum_.value() != plan_.header.codes_crc32c) {
    return Fail(absl::DataLossError(absl::StrCat("the codes' checksum is ", checksum_.value(),
                                                 "; the header says ", plan_.header.codes_crc32c)));
  }
  const base::Digest digest = std::move(hasher_).Finish();
  if (digest != plan_.offer.digest) {
    return Fail(
        absl::DataLossError(absl::StrCat("the upload's digest is ", digest.ShortHex(), "...; ",
                                         plan_.offer.digest.ShortHex(), "... was offered")));
  }
  verified_ = true;
  return absl::OkStatus();
}

uint32_t UploadState::chunks() const {
  base::MutexLock lock(mutex_);
  return chunks_;
}

codec::PayloadBytes UploadState::payload() const {
  base::MutexLock lock(mutex_);
  return payload_;
}

}  // namespace quantfl::coordinator
