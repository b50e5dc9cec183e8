#ifndef QUANTFL_SERVER_COORDINATOR_RECORD_BOOK_H_
#define QUANTFL_SERVER_COORDINATOR_RECORD_BOOK_H_

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {

// The records of a run's rounds, in order. The last ones change; those before are in blocks that
// are shared with whoever reads, so that the loop that owns the book does not copy a long run for
// every question. Not thread-safe.
class RecordBook {
 public:
  using Block = std::vector<RoundRecord>;
  static constexpr size_t kBlock = 64;

  // What was written so far. Immutable: may be read in any thread.
  class Reading {
   public:
    std::vector<RoundRecord> All() const {
      std::vector<RoundRecord> all;
      all.reserve(blocks_.size() * kBlock + open_.size());
      for (const auto& block : blocks_) all.insert(all.end(), block->begin(), block->end());
      all.insert(all.end(), open_.begin(), open_.end());
      return all;
    }

   private:
    friend class RecordBook;
    std::vector<std::shared_ptr<const Block>> blocks_;
    Block open_;
  };

  RecordBook() = default;
  explicit RecordBook(std::vector<RoundRecord> records) {
    for (RoundRecord& record : records) push_back(std::move(record));
  }

  // O(rounds / kBlock).
  Reading Read() const {
    Reading reading;
    reading.blocks_.assign(blocks_.begin(), blocks_.end());
    reading.open_ = open_;
    return reading;
  }

  size_t size() const { return blocks_.size() * kBlock + open_.size(); }
  bool empty() const { return size() == 0; }
  const RoundRecord& operator[](size_t i) const {
    return i < blocks_.size() * kBlock ? (*blocks_[i / kBlock])[i % kBlock]
                                       : open_[i - blocks_.size() * kBlock];
  }
  // One that readers may have is copied first.
  RoundRecord& operator[](size_t i) {
    if (i >= blocks_.size() * kBlock) return open_[i - blocks_.size() * kBlock];
    auto copy = std::make_shared<Block>(*blocks_[i / kBlock]);
    RoundRecord& record = (*copy)[i % kBlock];
    blocks_[i / kBlock] = std::move(copy);
    return record;
  }
  RoundRecord& back() { return (*this)[size() - 1]; }
  void push_back(RoundRecord record) {
    // The records that still change are among the last few, which stay out of the blocks.
    if (open_.size() == 2 * kBlock) {
      auto block = std::make_shared<Block>(open_.begin(), open_.begin() + kBlock);
      open_.erase(open_.begin(), open_.begin() + kBlock);
      blocks_.push_back(std::move(block));
    }
    open_.push_back(std::move(record));
  }
  void pop_back() { open_.pop_back(); }  // at least kBlock records are open, or all are

 private:
  std::vector<std::shared_ptr<const Block>> blocks_;
  Block open_;
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RECORD_BOOK_H_
