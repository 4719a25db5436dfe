// A tar behind a network: every request costs a round trip, so that headers are read through windows of up to a
// megabyte, and payloads larger than the window are jumped over.
#pragma once

#include <array>

#include "core/index/tar_index.hpp"

namespace dcfast {

/// A remote object that answers ranges. One source serves one thread; all of it may throw Error or what its owner
/// throws, which passes through the walk.
class RangeSource {
 public:
  virtual ~RangeSource() = default;
  /// Called once, before anything else.
  virtual FileVersion open() = 0;
  /// One request: exactly out.size() bytes at offset, which lie inside the object; fewer where the object is no
  /// longer the one that was opened.
  virtual std::size_t fetch(std::span<std::byte> out, std::uint64_t offset) = 0;
  /// Called once, at the end of the walk. What is wrong with what was read, or nothing.
  virtual std::string finish() = 0;
};

/// Reads through two windows, so that a look further ahead does not lose the place. A window begins where it is
/// needed: small after a jump, four times the last one while the reading stays near. Memory: 2 * window_bytes.
class RangeReader final : public ByteReader {
 public:
  static constexpr std::size_t min_window = 64 << 10;

  /// window_bytes: the largest window, at least min_window (smaller values are raised to it).
  RangeReader(RangeSource& source, std::uint64_t size, std::size_t window_bytes);
  std::uint64_t size() const override { return size_; }
  std::size_t read(std::span<std::byte> out, std::uint64_t offset) override;

 private:
  struct Window {
    std::vector<std::byte> bytes;
    std::uint64_t begin = 0;
    std::size_t length = 0;
  };

  /// The window that has the byte at offset; null where it could not be fetched.
  const Window* window_at(std::uint64_t offset);

  RangeSource& source_;
  std::uint64_t size_;
  std::size_t max_window_;
  std::size_t next_;
  std::array<Window, 2> windows_;
  std::size_t newest_ = 0;
};

/// The index of a tar behind a source: equal to that of the same bytes in a file. What source.finish() says is
/// reported as damage. Memory: what index_tar states, and the windows.
ShardIndex index_tar_ranges(RangeSource& source, const IndexOptions& options, std::size_t window_bytes);

}  // namespace dcfast
