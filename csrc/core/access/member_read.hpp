// Members of many shards into one buffer: neighbours are read together, shards in parallel, the result in the order
// asked. pread, not mmap: a shard that is cut while it is read is an error, never a SIGBUS, and a cold or a random
// read costs one system call instead of a page fault for every few pages.
#pragma once

#include "core/access/shard_files.hpp"
#include "core/index/tar_segment.hpp"

namespace dcfast {

/// k ranges of shards and where each goes in the output. Views borrowed for the call.
struct MemberRanges {
  std::span<const std::uint32_t> shard;   // (k,) number in the ShardFiles
  std::span<const std::uint64_t> offset;  // (k,) first byte in the shard
  std::span<const std::uint64_t> size;    // (k,) bytes
  std::span<const std::uint64_t> place;   // (k,) first byte in the output
};

struct MemberReadOptions {
  unsigned threads = 1;           // 0: one per core
  std::uint64_t max_gap = 8192;   // a gap up to this is read over: it costs less than another system call
};

/// Reads the ranges, each to its place; places must not overlap. Shards are opened when they are first read.
/// Throws invalid_argument (shapes, a place beyond the output), corrupt_data with path and offset (a shard that is not
/// the indexed one, a range beyond its end, a shard written to meanwhile), io with path (offset in the message).
/// Memory: 40 bytes a range and, a thread, 24 KiB. Cost: one preadv for each stretch of neighbours, at most 4 MiB.
void read_members(ShardFiles& files, const MemberRanges& ranges, std::span<std::byte> out,
                  const MemberReadOptions& options = {}, const Poll& poll = {});

/// The members of samples of one segment, in the order asked; an extension may be no_ext.
struct SampleMembers : MemberColumns {
  std::vector<std::uint32_t> count;  // members of each sample
};
inline constexpr std::uint32_t no_ext = ~std::uint32_t{0};

/// Looks up the members of samples, by their numbers in the segment. With `slot_of_ext` empty, all of them in tar
/// order. Else slot_of_ext[e] says at which of `num_slots` places extension e is wanted (no_ext: nowhere), and each
/// sample has num_slots entries, those it lacks with no_ext and size 0.
/// Throws invalid_argument for a sample out of range, corrupt_data for a damaged segment. Cost: O(members of the samples).
SampleMembers members_of_samples(const SegmentFile& segment, std::span<const std::uint64_t> samples,
                                 std::span<const std::uint32_t> slot_of_ext, std::uint32_t num_slots);

}  // namespace dcfast
