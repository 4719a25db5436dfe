#include "core/index/range_reader.hpp"

#include <algorithm>
#include <cstring>

namespace dcfast {

RangeReader::RangeReader(RangeSource& source, std::uint64_t size, std::size_t window_bytes)
    : source_(source), size_(size), max_window_(std::max(window_bytes, min_window)), next_(min_window) {}

const RangeReader::Window* RangeReader::window_at(std::uint64_t offset) {
  for (const Window& window : windows_) {
    if (offset >= window.begin && offset - window.begin < window.length) return &window;
  }
  const Window& last = windows_[newest_];
  const std::uint64_t end = last.begin + last.length;
  const bool is_near = offset >= last.begin && offset <= end + max_window_;
  if (last.length > 0) next_ = is_near ? std::min(4 * next_, max_window_) : min_window;
  newest_ = 1 - newest_;
  Window& window = windows_[newest_];
  const std::size_t count = std::min(next_, size_ - offset);
  if (window.bytes.size() < count) window.bytes.resize(count);
  window.length = 0;  // a fetch that throws leaves no half window behind
  window.begin = offset;
  window.length = source_.fetch({window.bytes.data(), count}, offset);
  return window.length == 0 ? nullptr : &window;
}

std::size_t RangeReader::read(std::span<std::byte> out, std::uint64_t offset) {
  std::size_t done = 0;
  while (done < out.size() && offset + done < size_) {
    const std::uint64_t at = offset + done;
    const std::size_t left = std::min(out.size() - done, size_ - at);
    if (left > max_window_) {  // a json of many megabytes: not through the windows
      const std::size_t got = source_.fetch(out.subspan(done, max_window_), at);
      done += got;
      if (got < max_window_) break;
      continue;
    }
    const Window* window = window_at(at);
    if (window == nullptr) break;
    const std::size_t begin = at - window->begin;
    const std::size_t n = std::min(left, window->length - begin);
    std::memcpy(out.data() + done, window->bytes.data() + begin, n);
    done += n;
  }
  return done;
}

ShardIndex index_tar_ranges(RangeSource& source, const IndexOptions& options, std::size_t window_bytes) {
  const FileVersion version = source.open();
  RangeReader reader(source, version.size, window_bytes);
  ShardIndex out = index_tar(reader, options);
  out.mtime_ns = version.mtime_ns;
  std::string wrong = source.finish();
  if (!wrong.empty()) out.reports.push_back({0, true, std::move(wrong), {}});
  return out;
}

}  // namespace dcfast
