// Compiled with -mavx2 -mfma -mf16c -ffp-contract=off.
#include <immintrin.h>

#include "core/similarity/encode_loop.hpp"
#include "core/similarity/select_kernels.hpp"

namespace dcfast::avx2 {
namespace {

constexpr std::size_t kHalves = 2;  // vectors of a column panel

using Sums = __m256i[kRowPanel][kHalves];

[[gnu::always_inline]] inline __m256i load(const std::byte* at) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(at)); }

[[gnu::always_inline]] inline __m256i spread(const std::byte* at) {
  std::int32_t four;
  __builtin_memcpy(&four, at, 4);
  return _mm256_set1_epi32(four);
}

[[gnu::always_inline]] inline void multiply_wide(const std::byte* rows, const std::byte* columns, std::size_t steps, Sums& sums) {
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_si256();
  for (std::size_t step = 0; step < steps; ++step, rows += 16, columns += 64) {
    const __m256i low = load(columns), high = load(columns + 32);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRowPanel; ++r) {
      const __m256i row = spread(rows + 4 * r);
      sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(row, low));
      sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(row, high));
    }
  }
}

/// The 16-bit sums of a chunk begin with what takes the offset of the queries away again. They wrap on the way; in the end
/// they fit, which the scale of the codes sees to (packed_rows.cpp).
[[gnu::always_inline]] inline void multiply_narrow(const std::byte* rows, const std::byte* columns, std::size_t steps, Sums& sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_si256();
  for (std::size_t chunk = 0; chunk < steps; chunk += kChunkQuads) {
    Sums part;
    for (auto& row : part) {
      row[0] = load(columns);
      row[1] = load(columns + 32);
    }
    columns += 64;
    for (std::size_t step = 0; step < kChunkQuads; ++step, rows += 16, columns += 64) {
      const __m256i low = load(columns), high = load(columns + 32);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRowPanel; ++r) {
        const __m256i row = spread(rows + 4 * r);
        part[r][0] = _mm256_add_epi16(part[r][0], _mm256_maddubs_epi16(row, low));
        part[r][1] = _mm256_add_epi16(part[r][1], _mm256_maddubs_epi16(row, high));
      }
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRowPanel; ++r) {
      sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(part[r][0], ones));
      sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(part[r][1], ones));
    }
  }
}

template <bool narrow>
std::size_t strip(const Strip& s) {
  std::size_t found = 0;
  const std::size_t panel_bytes = 4 * kColumnPanel * (narrow ? s.steps + s.steps / kChunkQuads : s.steps);
  const __m256 keep = _mm256_castsi256_ps(_mm256_set1_epi32(s.magnitudes ? 0x7fffffff : -1));
  for (std::size_t p = 0; p < s.column_panels; ++p) {
    __m256 scale[kHalves], bias[kHalves];
    for (std::size_t h = 0; h < kHalves; ++h) {
      scale[h] = _mm256_loadu_ps(s.column_scale + p * kColumnPanel + 8 * h);
      bias[h] = _mm256_loadu_ps(s.column_bias + p * kColumnPanel + 8 * h);
    }
    for (std::size_t panel = 0; panel < s.row_panels; ++panel) {
      Sums sums;
      const std::byte* const rows = s.queries + panel * 4 * kRowPanel * s.steps;
      if constexpr (narrow) multiply_narrow(rows, s.columns + p * panel_bytes, s.steps, sums);
      else multiply_wide(rows, s.columns + p * panel_bytes, s.steps, sums);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRowPanel; ++r) {
        const std::size_t row = panel * kRowPanel + r;
        const __m256 row_scale = _mm256_broadcast_ss(s.row_scale + row), threshold = _mm256_broadcast_ss(s.threshold + row);
        __m256 value[kHalves];
        unsigned mask = 0;
        for (std::size_t h = 0; h < kHalves; ++h) {
          const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][h]), scale[h]);
          value[h] = _mm256_and_ps(_mm256_fmadd_ps(scaled, row_scale, bias[h]), keep);
          mask |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(value[h], threshold, _CMP_NLT_UQ))) << (8 * h);
        }
        if (mask == 0) [[likely]] continue;
        alignas(32) float values[kColumnPanel];
        _mm256_store_ps(values, value[0]);
        _mm256_store_ps(values + 8, value[1]);
        for (; mask != 0; mask &= mask - 1) {
          const auto c = static_cast<std::uint32_t>(__builtin_ctz(mask));
          s.hits[found++] = {static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(p * kColumnPanel + c), values[c]};
        }
      }
    }
  }
  return found;
}

}  // namespace

const SelectKernels select_kernels{"avx2", row_shape, encode_row, to_double, exact_score<false>, exact_score<true>, strip<false>, strip<true>};

}  // namespace dcfast::avx2
