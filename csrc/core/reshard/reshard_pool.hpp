// A reshard of a pool that is small enough to be held in memory: index, plan and output shards without a file between
// them. The plan is that of python/dcfast/reshard_plan.py for the plain options, and the bytes are the same: it is there
// for short runs, of which the start of NumPy would be the longest part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/index/tar_index.hpp"
#include "core/reshard/reshard.hpp"

namespace dcfast {

struct PoolReshardCounts {
  std::uint64_t samples = 0;          // in the input
  std::uint64_t no_uid = 0;           // without a readable uid
  std::uint64_t cut = 0;              // their shard is damaged at them
  std::uint64_t processed_count = 0;  // the others
  std::uint64_t selected_rows = 0;    // whose uid is in the subset
  std::uint64_t output_count = 0;     // each as often as its uid stands there
  std::uint64_t subset_count = 0;
  std::uint64_t missing_count = 0;  // entries of the subset that are in no input shard
  std::uint64_t repeated_rows = 0;  // selected rows that are not their uid's first
  std::uint64_t member_count = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t tar_bytes = 0;  // at most
};

class PoolReshard {
 public:
  struct Options {
    std::uint64_t shard_size = 10'000;
    std::uint64_t max_bytes = 3'000'000'000;
    unsigned threads = 0;  // for the index; 0 = one per core
  };

  /// Indexes the shards, in the order given, and plans. The subset is a sorted .npy of uids.
  /// Throws Error: io, corrupt_data or invalid_argument (a subset that is none, or not sorted; an option of 0;
  /// more than 2^24 samples to write, which a few repeated uids can make).
  /// Memory: about 100 bytes a sample and 10 a member of all shards, 16 bytes an entry of the subset.
  PoolReshard(std::vector<std::string> shards, const std::string& subset_path, const Options& options, const Poll& poll = {});

  const PoolReshardCounts& counts() const noexcept { return counts_; }
  /// What was found in an input shard, in the order given.
  const std::vector<TarReport>& reports(std::size_t shard) const { return shards_.at(shard).reports; }
  std::size_t num_input_shards() const noexcept { return shards_.size(); }
  std::size_t num_output_shards() const noexcept { return cuts_.size(); }
  /// Samples of output shard k.
  std::uint64_t samples(std::size_t k) const { return cuts_.at(k).samples; }
  /// Writes output shard k; see write_shard. Safe for many threads, of different k.
  WrittenShard write(std::size_t k, const std::string& out_path, unsigned threads, bool check_mtime, const Poll& poll = {}) const;

 private:
  struct Row {  // a selected sample
    Uid uid;
    std::uint32_t shard;
    std::uint32_t sample;  // in its shard
    std::uint64_t multiplicity;
    std::uint64_t first_copy;  // its copies count from here on
  };
  struct Cut {  // an output shard begins at copy `copy` of row `row`
    std::size_t row;
    std::uint64_t copy;
    std::uint64_t samples;
    std::uint64_t payload_bytes;
    std::uint64_t tar_bytes;
  };
  struct Weight {  // of one copy of a row
    std::uint64_t members, payload, tar;
  };

  void select(const std::vector<Uid>& subset);
  void number_copies();
  void cut(const Options& options);
  Weight weigh(const Row& row) const;

  std::vector<std::string> paths_;
  std::vector<ShardIndex> shards_;
  std::vector<std::vector<std::uint64_t>> member_begin_;  // of each sample, by shard
  std::vector<std::vector<std::string>> exts_;            // as they are written, by shard
  std::vector<std::vector<std::uint64_t>> header_bytes_;  // of a member with that extension, at most
  std::vector<Row> rows_;
  std::vector<Cut> cuts_;
  PoolReshardCounts counts_;
};

}  // namespace dcfast
