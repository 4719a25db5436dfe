// Which rows of an index segment a reshard takes: whole samples with a uid, of the chosen input shards, not excluded,
// whose uid stands in the subset.
#pragma once

#include "core/index/tar_segment.hpp"

namespace dcfast {

/// The id of a row in a pool: the ordinal of its shard, and its place in the shard.
constexpr std::uint64_t pool_row_id(std::uint64_t ordinal, std::uint64_t row) { return ordinal << 32 | row; }
constexpr std::uint64_t max_pool_shards = std::uint64_t{1} << 32;

/// What is asked for. Views borrowed from the caller.
struct ReshardSelection {
  std::span<const Uid> subset;             // sorted; a uid that stands m times is written m times
  std::span<const std::uint64_t> exclude;  // sorted row ids that are never written
  std::uint64_t first_shard = 0;           // input shards with these numbers in their names
  std::optional<std::uint64_t> num_shards;
};

struct RowCounts {
  std::uint64_t samples = 0;          // in the chosen input shards
  std::uint64_t no_uid = 0;           // without a readable uid
  std::uint64_t cut = 0;              // their shard is damaged at them
  std::uint64_t excluded = 0;
  std::uint64_t processed_count = 0;  // the others
};

/// Selected rows of a segment, rising; the vectors are used again from block to block.
struct SelectedRows {
  std::vector<std::uint64_t> row;  // in the segment
  std::vector<Uid> uid;
  std::vector<std::uint64_t> multiplicity;  // at least 1

  std::vector<std::int64_t> first, count;  // scratch
};

/// What first_shard and num_shards count a shard by: the digits before the first dot of its file name, else `ordinal`.
/// Numbers that are larger than 64 bits count as 2^64 - 1.
std::uint64_t shard_number(std::string_view name, std::uint64_t ordinal);

/// Keeps of (row, uid) those whose uid stands in the sorted subset, and notes how often it does.
/// Memory: 16 bytes a row. Cost: a look-up a row (see `lookup`).
void select_rows(std::span<const Uid> subset, SelectedRows& rows, unsigned threads, const Poll& poll = {});

/// The rows of one segment, which is borrowed.
class SegmentRows {
 public:
  /// `first_ordinal`: of the segment's first shard in the pool. Throws invalid_argument where an excluded row is in none
  /// of its shards, or beyond 2^32 shards.   Memory: a byte a shard.
  SegmentRows(const SegmentFile& segment, std::uint64_t first_ordinal, const ReshardSelection& selection);

  /// The selected rows of [first, last); adds to `counts` where given. Memory: 48 bytes a row.
  void select(std::uint64_t first, std::uint64_t last, SelectedRows& out, RowCounts* counts, unsigned threads,
              const Poll& poll = {}) const;
  bool is_chosen(std::uint64_t shard) const { return is_chosen_.empty() || is_chosen_[shard]; }
  /// Number of chosen shards; the lowest and highest number of all, where it matters (a slice was asked for).
  std::uint64_t num_chosen() const noexcept { return num_chosen_; }
  std::uint64_t lowest() const noexcept { return lowest_; }
  std::uint64_t highest() const noexcept { return highest_; }
  /// Shard of a row, in the segment.
  std::uint64_t shard_of(std::uint64_t row) const;
  std::uint64_t row_id(std::uint64_t row) const;
  const SegmentFile& segment() const noexcept { return segment_; }

 private:
  const SegmentFile& segment_;
  std::uint64_t first_ordinal_;
  ReshardSelection selection_;
  std::vector<bool> is_chosen_;  // of each shard; empty: all
  std::uint64_t num_chosen_ = 0, lowest_ = 0, highest_ = 0;
};

/// An extension as it is written: ASCII letters in lower case, bytes that are not UTF-8 as \xNN.
std::string written_ext(std::string_view raw);
/// Those of a segment, in the order of its extensions.
std::vector<std::string> written_exts(const SegmentFile& segment);

}  // namespace dcfast
