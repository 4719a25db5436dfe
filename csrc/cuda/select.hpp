// What the fused kernels do with a tile's scores, for the device and, in the tests, for the host: the best two of a row,
// their order as bits, and room in a list of pairs that may be too short.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define DCFAST_BOTH __host__ __device__ __forceinline__
#else
#define DCFAST_BOTH inline
#endif

namespace dcfast::select {

DCFAST_BOTH std::uint32_t bits_of(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  std::uint32_t u;
  static_assert(sizeof u == sizeof x);
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
#endif
}

DCFAST_BOTH float float_of(std::uint32_t u) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(u);
#else
  float x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
#endif
}

DCFAST_BOTH constexpr float nothing() { return -std::numeric_limits<float>::infinity(); }

/// Bits that compare as unsigned numbers as the floats do, -0 as +0. Never 0 for a number: 0 is what nobody wrote yet.
DCFAST_BOTH std::uint32_t ordered(float x) {
  const std::uint32_t u = bits_of(x + 0.0F);
  return (u & 0x80000000U) != 0 ? ~u : u | 0x80000000U;
}

DCFAST_BOTH float from_ordered(std::uint32_t u) { return float_of((u & 0x80000000U) != 0 ? u & 0x7fffffffU : ~u); }

/// A score and its column as one number: the larger is the higher score, of equal scores the lower column.
DCFAST_BOTH std::uint64_t pack(float score, std::uint32_t column) {
  return static_cast<std::uint64_t>(ordered(score)) << 32 | static_cast<std::uint32_t>(~column);
}

DCFAST_BOTH float packed_score(std::uint64_t key) { return from_ordered(static_cast<std::uint32_t>(key >> 32)); }
DCFAST_BOTH std::uint32_t packed_column(std::uint64_t key) { return ~static_cast<std::uint32_t>(key); }

/// The two highest scores of a row, and where the first is. Scores come in the order of their columns.
struct BestTwo {
  float first = nothing();
  float second = nothing();
  std::uint32_t place = 0;  // of the first, in the caller's numbering

  /// Five instructions and no branch: this runs once a score. fmaxf and fminf are one instruction each.
  DCFAST_BOTH void add(float score, std::uint32_t at) {
    place = score > first ? at : place;
    second = fmaxf(second, fminf(score, first));
    first = fmaxf(score, first);
  }
};

/// The best two as they are exchanged between threads and tiles.
struct PackedTwo {
  std::uint64_t first;   // pack(score, column)
  std::uint32_t second;  // ordered(score)

  /// Both sides' scores together; no column is in both.
  DCFAST_BOTH PackedTwo merged(const PackedTwo& other) const {
    const bool mine = first > other.first;
    const std::uint32_t loser = static_cast<std::uint32_t>((mine ? other.first : first) >> 32);
    std::uint32_t next = second > other.second ? second : other.second;
    next = next > loser ? next : loser;
    return {mine ? first : other.first, next};
  }
};

/// Enters a tile's best two of a row by atomic maxima: `put_first` returns what was there. Each key is displaced once
/// at most, and whoever displaces it, or is not the highest itself, enters the loser as a second: so the result does
/// not depend on the order of the tiles.
template <typename PutFirst, typename PutSecond>
DCFAST_BOTH void enter(const PackedTwo& found, PutFirst put_first, PutSecond put_second) {
  const std::uint64_t before = put_first(found.first);
  const std::uint32_t loser = static_cast<std::uint32_t>((before < found.first ? before : found.first) >> 32);
  put_second(loser > found.second ? loser : found.second);
}

/// A row and a column as one number, in the order of a sorted join.
DCFAST_BOTH std::uint64_t pair_key(std::uint32_t row, std::uint32_t column) {
  return static_cast<std::uint64_t>(row) << 32 | column;
}

/// A list of pairs with room for `capacity`. `count` goes on beyond it: more than the capacity means that some are lost.
struct PairList {
  std::uint64_t* keys;
  unsigned long long* count;
  std::uint64_t capacity;

  DCFAST_BOTH void put(std::uint64_t at, std::uint64_t key) const {
    if (at < capacity) keys[at] = key;
  }
};

/// Whether a score belongs to the answer: equality does, NaN does not.
DCFAST_BOTH bool passes(float score, float threshold) { return score >= threshold; }

}  // namespace dcfast::select
