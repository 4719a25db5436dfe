// Sorting of uids and records: one parallel radix pass by the leading bits that differ, then each bucket
// by itself. Relies on uids being hashes for speed, on nothing for correctness: the order is total over
// all words, so the bytes of the result depend on the input alone.
#pragma once

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "core/system/error.hpp"
#include "core/uids/uid_set.hpp"

namespace dcfast::uid_detail {

using Key128 = unsigned __int128;

template <typename T>
Key128 key_of(const T& v) noexcept {
  return (static_cast<Key128>(v.hi) << 64) | v.lo;
}

inline bool less(const Uid& a, const Uid& b) noexcept { return key_of(a) < key_of(b); }
inline bool less(const UidRecord& a, const UidRecord& b) noexcept {
  const Key128 x = key_of(a);
  const Key128 y = key_of(b);
  return x < y || (x == y && a.payload < b.payload);
}

inline std::uint64_t word(const Uid& v, int which) noexcept { return which == 0 ? v.hi : v.lo; }
inline std::uint64_t word(const UidRecord& v, int which) noexcept {
  return which == 0 ? v.hi : which == 1 ? v.lo : v.payload;
}

/// Memory without the zeroing that the default values of T would cost; in huge pages where it is large, which
/// saves most of the page faults and of the misses of address translation.
template <typename T>
class Scratch {
 public:
  explicit Scratch(std::size_t count) : memory_(allocate(checked_mul(count, sizeof(T), "scratch memory"))) {}
  T* data() noexcept { return static_cast<T*>(memory_.get()); }

 private:
  struct Free {
    void operator()(void* p) const noexcept { std::free(p); }
  };
  static void* allocate(std::size_t bytes) {
    constexpr std::size_t huge = std::size_t{2} << 20;
    const bool large = bytes >= 2 * huge && bytes <= std::numeric_limits<std::size_t>::max() - huge;
    void* const p = large ? std::aligned_alloc(huge, (bytes + huge - 1) / huge * huge)
                          : std::malloc(std::max<std::size_t>(bytes, 1));
    if (p == nullptr) throw std::bad_alloc();
    if (large) (void)::madvise(p, bytes, MADV_HUGEPAGE);  // advice: a kernel without it loses only speed
    return p;
  }
  std::unique_ptr<void, Free> memory_;
};

/// Which bits tell the buckets apart: `bits` bits of word `which`, down to `shift`.
struct Digit {
  int which = -1;  // -1: all values are equal
  unsigned shift = 0;
  unsigned bits = 0;
  template <typename T>
  std::size_t operator()(const T& v) const noexcept {
    return static_cast<std::size_t>((word(v, which) >> shift) & ((std::uint64_t{1} << bits) - 1));
  }
};

/// The leading `bits` of the differing bits, given the OR of (value XOR first value) for each word.
inline Digit leading_digit(const std::array<std::uint64_t, 3>& difference, unsigned bits) noexcept {
  for (int which = 0; which < 3; ++which) {
    const std::uint64_t d = difference[static_cast<std::size_t>(which)];
    if (d == 0) continue;
    const auto width = static_cast<unsigned>(std::bit_width(d));
    const unsigned used = std::min(bits, width);
    return {which, width - used, used};
  }
  return {};
}

inline void add_difference(std::array<std::uint64_t, 3>& d, const Uid& v, const Uid& first) noexcept {
  d[0] |= v.hi ^ first.hi;
  d[1] |= v.lo ^ first.lo;
}
inline void add_difference(std::array<std::uint64_t, 3>& d, const UidRecord& v, const UidRecord& first) noexcept {
  d[0] |= v.hi ^ first.hi;
  d[1] |= v.lo ^ first.lo;
  d[2] |= v.payload ^ first.payload;
}

/// Moves each value back to its place: fast where all are near theirs.
template <typename T>
void insertion_sort(T* data, std::size_t n) noexcept {
  for (std::size_t i = 1; i < n; ++i) {
    if (!less(data[i], data[i - 1])) continue;
    const T v = data[i];
    std::size_t at = i;
    do {
      data[at] = data[at - 1];
      --at;
    } while (at > 0 && less(v, data[at - 1]));
    data[at] = v;
  }
}

inline constexpr std::size_t kInsertionSize = 16;
inline constexpr unsigned kMaxBits = 11;  // 2,048 counters stay in the first-level cache
// Values that share long prefixes use up few bits a level; beyond this many levels comparing is cheaper.
inline constexpr int kMaxDepth = 6;

/// Sorts data[0, n) using scratch[0, n). O(n) a level for at most kMaxDepth levels, then O(n log n).
template <typename T>
void sort_bucket(T* data, std::size_t n, T* scratch, int depth) {
  if (n <= kInsertionSize) {
    insertion_sort(data, n);
    return;
  }
  if (depth >= kMaxDepth) {
    std::sort(data, data + n, [](const T& a, const T& b) { return less(a, b); });
    return;
  }
  std::array<std::uint64_t, 3> difference{};
  for (std::size_t i = 1; i < n; ++i) add_difference(difference, data[i], data[0]);
  const auto wanted = static_cast<unsigned>(std::bit_width(n) - 1);
  const Digit digit = leading_digit(difference, std::min(wanted, kMaxBits));
  if (digit.which < 0) return;
  const std::size_t num_buckets = std::size_t{1} << digit.bits;
  std::array<std::size_t, (1U << kMaxBits)> end;
  std::fill_n(end.begin(), num_buckets, 0);
  for (std::size_t i = 0; i < n; ++i) ++end[digit(data[i])];
  std::size_t sum = 0;
  std::size_t largest = 0;
  for (std::size_t b = 0; b < num_buckets; ++b) {
    const std::size_t count = end[b];
    largest = std::max(largest, count);
    end[b] = sum;
    sum += count;
  }
  for (std::size_t i = 0; i < n; ++i) scratch[end[digit(data[i])]++] = data[i];
  std::memcpy(static_cast<void*>(data), scratch, n * sizeof(T));
  if (largest > kInsertionSize) {
    std::size_t begin = 0;
    for (std::size_t b = 0; b < num_buckets; ++b) {
      if (end[b] - begin > kInsertionSize) sort_bucket(data + begin, end[b] - begin, scratch + begin, depth + 1);
      begin = end[b];
    }
  }
  insertion_sort(data, n);  // buckets are in order: this only moves values inside the small ones
}

/// values cut into `chunks` nearly equal ranges; range c is [cut(n, chunks, c), cut(n, chunks, c + 1)).
inline std::size_t cut(std::size_t n, std::size_t chunks, std::size_t c) noexcept {
  return n / chunks * c + std::min(c, n % chunks);
}

/// The first i with values[i] < values[i - 1], or the size.
template <typename T>
std::size_t first_unsorted(std::span<const T> values, unsigned threads, const Poll& poll) {
  const std::size_t n = values.size();
  if (n < 2) return n;
  constexpr std::size_t block = std::size_t{1} << 18;
  const std::size_t num_blocks = (n - 1 + block - 1) / block;
  std::atomic<std::size_t> found{n};
  parallel_for(num_blocks, threads, [&](std::size_t b) {
    const std::size_t begin = 1 + b * block;
    const std::size_t end = std::min(n, begin + block);
    if (begin > found.load(std::memory_order_relaxed)) return;
    // whole groups without a branch on the data, so that the loop runs at the speed of memory
    constexpr std::size_t group = 64;
    for (std::size_t i = begin; i < end; i += group) {
      const std::size_t stop = std::min(end, i + group);
      bool bad = false;
      for (std::size_t k = i; k < stop; ++k) bad |= less(values[k], values[k - 1]);
      if (!bad) continue;
      for (std::size_t k = i; k < stop; ++k) {
        if (!less(values[k], values[k - 1])) continue;
        std::size_t seen = found.load();
        while (k < seen && !found.compare_exchange_weak(seen, k)) {
        }
        return;
      }
    }
  }, poll);
  return found.load();
}

/// Sorts `in` into `out`: see sort_uids.
template <typename T>
void sort_into(std::span<const T> in, std::span<T> out, unsigned threads, const Poll& poll) {
  const std::size_t n = in.size();
  if (n == 0) return;
  threads = resolve_threads(threads);
  if (n < (std::size_t{1} << 13)) {
    std::memcpy(static_cast<void*>(out.data()), in.data(), n * sizeof(T));
    Scratch<T> scratch(n);
    sort_bucket(out.data(), n, scratch.data(), 0);
    return;
  }
  if (first_unsorted(in, threads, poll) == n) {
    std::memcpy(static_cast<void*>(out.data()), in.data(), n * sizeof(T));
    return;
  }
  // More chunks than threads only so that a long sort can be interrupted.
  const std::size_t chunks = std::max<std::size_t>(threads, n >> 24);
  std::vector<std::array<std::uint64_t, 3>> differences(chunks);
  parallel_for(chunks, threads, [&](std::size_t c) {
    std::array<std::uint64_t, 3> d{};
    for (std::size_t i = cut(n, chunks, c), end = cut(n, chunks, c + 1); i < end; ++i) add_difference(d, in[i], in[0]);
    differences[c] = d;
  }, poll);
  std::array<std::uint64_t, 3> difference{};
  for (const auto& d : differences) {
    for (std::size_t w = 0; w < 3; ++w) difference[w] |= d[w];
  }
  // Buckets of about 2,000 values: they fit the second-level cache with their scratch.
  const auto width = static_cast<unsigned>(std::bit_width(n));
  const Digit digit = leading_digit(difference, std::min(width > 12 ? width - 12 : 1U, 12U));
  const std::size_t num_buckets = std::size_t{1} << digit.bits;
  std::vector<std::vector<std::size_t>> at(chunks);
  parallel_for(chunks, threads, [&](std::size_t c) {
    std::vector<std::size_t> count(num_buckets, 0);
    for (std::size_t i = cut(n, chunks, c), end = cut(n, chunks, c + 1); i < end; ++i) ++count[digit(in[i])];
    at[c] = std::move(count);
  }, poll);
  std::vector<std::size_t> begin(num_buckets + 1, n);
  std::size_t sum = 0;
  for (std::size_t b = 0; b < num_buckets; ++b) {
    begin[b] = sum;
    for (std::size_t c = 0; c < chunks; ++c) {
      const std::size_t count = at[c][b];
      at[c][b] = sum;
      sum += count;
    }
  }
  parallel_for(chunks, threads, [&](std::size_t c) {
    std::size_t* const place = at[c].data();
    for (std::size_t i = cut(n, chunks, c), end = cut(n, chunks, c + 1); i < end; ++i) {
      const T value = in[i];
      const std::size_t to = place[digit(value)]++;
      if (to >= n) throw Error(Code::corrupt_data, "the values changed while they were sorted");
      out[to] = value;
    }
  }, poll);
  parallel_for(num_buckets, threads, [&](std::size_t b) {
    const std::size_t count = begin[b + 1] - begin[b];
    if (count < 2) return;
    Scratch<T> scratch(count);
    sort_bucket(out.data() + begin[b], count, scratch.data(), 1);
  }, poll);
}

}  // namespace dcfast::uid_detail
