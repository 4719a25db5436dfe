// Output shards: one tar, written from byte ranges of other files. The bytes are a pure function of the member
// list, equal to what Python's tarfile writes in its pax format with mtime 0, so shards can be compared by hash.
// Format: POSIX.1-2001 ustar and pax; sizes of 8 GiB and more in base-256 (docs/formats.md, "Output shards").
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "core/system/error.hpp"
#include "core/system/parallel.hpp"
#include "core/uids/uid.hpp"

namespace dcfast {

/// A file that payloads are copied from. Where size or mtime_ns is given, the file must still have it when it is
/// opened: an index older than its shard is refused, not misread.
struct CopySource {
  std::string path;
  std::optional<std::uint64_t> size;
  std::optional<std::int64_t> mtime_ns;
};

/// The m members of one output shard in the order they are written. Views borrowed for the call.
struct ShardMembers {
  std::span<const std::uint32_t> source;      // (m,) index into the sources
  std::span<const std::uint64_t> offset;      // (m,) first payload byte in the source
  std::span<const std::uint64_t> size;        // (m,) payload bytes
  std::span<const std::uint8_t> names;        // member names one after the other, no terminators
  std::span<const std::uint64_t> name_begin;  // (m + 1,) where each name begins in `names`
};

struct WriteShardOptions {
  std::size_t window_bytes = std::size_t{1} << 19;  // output bytes held in memory (fits a core's cache); at least 4096
  std::size_t max_open_sources = 64;                // least recently used are closed beyond this
  bool hash_payloads = false;
  unsigned threads = 1;  // for one output: it is cut into as many stretches, where they are long enough to be worth it
};

struct WrittenShard {
  std::uint64_t bytes = 0;   // size of the tar, a multiple of 10,240
  std::vector<Uid> hashes;   // (m,) XXH3-128 of each payload (hi, lo), empty unless asked for
};

/// The block or blocks before a payload: one ustar header of 512 bytes; names over 100 bytes or not plain ASCII
/// get a pax header with the path before it. Throws invalid_argument for an empty name or one with NUL.
std::vector<std::byte> tar_member_header(std::string_view name, std::uint64_t size);

/// Names `UID-COPY.EXT` of m members: sample s has key uid[s]-copy[s] (32 lower-case hex digits, decimal), member i
/// belongs to sample member_sample[i] and has extension exts[member_ext[i]]. Appends to `names` and `name_begin`.
/// Throws invalid_argument where an index is out of range.
void sample_member_names(std::span<const Uid> uid, std::span<const std::uint64_t> copy,
                         std::span<const std::uint32_t> member_sample, std::span<const std::uint32_t> member_ext,
                         std::span<const std::string> exts, std::vector<std::uint8_t>& names,
                         std::vector<std::uint64_t>& name_begin);

/// Writes out_path (created or truncated; not synced). Neighbouring payloads of one source are read by one preadv
/// straight to their place in the window, whatever their order in the output.
/// Throws invalid_argument (shapes, indices), corrupt_data with path and offset (a source that changed, or ends
/// before a payload does), io (ENOSPC included). A failed call leaves a partial file for the caller to remove.
/// Memory: for each thread window_bytes and 48 bytes a payload piece in it (at most one per 512 bytes); 16 bytes a
/// member where hashes are asked for. Cost: one pass over the payloads. Safe to call from many threads for different out_paths.
WrittenShard write_shard(const std::string& out_path, std::span<const CopySource> sources,
                         const ShardMembers& members, const WriteShardOptions& options = {}, const Poll& poll = {});

}  // namespace dcfast
