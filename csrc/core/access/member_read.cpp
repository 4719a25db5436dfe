#include "core/access/member_read.hpp"

#include <algorithm>

#include "core/access/scattered_read.hpp"

namespace dcfast {
namespace {

constexpr std::uint64_t max_stretch = std::uint64_t{4} << 20;  // read by one thread at a time

void check_ranges(const ShardFiles& files, const MemberRanges& ranges, std::size_t room) {
  const std::size_t count = ranges.shard.size();
  if (ranges.offset.size() != count || ranges.size.size() != count || ranges.place.size() != count) {
    refuse_argument("shard, offset, size and place must have one length");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t id = ranges.shard[i];
    if (id >= files.size()) refuse_argument("shard ", id, " is out of range: the pool has ", files.size());
    if (ranges.place[i] > room || ranges.size[i] > room - ranges.place[i]) {
      refuse_argument("a member's place ends beyond the output");
    }
    const std::uint64_t end = files.shard(id).size;
    if (ranges.offset[i] > end || ranges.size[i] > end - ranges.offset[i]) {
      throw Error(Code::corrupt_data, cat("the index has a member of ", ranges.size[i], " bytes that ends beyond the shard's ", end,
                  "; index it again"), files.path(id), ranges.offset[i]);
    }
  }
}

std::vector<FileRange> cut_pieces(const MemberRanges& ranges, std::byte* out) {
  std::vector<FileRange> pieces;
  pieces.reserve(ranges.shard.size());
  for (std::size_t i = 0; i < ranges.shard.size(); ++i) {
    for (std::uint64_t done = 0; done < ranges.size[i]; done += max_stretch) {
      const std::uint64_t length = std::min(max_stretch, ranges.size[i] - done);
      pieces.push_back({ranges.shard[i], ranges.offset[i] + done, length, out + ranges.place[i] + done});
    }
  }
  if (!std::is_sorted(pieces.begin(), pieces.end())) std::sort(pieces.begin(), pieces.end());
  return pieces;
}

}  // namespace

void read_members(ShardFiles& files, const MemberRanges& ranges, std::span<std::byte> out, const MemberReadOptions& options,
                  const Poll& poll) {
  check_ranges(files, ranges, out.size());
  const std::vector<FileRange> pieces = cut_pieces(ranges, out.data());
  std::vector<std::span<const FileRange>> stretches;
  for (std::span<const FileRange> rest(pieces); !rest.empty(); rest = rest.subspan(stretches.back().size())) {
    stretches.push_back(rest.first(count_neighbours(rest, options.max_gap, max_stretch)));
  }
  parallel_for(stretches.size(), options.threads, [&](std::size_t i) {
    thread_local ReadScratch scratch;
    const std::uint32_t id = stretches[i].front().file;
    const std::shared_ptr<const File> file = files.get(id);
    if (const std::uint64_t missing = read_neighbours(*file, stretches[i], scratch); missing > 0) {
      throw Error(Code::corrupt_data,
                  cat("the shard ends ", missing, " bytes before the member that was indexed there"), files.path(id),
                  stretches[i].back().end() - missing);
    }
    files.check_unchanged(id, *file);
  }, poll);
}

SampleMembers members_of_samples(const SegmentFile& segment, std::span<const std::uint64_t> samples,
                                 std::span<const std::uint32_t> slot_of_ext, std::uint32_t num_slots) {
  const bool all = slot_of_ext.empty();
  if (!all && slot_of_ext.size() != segment.num_exts()) {
    refuse_argument("slot_of_ext must have one entry an extension of the segment");
  }
  SampleMembers out;
  out.count.reserve(samples.size());
  if (!all) {
    out.offset.assign(samples.size() * num_slots, 0);
    out.size.assign(samples.size() * num_slots, 0);
    out.ext.assign(samples.size() * num_slots, no_ext);
  }
  MemberColumns members;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::uint64_t sample = samples[i];
    if (sample >= segment.num_samples()) {
      throw Error(Code::invalid_argument,
                  cat("sample ", sample, " is out of range: the segment has ", segment.num_samples()), segment.path());
    }
    segment.unpack(sample, sample + 1, members);
    out.count.push_back(static_cast<std::uint32_t>(members.ext.size()));
    if (all) {
      out.offset.insert(out.offset.end(), members.offset.begin(), members.offset.end());
      out.size.insert(out.size.end(), members.size.begin(), members.size.end());
      out.ext.insert(out.ext.end(), members.ext.begin(), members.ext.end());
      continue;
    }
    for (std::size_t m = 0; m < members.ext.size(); ++m) {
      const std::uint32_t slot = slot_of_ext[members.ext[m]];
      if (slot >= num_slots) continue;
      const std::size_t at = i * num_slots + slot;
      if (out.ext[at] != no_ext) continue;  // the first of two that differ in case alone
      out.offset[at] = members.offset[m];
      out.size[at] = members.size[m];
      out.ext[at] = members.ext[m];
    }
  }
  return out;
}

}  // namespace dcfast
