// The inner loop of exp_sums: a tile of products of 16-bit numbers, their exponentials, and these summed both ways.
// Compiled once for every machine and once for AVX2, with the same operations in the same order: no names that the
// linker would merge, nothing of the standard library.
#pragma once

#include "core/similarity/exp_layout.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

// A function that is compiled by itself: GCC keeps sums in memory where it knows who calls.
#ifdef __clang__
#define DCFAST_ALONE [[gnu::noinline]]
#else
#define DCFAST_ALONE [[gnu::noipa]]
#endif

namespace dcfast {
namespace {

#ifdef __AVX2__

struct Floats {
  __m256 v;
};
struct Ints {
  __m256i v;
};

inline Floats load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Floats a) { _mm256_storeu_ps(p, a.v); }
inline Floats all(float x) { return {_mm256_set1_ps(x)}; }
inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Floats clamp(Floats a, float low, float high) {
  return {_mm256_min_ps(_mm256_max_ps(a.v, _mm256_set1_ps(low)), _mm256_set1_ps(high))};
}
inline Ints rounded(Floats a) { return {_mm256_cvtps_epi32(a.v)}; }
inline Floats as_floats(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }
/// p * 2^n, and 0 where n is below the exponents of normal numbers
inline Floats scaled(Floats p, Ints n) {
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p.v), _mm256_slli_epi32(n.v, 23));
  const __m256i normal = _mm256_cmpgt_epi32(n.v, _mm256_set1_epi32(kLeastExponent));
  return {_mm256_castsi256_ps(_mm256_and_si256(bits, normal))};
}

/// products[r][c] = the sum over k of rows[k][r] * columns[k][c], in pairs of k. A call of its own that does nothing else:
/// its loop takes all 16 registers.
DCFAST_ALONE void multiply_part(const std::int16_t* rows, const std::int16_t* columns, std::size_t pairs,
                                     Ints (&products)[kTileRows][2]) {
  __m256i sums[kTileRows][2];
#pragma GCC unroll 6
  for (auto& sum : sums) sum[0] = sum[1] = _mm256_setzero_si256();
  for (std::size_t k = 0; k < pairs; ++k) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns + kLanes * 2));
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kTileRows; ++r) {
      int pair;
      __builtin_memcpy(&pair, rows + 2 * r, sizeof(pair));
      const __m256i row = _mm256_set1_epi32(pair);
      sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(row, low));
      sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(row, high));
    }
    rows += 2 * kTileRows;
    columns += 2 * kTileColumns;
  }
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kTileRows; ++r) {
    products[r][0].v = sums[r][0];
    products[r][1].v = sums[r][1];
  }
}

#else

struct Floats {
  float v[kLanes];
};
struct Ints {
  std::int32_t v[kLanes];
};

template <typename Result, typename Make>
inline Result each(const Make& make) {
  Result result;
  for (std::size_t i = 0; i < kLanes; ++i) result.v[i] = make(i);
  return result;
}

inline Floats load(const float* p) { return each<Floats>([&](std::size_t i) { return p[i]; }); }
inline void store(float* p, Floats a) { __builtin_memcpy(p, a.v, sizeof(a.v)); }
inline Floats all(float x) { return each<Floats>([&](std::size_t) { return x; }); }
inline Floats add(Floats a, Floats b) { return each<Floats>([&](std::size_t i) { return a.v[i] + b.v[i]; }); }
inline Floats sub(Floats a, Floats b) { return each<Floats>([&](std::size_t i) { return a.v[i] - b.v[i]; }); }
inline Floats mul(Floats a, Floats b) { return each<Floats>([&](std::size_t i) { return a.v[i] * b.v[i]; }); }
inline Floats clamp(Floats a, float low, float high) {
  return each<Floats>([&](std::size_t i) { return a.v[i] < low ? low : a.v[i] > high ? high : a.v[i]; });
}
inline Ints rounded(Floats a) {
  return each<Ints>([&](std::size_t i) { return static_cast<std::int32_t>(__builtin_rintf(a.v[i])); });
}
inline Floats as_floats(Ints a) { return each<Floats>([&](std::size_t i) { return static_cast<float>(a.v[i]); }); }
/// p * 2^n, and 0 where n is below the exponents of normal numbers
inline Floats scaled(Floats p, Ints n) {
  return each<Floats>([&](std::size_t i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &p.v[i], sizeof(bits));
    bits += static_cast<std::uint32_t>(n.v[i]) << 23;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return n.v[i] > kLeastExponent ? value : 0.0F;
  });
}

/// products[r][c] = the sum over k of rows[k][r] * columns[k][c], in pairs of k.
void multiply_part(const std::int16_t* rows, const std::int16_t* columns, std::size_t pairs, Ints (&products)[kTileRows][2]) {
  std::int32_t sums[kTileRows][kTileColumns] = {};
  for (std::size_t k = 0; k < pairs; ++k) {
    for (std::size_t r = 0; r < kTileRows; ++r) {
      const std::int32_t first = rows[2 * r];
      const std::int32_t second = rows[2 * r + 1];
      for (std::size_t c = 0; c < kTileColumns; ++c) sums[r][c] += first * columns[2 * c] + second * columns[2 * c + 1];
    }
    rows += 2 * kTileRows;
    columns += 2 * kTileColumns;
  }
  __builtin_memcpy(&products, &sums, sizeof(sums));
}

#endif

// of exp(f ln 2) for |f| <= 1/2, the highest power first
constexpr float kTaylor[7] = {1.5403530e-4F, 1.3333558e-3F, 9.6181291e-3F, 5.5504109e-2F, 2.4022651e-1F, 6.9314718e-1F, 1.0F};

/// 2^y to 2e-7 of itself; 0 where y is below -126
inline Floats exp2_of(Floats y) {
  y = clamp(y, -160.0F, 126.0F);
  const Ints whole = rounded(y);
  const Floats f = sub(y, as_floats(whole));
  Floats p = all(kTaylor[0]);
  for (std::size_t k = 1; k < 7; ++k) p = add(mul(p, f), all(kTaylor[k]));
  return scaled(p, whole);
}

/// All products of a tile; a float after each part: 32 bits hold no more of numbers as fine as these.
inline void multiply(const std::int16_t* rows, const std::int16_t* columns, std::size_t pairs, Floats (&totals)[kTileRows][2]) {
  for (auto& total : totals) total[0] = total[1] = all(0.0F);
  for (std::size_t k = 0; k < pairs; k += kPartPairs) {
    const std::size_t some = pairs - k < kPartPairs ? pairs - k : kPartPairs;
    Ints products[kTileRows][2];
    multiply_part(rows + k * 2 * kTileRows, columns + k * 2 * kTileColumns, some, products);
    for (std::size_t r = 0; r < kTileRows; ++r) {
      for (std::size_t half = 0; half < 2; ++half) totals[r][half] = add(totals[r][half], as_floats(products[r][half]));
    }
  }
}

/// Adds the exponentials of a strip of tiles to the sums of its rows and columns.
void add_strip(const ExpStrip& strip) {
  Floats row_sums[kTileRows];
  for (Floats& sum : row_sums) sum = all(0.0F);
  const Floats unit = all(strip.unit);
  for (std::size_t tile = 0; tile < strip.tiles; ++tile) {
    Floats products[kTileRows][2];
    multiply(strip.rows, strip.columns + tile * strip.pairs * 2 * kTileColumns, strip.pairs, products);
    Floats column_sums[2] = {all(0.0F), all(0.0F)};
    for (std::size_t r = 0; r < strip.count; ++r) {
      const Floats of_row = all(strip.row_offsets[r]);
      const std::size_t own = strip.first_row + r - strip.first_column - tile * kTileColumns;  // its pair's place
      for (std::size_t half = 0; half < 2; ++half) {
        const Floats of_column = load(strip.column_offsets + tile * kTileColumns + half * kLanes);
        Floats e = exp2_of(add(mul(products[r][half], unit), add(of_row, of_column)));
        if (own - half * kLanes < kLanes) {
          float lanes[kLanes];
          store(lanes, e);
          lanes[own - half * kLanes] = 0.0F;
          e = load(lanes);
        }
        row_sums[r] = add(row_sums[r], e);
        column_sums[half] = add(column_sums[half], e);
      }
    }
    float lanes[kTileColumns];
    store(lanes, column_sums[0]);
    store(lanes + kLanes, column_sums[1]);
    double* const into = strip.column_sums + tile * kTileColumns;
    for (std::size_t c = 0; c < kTileColumns; ++c) into[c] += static_cast<double>(lanes[c]);
  }
  for (std::size_t r = 0; r < strip.count; ++r) {
    float lanes[kLanes];
    store(lanes, row_sums[r]);
    double total = 0;
    for (const float lane : lanes) total += static_cast<double>(lane);
    strip.row_sums[r] += total;
  }
}

}  // namespace
}  // namespace dcfast
