// Ranges of files read to where they belong: neighbours of one file by one preadv, the gaps between them read over.
#pragma once

#include <compare>
#include <limits>
#include <vector>

#include "core/system/file.hpp"

namespace dcfast {

/// A range of one of several files, and where its bytes go.
struct FileRange {
  std::uint32_t file;
  std::uint64_t offset, length;
  std::byte* to;

  std::uint64_t end() const noexcept { return offset + length; }
  friend auto operator<=>(const FileRange&, const FileRange&) = default;
};

/// How many ranges from the front of `sorted` are read by one preadv: of one file, not over each other, at most `max_gap`
/// apart and `max_bytes` together. At least one of them.
std::size_t count_neighbours(std::span<const FileRange> sorted, std::uint64_t max_gap,
                             std::uint64_t max_bytes = std::numeric_limits<std::uint64_t>::max());

/// What a thread keeps from read to read, so that none allocates once it has grown.
struct ReadScratch {
  std::vector<iovec> buffers;
  std::vector<std::byte> gap;
};

/// Reads neighbours of one file. Returns how many bytes are missing at its end.
std::uint64_t read_neighbours(const File& file, std::span<const FileRange> ranges, ReadScratch& scratch);

}  // namespace dcfast
