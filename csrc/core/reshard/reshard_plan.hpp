// The reshard plan: which pool rows go to which output shard, as a pure function of (index, subset, options).
// Rows are taken in the canonical order (shard, then row in the shard), each as often as its uid stands in the subset.
// The plan holds where each output shard begins, so that any worker can write output shard k alone
// (core/reshard/reshard_contents.hpp). The bytes of cuts and repeats: docs/formats.md, "A saved plan".
#pragma once

#include "core/reshard/reshard_rows.hpp"
#include "core/uids/uid_set.hpp"

namespace dcfast {

/// One output shard: where it begins (segment, row in the segment, copy of that row), and what it holds.
struct ReshardCut {
  std::uint32_t segment = 0;
  std::uint32_t reserved = 0;
  std::uint64_t row = 0;
  std::uint64_t copy = 0;
  std::uint64_t samples = 0;
  std::uint64_t members = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t tar_bytes = 0;
  friend bool operator==(const ReshardCut&, const ReshardCut&) = default;
};
static_assert(sizeof(ReshardCut) == 56);

/// A selected row whose uid has other selected rows before it: its copies count on from first_copy.
struct RowRepeat {
  std::uint64_t row_id = 0;
  std::uint64_t first_copy = 0;
  friend bool operator==(const RowRepeat&, const RowRepeat&) = default;
};
static_assert(sizeof(RowRepeat) == 16);

/// Of one copy of a row; bytes in the tar are without its end.
struct RowWeight {
  std::uint64_t members = 0, payload_bytes = 0, tar_bytes = 0;
};

/// Cuts the canonical order into output shards as the reference does: a new shard begins before the sample at which
/// the open one has shard_size samples or max_bytes payload bytes (so it may be larger than max_bytes by one sample).
class ShardCutter {
 public:
  /// Throws invalid_argument for a 0.
  ShardCutter(std::uint64_t shard_size, std::uint64_t max_bytes);
  /// The next row, `multiplicity` times. Throws corrupt_data where a total does not fit 64 bits.
  /// Cost: O(1 + output shards begun), however often the row is written.
  void add(std::uint32_t segment, std::uint64_t row, std::uint64_t multiplicity, const RowWeight& weight);
  /// tar_bytes of each with the end of a tar: at most what is written, exact for plain extensions.
  std::vector<ReshardCut> finish() &&;

 private:
  std::uint64_t shard_size_, max_bytes_;
  std::vector<ReshardCut> cuts_;
};

/// A row and how often it is written.
struct RowCopies {
  Uid uid;
  std::uint64_t row_id = 0;
  std::uint64_t multiplicity = 0;
};
/// The rows that are not their uid's first, sorted by row_id, with where their copies begin to count, so that no two
/// keys are equal. `extra`, where given: the sum of their multiplicities.   Cost: one sort, in place.
std::vector<RowRepeat> first_copies(std::vector<RowCopies>&& rows, std::uint64_t* extra = nullptr);
/// The uids that stand more than once in sorted records, each once.
std::vector<Uid> repeated_uids(std::span<const UidRecord> records);

struct ReshardCounts {
  RowCounts rows;
  std::uint64_t selected_rows = 0;
  std::uint64_t output_count = 0;  // copies expanded
  std::uint64_t subset_count = 0;
  std::uint64_t missing_count = 0;  // entries of the subset that are in no chosen shard
  std::uint64_t repeated_rows = 0;
  std::uint64_t member_count = 0, payload_bytes = 0;
  std::uint64_t tar_bytes = 0;  // at most
};

struct ReshardPlan {
  std::vector<ReshardCut> cuts;
  std::vector<RowRepeat> repeats;
  std::vector<std::uint64_t> segment_first{0};  // ordinal of each segment's first shard, then the number of shards
  ReshardCounts counts;
  std::uint64_t chosen_shards = 0;                  // chosen input shards
  std::uint64_t lowest_number = 0, highest_number = 0;  // of all input shards, where a slice was asked for
  Uid inputs;                                       // hash of name, size and time of each input shard, in order
  struct Damage {
    std::string shard;
    std::uint64_t offset;
    bool archive;  // a part of it was not read; else names that do not make the samples they were meant for
    std::string message;
  };
  std::vector<Damage> damage;  // what may hide samples of chosen input shards: see sample_loss
};

/// Plans segment after segment.
///
/// Memory: 10 MB for a block of rows; of a plan 56 bytes an output shard and 16 a repeated row; 40 bytes a selected row
/// where the repeated uids are not known, else a row of a repeated uid.   Cost: one pass over uids and flags, a look-up
/// a row, the members of selected rows.
class ReshardPlanner {
 public:
  struct Options {
    std::uint64_t shard_size = 10'000;
    std::uint64_t max_bytes = 3'000'000'000;
    ReshardSelection selection;
    std::optional<std::span<const Uid>> repeated;  // the pool's repeated uids, sorted; else found among the selected
    /// Takes row ids in the canonical order, each as often as it is written. Where given, the output is shuffled: cut by
    /// number alone, with in `row` the first output place, in `tar_bytes` the mean, and neither members nor payload.
    std::function<void(std::span<const std::uint64_t>)> shuffled;
    std::uint64_t rows_at_once = std::uint64_t{1} << 18;
    unsigned threads = 0;  // of look-ups
  };

  explicit ReshardPlanner(Options options);
  /// The next segment, in pool order. Throws invalid_argument (an excluded row that is in no shard), corrupt_data.
  void add(const SegmentFile& segment, const Poll& poll = {});
  ReshardPlan finish() &&;

 private:
  void add_rows(const SegmentRows& rows, std::uint32_t number);
  void note_repeats(const SegmentRows& rows);
  void spool(const SegmentRows& rows);
  std::vector<ReshardCut> shuffled_cuts();
  void note_shards(const SegmentRows& rows);

  Options options_;
  ReshardPlan plan_;
  ShardCutter cutter_;
  SelectedRows selected_;
  std::vector<RowCopies> maybe_repeated_;
  std::vector<std::uint64_t> spooled_;
  std::vector<std::uint64_t> header_bytes_;  // of the segment's extensions
  std::vector<std::uint64_t> size_;
  std::vector<std::uint32_t> ext_;
  RowWeight total_;
};

}  // namespace dcfast
