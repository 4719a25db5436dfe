// What one output shard of a plan holds, from plan, index and subset alone: any worker can write or check shard k.
#pragma once

#include <list>
#include <memory>

#include "core/reshard/reshard.hpp"
#include "core/reshard/reshard_plan.hpp"

namespace dcfast {

/// Samples, and m members in the order they are written.
struct ShardContents {
  std::vector<Uid> uid;                      // of each sample
  std::vector<std::uint64_t> copy;           // the keys are UID-COPY
  std::vector<std::uint32_t> member_sample;  // (m,) sample of each member
  std::vector<std::string> sources;          // paths of input shards
  std::vector<std::uint64_t> source_size;
  std::vector<std::int64_t> source_mtime_ns;
  std::vector<std::uint32_t> source;         // (m,) index into the sources
  std::vector<std::uint64_t> offset, size;   // (m,) payload in the source
  std::vector<std::uint8_t> names;           // member names one after the other
  std::vector<std::uint64_t> name_begin;     // (m + 1,)
};

/// Samples at output places of a shuffled plan, in the order of their row ids, for reading.
struct ShuffledPlaces {
  std::vector<std::uint64_t> row_id, copy;  // copy of the row
  std::vector<std::uint64_t> place;         // from 0
};
/// Of places first .. first + count - 1. `rows`: row ids in plan order, each as often as it is written; `seed`: the key of
/// the permutation. Throws invalid_argument beyond the rows.   Cost: a few touches of `rows` a sample.
ShuffledPlaces shuffled_places(std::span<const std::uint64_t> rows, std::uint64_t seed, std::uint64_t first, std::uint64_t count);

/// The output shards of a plan. Safe for many threads.
/// Memory: the mapped pages of at most `keep` segments in use; in each call 40 bytes a sample and 60 a member of one
/// output shard, and 10 MB for a block of rows.
class PlannedShards {
 public:
  struct Plan {  // views borrowed
    std::span<const ReshardCut> cuts;
    std::span<const RowRepeat> repeats;
    std::span<const std::uint64_t> rows;        // of a shuffled plan
    std::optional<std::uint64_t> shuffle_seed;
    std::vector<std::uint64_t> segment_first;   // see ReshardPlan
    std::string shards_dir;                     // that shard names are relative to; empty: they are paths
    ReshardSelection selection;
    std::uint64_t rows_at_once = std::uint64_t{1} << 18;
  };
  using OpenSegment = std::function<std::shared_ptr<const SegmentFile>(std::size_t)>;

  /// `open(i)` gives segment i of the plan; it may be called again for one that was given up.
  PlannedShards(Plan plan, OpenSegment open, std::size_t keep);

  std::size_t size() const noexcept { return plan_.cuts.size(); }
  /// Shard k < size(). Throws invalid_argument where subset or index are evidently others than planned, corrupt_data for
  /// an index that leads out of its pool.   Cost: look-ups of the rows between its two cuts.
  ShardContents contents(std::size_t k, const Poll& poll = {}) const;
  /// Throws invalid_argument where the contents are not what was planned (of a shuffled plan: as many samples).
  void check_planned(std::size_t k, const ShardContents& contents) const;
  /// Pool row ids of the samples, in their order, a row as often as it is written.
  std::vector<std::uint64_t> row_ids(std::size_t k, const Poll& poll = {}) const;

  struct Written {
    std::uint64_t samples = 0, members = 0, payload_bytes = 0, tar_bytes = 0;
  };
  /// Checks and writes shard k; see write_shard. Without check_mtime an input shard's size alone has to be the indexed one.
  Written write(std::size_t k, const std::string& out_path, unsigned threads, bool check_mtime, const Poll& poll = {}) const;

 private:
  struct Open {
    std::size_t number;
    std::shared_ptr<const SegmentFile> segment;
    SegmentRows rows;
    std::vector<std::string> exts;  // as they are written
  };
  struct Pick {  // a sample, to stand at `place` of the output shard
    const Open* from;
    std::uint64_t row;
    std::uint64_t copy;
    std::uint64_t place;
  };
  struct Picks {
    std::vector<std::shared_ptr<const Open>> opened;  // in order, each once
    std::vector<Pick> picks;                          // segment by segment, rows that do not fall
  };

  std::shared_ptr<const Open> get(std::size_t number) const;
  const Open* use(std::size_t number, Picks& picks) const;
  Picks pick(std::size_t k, const Poll& poll) const;
  Picks pick_shuffled(std::size_t k) const;
  std::uint64_t first_copy(std::uint64_t row_id) const;
  std::string source_path(const SegmentFile& segment, std::uint64_t shard) const;
  void add_members(const Picks& picks, std::vector<std::uint32_t>& member_ext, std::vector<std::string>& exts,
                   ShardContents& out) const;

  Plan plan_;
  OpenSegment open_;
  std::size_t keep_;
  mutable std::mutex guard_;
  mutable std::list<std::shared_ptr<const Open>> in_use_;  // the latest last
};

}  // namespace dcfast
