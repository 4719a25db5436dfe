#include "core/hashing/hashing.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "core/hashing/hashing_avx2.hpp"
#include "core/system/cpu.hpp"
#include "core/system/error.hpp"
#include "core/system/file.hpp"

namespace dcfast {

namespace {

// One read this long costs little per byte and still lies in the second-level cache when it is hashed.
constexpr std::uint64_t kPiece = std::uint64_t{1} << 19;
constexpr std::uint64_t kBuffer = std::uint64_t{1} << 20;
// Skipping fewer bytes than this between two ranges by a second read costs more than reading them.
constexpr std::uint64_t kGap = std::uint64_t{1} << 14;

Uid to_uid(const XXH128_hash_t& hash) { return {hash.high64, hash.low64}; }

XXH128_hash_t hash_128(const std::byte* data, std::size_t size) {
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) {
    XXH128_hash_t hash;
    avx2::xxh3_128(data, size, hash.high64, hash.low64);
    return hash;
  }
#endif
  return XXH3_128bits(data, size);
}

void update_128(XXH3_state_t* state, const std::byte* data, std::size_t size) {
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) return avx2::xxh3_128_update(state, data, size);
#endif
  XXH3_128bits_update(state, data, size);
}

/// Buffers that threads take and give back; as many are made as threads need at once.
class BufferPool {
 public:
  using Buffer = std::unique_ptr<std::byte[]>;

  Buffer take() {
    {
      const std::lock_guard<std::mutex> lock(guard_);
      if (!free_.empty()) {
        Buffer buffer = std::move(free_.back());
        free_.pop_back();
        return buffer;
      }
    }
    return Buffer(new std::byte[kBuffer]);
  }
  void give(Buffer buffer) {
    const std::lock_guard<std::mutex> lock(guard_);
    free_.push_back(std::move(buffer));
  }

 private:
  std::mutex guard_;
  std::vector<Buffer> free_;
};

struct StateDelete {
  void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
};

Uid hash_stream(const File& file, std::uint64_t offset, std::uint64_t size, std::byte* buffer, const Poll& poll) {
  // allocated, not on the stack: the state must lie on a 64-byte boundary
  const std::unique_ptr<XXH3_state_t, StateDelete> state(XXH3_createState());
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  for (std::uint64_t done = 0; done < size;) {
    if (poll) poll();
    const std::uint64_t count = std::min(kPiece, size - done);
    file.pread_all({buffer, static_cast<std::size_t>(count)}, offset + done);
    update_128(state.get(), buffer, static_cast<std::size_t>(count));
    done += count;
  }
  return to_uid(XXH3_128bits_digest(state.get()));
}

/// Ranges order[first, last) lie in [begin, end) of the file.
struct Group {
  std::size_t first, last;
  std::uint64_t begin, end;
};

void check_lengths(std::span<const std::uint64_t> offsets, std::span<const std::uint64_t> sizes, std::span<const Uid> out) {
  if (offsets.size() == sizes.size() && offsets.size() == out.size()) return;
  throw Error(Code::invalid_argument, "offsets and sizes must be equally long; got " + std::to_string(offsets.size()) +
                                          " and " + std::to_string(sizes.size()));
}

}  // namespace

Uid xxh3_128(std::span<const std::byte> bytes) { return to_uid(hash_128(bytes.data(), bytes.size())); }

std::uint64_t xxh3_64(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Uid hash_file(const std::string& path, const Poll& poll) {
  const File file = File::open_read(path);
  const std::unique_ptr<XXH3_state_t, StateDelete> state(XXH3_createState());
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  const std::unique_ptr<std::byte[]> buffer(new std::byte[kPiece]);
  // read to the end rather than to a size asked before: files of /proc say 0
  for (std::uint64_t at = 0;;) {
    if (poll) poll();
    const std::size_t count = file.pread_some({buffer.get(), kPiece}, at);
    update_128(state.get(), buffer.get(), count);
    if (count < kPiece) break;
    at += count;
  }
  return to_uid(XXH3_128bits_digest(state.get()));
}

void hash_ranges(const std::string& path, std::span<const std::uint64_t> offsets, std::span<const std::uint64_t> sizes,
                 std::span<Uid> out, unsigned threads, const Poll& poll) {
  check_lengths(offsets, sizes, out);
  const File file = File::open_read(path);
  const std::uint64_t file_size = file.size();
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] > file_size || sizes[i] > file_size - offsets[i]) {
      throw Error(Code::corrupt_data,
                  "range " + std::to_string(i) + " of " + std::to_string(sizes[i]) +
                      " bytes ends beyond the end of the file (" + std::to_string(file_size) +
                      " bytes): the file is truncated, or the index belongs to another file",
                  path, offsets[i]);
    }
  }
  std::vector<std::size_t> order(offsets.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (!std::is_sorted(offsets.begin(), offsets.end())) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return offsets[a] < offsets[b]; });
  }
  std::vector<Group> groups;
  for (std::size_t k = 0; k < order.size(); ++k) {
    const std::uint64_t begin = offsets[order[k]];
    const std::uint64_t end = begin + sizes[order[k]];  // at most file_size: checked above
    if (!groups.empty()) {
      Group& g = groups.back();
      if (begin <= g.end + std::min(kGap, file_size - g.end) && std::max(end, g.end) - g.begin <= kBuffer) {
        g.last = k + 1;
        g.end = std::max(end, g.end);
        continue;
      }
    }
    groups.push_back({k, k + 1, begin, end});
  }
  BufferPool pool;
  // a group of one long range is polled inside, which only the calling thread may do
  const Poll inner = threads == 1 ? poll : Poll{};
  parallel_for(groups.size(), threads, [&](std::size_t index) {
    const Group& g = groups[index];
    BufferPool::Buffer buffer = pool.take();
    if (g.end - g.begin > kBuffer) {
      out[order[g.first]] = hash_stream(file, g.begin, g.end - g.begin, buffer.get(), inner);
    } else {
      file.pread_all({buffer.get(), static_cast<std::size_t>(g.end - g.begin)}, g.begin);
      for (std::size_t k = g.first; k < g.last; ++k) {
        const std::size_t i = order[k];
        out[i] = to_uid(hash_128(buffer.get() + (offsets[i] - g.begin), static_cast<std::size_t>(sizes[i])));
      }
    }
    pool.give(std::move(buffer));
  }, poll);
}

void hash_ranges(std::span<const std::byte> bytes, std::span<const std::uint64_t> offsets,
                 std::span<const std::uint64_t> sizes, std::span<Uid> out, unsigned threads, const Poll& poll) {
  check_lengths(offsets, sizes, out);
  // ranges dealt out some at a time, as many as make a buffer: an item of work is never tiny
  std::vector<std::size_t> begins{0};
  std::uint64_t gathered = 0;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] > bytes.size() || sizes[i] > bytes.size() - offsets[i]) {
      throw Error(Code::invalid_argument, "range " + std::to_string(i) + " of " + std::to_string(sizes[i]) + " bytes at " +
                                              std::to_string(offsets[i]) + " ends beyond the end of the data (" +
                                              std::to_string(bytes.size()) + " bytes)");
    }
    gathered += std::min(sizes[i], kBuffer);
    if (gathered >= kBuffer || i + 1 - begins.back() >= kBuffer) {
      begins.push_back(i + 1);
      gathered = 0;
    }
  }
  if (begins.back() < offsets.size()) begins.push_back(offsets.size());
  parallel_for(begins.size() - 1, threads, [&](std::size_t index) {
    for (std::size_t i = begins[index]; i < begins[index + 1]; ++i) {
      out[i] = to_uid(hash_128(bytes.data() + offsets[i], static_cast<std::size_t>(sizes[i])));
    }
  }, poll);
}

}  // namespace dcfast
