#include "core/access/scattered_read.hpp"

#include <limits.h>

namespace dcfast {

std::size_t count_neighbours(std::span<const FileRange> sorted, std::uint64_t max_gap, std::uint64_t max_bytes) {
  constexpr std::size_t max_buffers = IOV_MAX < 1024 ? IOV_MAX : 1024;
  const FileRange& first = sorted.front();
  std::size_t buffers = 1;
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    const FileRange& range = sorted[i];
    const std::uint64_t end = sorted[i - 1].end();
    if (range.file != first.file || range.offset < end || range.offset - end > max_gap) return i;
    buffers += range.offset > end ? 2 : 1;
    if (buffers > max_buffers || range.end() - first.offset > max_bytes) return i;
  }
  return sorted.size();
}

std::uint64_t read_neighbours(const File& file, std::span<const FileRange> ranges, ReadScratch& scratch) {
  std::uint64_t end = ranges.front().offset;
  for (const FileRange& range : ranges) {
    scratch.gap.resize(std::max<std::size_t>(scratch.gap.size(), range.offset - end));
    end = range.end();
  }
  const std::uint64_t begin = ranges.front().offset;
  std::uint64_t at = begin;
  scratch.buffers.clear();
  for (const FileRange& range : ranges) {
    if (range.offset > at) scratch.buffers.push_back({scratch.gap.data(), range.offset - at});
    scratch.buffers.push_back({range.to, range.length});
    at = range.end();
  }
  return end - file.pread_scattered(scratch.buffers, begin, end);
}

}  // namespace dcfast
