#include "core/access/member_read.hpp"

#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string>

namespace dcfast {
namespace {

constexpr std::uint64_t max_stretch = std::uint64_t{4} << 20;  // read by one thread at a time
constexpr std::size_t max_iovecs = IOV_MAX < 1024 ? IOV_MAX : 1024;

struct Piece {
  std::uint64_t offset;
  std::uint64_t length;
  std::uint64_t place;
  std::uint32_t shard;
};

// Pieces [first, last), neighbours in one shard, read by one preadv.
struct Stretch {
  std::size_t first;
  std::size_t last;
};

void check_ranges(const ShardFiles& files, const MemberRanges& ranges, std::size_t room) {
  const std::size_t count = ranges.shard.size();
  if (ranges.offset.size() != count || ranges.size.size() != count || ranges.place.size() != count) {
    throw Error(Code::invalid_argument, "shard, offset, size and place must have one length");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t id = ranges.shard[i];
    if (id >= files.size()) {
      throw Error(Code::invalid_argument, "shard " + std::to_string(id) + " is out of range: the pool has " + std::to_string(files.size()));
    }
    if (ranges.place[i] > room || ranges.size[i] > room - ranges.place[i]) {
      throw Error(Code::invalid_argument, "a member's place ends beyond the output");
    }
    const std::uint64_t end = files.shard(id).size;
    if (ranges.offset[i] > end || ranges.size[i] > end - ranges.offset[i]) {
      throw Error(Code::corrupt_data, "the index has a member of " + std::to_string(ranges.size[i]) + " bytes that ends beyond the shard's " +
                  std::to_string(end) + "; index it again", files.path(id), ranges.offset[i]);
    }
  }
}

std::vector<Piece> cut_pieces(const MemberRanges& ranges) {
  std::vector<Piece> pieces;
  pieces.reserve(ranges.shard.size());
  for (std::size_t i = 0; i < ranges.shard.size(); ++i) {
    for (std::uint64_t done = 0; done < ranges.size[i];) {
      const std::uint64_t length = std::min(max_stretch, ranges.size[i] - done);
      pieces.push_back({ranges.offset[i] + done, length, ranges.place[i] + done, ranges.shard[i]});
      done += length;
    }
  }
  const auto before = [](const Piece& a, const Piece& b) {
    return a.shard != b.shard ? a.shard < b.shard : a.offset != b.offset ? a.offset < b.offset : a.place < b.place;
  };
  if (!std::is_sorted(pieces.begin(), pieces.end(), before)) std::sort(pieces.begin(), pieces.end(), before);
  return pieces;
}

std::vector<Stretch> join_neighbours(const std::vector<Piece>& pieces, std::uint64_t max_gap) {
  std::vector<Stretch> stretches;
  for (std::size_t i = 0; i < pieces.size();) {
    const std::size_t first = i;
    std::uint64_t end = pieces[i].offset + pieces[i].length;
    std::size_t iovecs = 1;
    for (++i; i < pieces.size(); ++i) {
      const Piece& piece = pieces[i];
      if (piece.shard != pieces[first].shard || piece.offset < end || piece.offset - end > max_gap) break;
      iovecs += piece.offset > end ? 2 : 1;
      if (iovecs > max_iovecs || piece.offset + piece.length - pieces[first].offset > max_stretch) break;
      end = piece.offset + piece.length;
    }
    stretches.push_back({first, i});
  }
  return stretches;
}

// One a thread: no allocation for a read once it has grown.
struct Scratch {
  std::vector<iovec> iovecs;
  std::vector<std::byte> gap;
};

void read_stretch(const File& file, std::span<const Piece> pieces, std::byte* out, Scratch& scratch) {
  std::uint64_t offset = pieces.front().offset;
  std::uint64_t end = offset;
  scratch.iovecs.clear();
  for (const Piece& piece : pieces) {
    const auto gap = static_cast<std::size_t>(piece.offset - end);
    if (gap > scratch.gap.size()) scratch.gap.resize(gap);
    end = piece.offset + piece.length;
  }
  end = offset;
  for (const Piece& piece : pieces) {
    if (piece.offset > end) scratch.iovecs.push_back({scratch.gap.data(), static_cast<std::size_t>(piece.offset - end)});
    scratch.iovecs.push_back({out + piece.place, static_cast<std::size_t>(piece.length)});
    end = piece.offset + piece.length;
  }
  for (std::size_t next = 0; offset < end;) {
    const ssize_t n = ::preadv(file.fd(), scratch.iovecs.data() + next, static_cast<int>(scratch.iovecs.size() - next), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("read " + std::to_string(end - offset) + " bytes at offset " + std::to_string(offset), file.path());
    if (n == 0) {
      throw Error(Code::corrupt_data, "the shard ends " + std::to_string(end - offset) + " bytes before the member that was indexed there",
                  file.path(), offset);
    }
    offset += static_cast<std::uint64_t>(n);
    auto done = static_cast<std::size_t>(n);
    while (next < scratch.iovecs.size() && done >= scratch.iovecs[next].iov_len) done -= scratch.iovecs[next++].iov_len;
    if (next < scratch.iovecs.size()) {
      scratch.iovecs[next].iov_base = static_cast<std::byte*>(scratch.iovecs[next].iov_base) + done;
      scratch.iovecs[next].iov_len -= done;
    }
  }
}

}  // namespace

void read_members(ShardFiles& files, const MemberRanges& ranges, std::span<std::byte> out, const MemberReadOptions& options,
                  const Poll& poll) {
  check_ranges(files, ranges, out.size());
  const std::vector<Piece> pieces = cut_pieces(ranges);
  const std::vector<Stretch> stretches = join_neighbours(pieces, options.max_gap);
  parallel_for(stretches.size(), options.threads, [&](std::size_t i) {
    thread_local Scratch scratch;
    const Stretch& stretch = stretches[i];
    const std::uint32_t id = pieces[stretch.first].shard;
    const std::shared_ptr<const File> file = files.get(id);
    read_stretch(*file, std::span(pieces).subspan(stretch.first, stretch.last - stretch.first), out.data(), scratch);
    files.check_unchanged(id, *file);
  }, poll);
}

SampleMembers members_of_samples(const SegmentFile& segment, std::span<const std::uint64_t> samples,
                                 std::span<const std::uint32_t> slot_of_ext, std::uint32_t num_slots) {
  const bool all = slot_of_ext.empty();
  if (!all && slot_of_ext.size() != segment.num_exts()) {
    throw Error(Code::invalid_argument, "slot_of_ext must have one entry an extension of the segment");
  }
  SampleMembers found;
  found.count.reserve(samples.size());
  if (!all) {
    found.offset.assign(samples.size() * num_slots, 0);
    found.size.assign(samples.size() * num_slots, 0);
    found.ext.assign(samples.size() * num_slots, no_ext);
  }
  std::vector<std::uint64_t> offset;
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> ext;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::uint64_t sample = samples[i];
    if (sample >= segment.num_samples()) {
      throw Error(Code::invalid_argument, "sample " + std::to_string(sample) + " is out of range: the segment has " +
                  std::to_string(segment.num_samples()), segment.path());
    }
    const auto n = static_cast<std::size_t>(segment.num_members_of(sample, sample + 1));
    offset.resize(n);
    size.resize(n);
    ext.resize(n);
    if (n > 0) segment.unpack(sample, sample + 1, offset, size, ext);
    found.count.push_back(static_cast<std::uint32_t>(n));
    if (all) {
      found.offset.insert(found.offset.end(), offset.begin(), offset.end());
      found.size.insert(found.size.end(), size.begin(), size.end());
      found.ext.insert(found.ext.end(), ext.begin(), ext.end());
      continue;
    }
    for (std::size_t m = 0; m < n; ++m) {
      const std::uint32_t slot = slot_of_ext[ext[m]];
      if (slot >= num_slots) continue;
      const std::size_t at = i * num_slots + slot;
      if (found.ext[at] != no_ext) continue;  // the first of two that differ in case alone
      found.offset[at] = offset[m];
      found.size[at] = size[m];
      found.ext[at] = ext[m];
    }
  }
  return found;
}

}  // namespace dcfast
