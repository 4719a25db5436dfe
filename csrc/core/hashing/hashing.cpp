#include "core/hashing/hashing.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "core/hashing/hashing_avx2.hpp"
#include "core/system/cpu.hpp"

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

struct StateDelete {
  void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
};

/// The hash of what `read` brings, piece by piece: it fills a buffer of kPiece bytes from `done` on, less at the end alone.
template <typename Read>
Uid hash_pieces(const Poll& poll, const Read& read) {
  // allocated, not on the stack: the state must lie on a 64-byte boundary
  const std::unique_ptr<XXH3_state_t, StateDelete> state(XXH3_createState());
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kPiece);
  std::size_t count = kPiece;
  for (std::uint64_t done = 0; count == kPiece; done += count) {
    if (poll) poll();
    count = read(std::span(buffer.get(), kPiece), done);
    update_128(state.get(), buffer.get(), count);
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
  refuse_argument("offsets and sizes must be equally long; got ", offsets.size(), " and ", sizes.size());
}

}  // namespace

Uid xxh3_128(std::span<const std::byte> bytes) { return to_uid(hash_128(bytes.data(), bytes.size())); }

std::uint64_t xxh3_64(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Uid hash_file(const std::string& path, const Poll& poll) {
  const File file = File::open_read(path);
  // read to the end rather than to a size asked before: files of /proc say 0
  return hash_pieces(poll, [&](std::span<std::byte> piece, std::uint64_t done) { return file.pread_some(piece, done); });
}

Uid hash_range(const File& file, std::uint64_t offset, std::uint64_t size, const Poll& poll) {
  return hash_pieces(poll, [&](std::span<std::byte> piece, std::uint64_t done) {
    piece = piece.first(std::min(piece.size(), size - done));
    file.pread_all(piece, offset + done);
    return piece.size();
  });
}

void hash_ranges(const std::string& path, std::span<const std::uint64_t> offsets, std::span<const std::uint64_t> sizes,
                 std::span<Uid> out, unsigned threads, const Poll& poll) {
  check_lengths(offsets, sizes, out);
  const File file = File::open_read(path);
  const std::uint64_t file_size = file.size();
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] > file_size || sizes[i] > file_size - offsets[i]) {
      throw Error(Code::corrupt_data, cat("range ", i, " of ", sizes[i], " bytes ends beyond the end of the file (", file_size,
                  " bytes): the file is truncated, or the index belongs to another file"), path, offsets[i]);
    }
  }
  std::vector<std::size_t> order(offsets.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (!std::ranges::is_sorted(offsets)) std::ranges::stable_sort(order, {}, [&](std::size_t i) { return offsets[i]; });
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
  parallel_for(groups.size(), threads, [&](std::size_t index, const Poll& check) {
    const Group& g = groups[index];
    if (g.end - g.begin > kBuffer) {
      out[order[g.first]] = hash_range(file, g.begin, g.end - g.begin, check);
      return;
    }
    thread_local const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kBuffer);
    file.pread_all({buffer.get(), g.end - g.begin}, g.begin);
    for (std::size_t k = g.first; k < g.last; ++k) {
      const std::size_t i = order[k];
      out[i] = to_uid(hash_128(buffer.get() + (offsets[i] - g.begin), sizes[i]));
    }
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
      refuse_argument("range ", i, " of ", sizes[i], " bytes at ", offsets[i], " ends beyond the end of the data (",
                      bytes.size(), " bytes)");
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
      out[i] = to_uid(hash_128(bytes.data() + offsets[i], sizes[i]));
    }
  }, poll);
}

}  // namespace dcfast
