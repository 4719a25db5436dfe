// Out-of-core sets: merges sorted run files of uids or of uid records into one sorted file, in bounded
// memory. Relies on each run being sorted by all its words, and checks it. File format: docs/formats.md
// (NumPy .npy, little-endian records).
#pragma once

#include <string>

#include "core/uids/uid_set.hpp"

namespace dcfast {

struct MergeOptions {
  /// Keep one element for each uid: of records the one with the smallest payload.
  bool unique = false;
  /// Bytes for all buffers together; at least kMergeMinMemory.
  std::uint64_t memory_bytes = std::uint64_t{256} << 20;
  /// Files open at once, the output included; at least 3.
  std::uint32_t max_open_files = 256;
};

inline constexpr std::uint64_t kMergeMinMemory = std::uint64_t{1} << 20;

struct MergeResult {
  std::uint64_t rows_in = 0;
  std::uint64_t rows_out = 0;
  /// How often each element was read and written: 1 where all runs fit one merge.
  std::uint32_t passes = 0;
};

/// Merges .npy runs, all of dtype "u8,u8" or all of "u8,u8,u8", into out_path (created or truncated, not
/// fsynced). The bytes written depend on the elements alone, not on their division into runs, the memory or
/// the number of files open. Where runs are more than can be open or buffered at once, intermediate files
/// named out_path + ".pass*" are written beside it and removed; disk for one more copy of the data is then
/// needed. Memory: memory_bytes, beside the list of paths. Cost: O(n log(runs)) comparisons and one
/// sequential read and write of the data a pass; passes = ceil(log_F(runs)), F = min(max_open_files - 1,
/// memory_bytes / 64 KiB - 2).
/// Throws corrupt_data naming the run and offset where a run is unsorted, truncated, longer than its header
/// says or of another dtype or version; invalid_argument where options are out of range or paths is empty;
/// io (ENOSPC included). On any error the intermediate files are removed; out_path is the caller's to remove.
MergeResult merge_runs(const std::vector<std::string>& paths, const std::string& out_path, const MergeOptions& options,
                       const Poll& poll = {});

}  // namespace dcfast
