// Included by select_avx512.cpp and select_vnni.cpp: the same loops, with VNNI's products where the
// including file is compiled for them. Eight rows by two column panels at a time.
#pragma once

#include <immintrin.h>

#include "core/similarity/encode_loop.hpp"
#include "core/similarity/select_kernels.hpp"

namespace {

using dcfast::kChunkQuads;
using dcfast::kColumnPanel;
using dcfast::kQueryOffset;
using dcfast::kRowPanel;
using dcfast::Strip;

constexpr std::size_t kRows = 2 * kRowPanel;

[[gnu::always_inline]] inline __m512i load(const std::byte* at) { return _mm512_loadu_si512(at); }

[[gnu::always_inline]] inline __m512i spread(const std::byte* at) {
  std::int32_t four;
  __builtin_memcpy(&four, at, 4);
  return _mm512_set1_epi32(four);
}

/// sum + the products of wide codes
[[gnu::always_inline]] inline __m512i add_wide(__m512i sum, __m512i row, __m512i column) {
#ifdef __AVX512VNNI__
  return _mm512_dpwssd_epi32(sum, row, column);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(row, column));
#endif
}

template <std::size_t panels>
[[gnu::always_inline]] inline void multiply_wide(const std::byte* const (&rows)[2], const std::byte* columns, std::size_t panel_bytes, std::size_t steps,
                                                 __m512i (&sums)[kRows][panels]) {
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm512_setzero_si512();
  }
  for (std::size_t step = 0; step < steps; ++step) {
    __m512i column[panels];
#pragma GCC unroll 2
    for (std::size_t p = 0; p < panels; ++p) column[p] = load(columns + p * panel_bytes + 64 * step);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i row = spread(rows[r / kRowPanel] + 16 * step + 4 * (r % kRowPanel));
#pragma GCC unroll 2
      for (std::size_t p = 0; p < panels; ++p) sums[r][p] = add_wide(sums[r][p], row, column[p]);
    }
  }
}

template <std::size_t panels>
[[gnu::always_inline]] inline void multiply_narrow(const std::byte* const (&rows)[2], const std::byte* columns, std::size_t panel_bytes, std::size_t steps,
                                                   [[maybe_unused]] const std::int32_t* column_sums, __m512i (&sums)[kRows][panels]) {
  for (auto& row : sums) {
    for (std::size_t p = 0; p < panels; ++p) {
#ifdef __AVX512VNNI__
      row[p] = _mm512_mullo_epi32(_mm512_loadu_si512(column_sums + p * kColumnPanel), _mm512_set1_epi32(-kQueryOffset));
#else
      row[p] = _mm512_setzero_si512();
#endif
    }
  }
  for (std::size_t chunk = 0, at = 0; chunk < steps; chunk += kChunkQuads, at += 64 * (kChunkQuads + 1)) {
#ifndef __AVX512VNNI__
    __m512i part[kRows][panels];
    for (auto& row : part) {
      for (std::size_t p = 0; p < panels; ++p) row[p] = load(columns + p * panel_bytes + at);
    }
#endif
    for (std::size_t step = 0; step < kChunkQuads; ++step) {
      __m512i column[panels];
#pragma GCC unroll 2
      for (std::size_t p = 0; p < panels; ++p) column[p] = load(columns + p * panel_bytes + at + 64 * (step + 1));
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i row = spread(rows[r / kRowPanel] + 16 * (chunk + step) + 4 * (r % kRowPanel));
#pragma GCC unroll 2
        for (std::size_t p = 0; p < panels; ++p) {
#ifdef __AVX512VNNI__
          sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], row, column[p]);
#else
          part[r][p] = _mm512_add_epi16(part[r][p], _mm512_maddubs_epi16(row, column[p]));
#endif
        }
      }
    }
#ifndef __AVX512VNNI__
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t p = 0; p < panels; ++p) {
        sums[r][p] = _mm512_add_epi32(sums[r][p], _mm512_madd_epi16(part[r][p], _mm512_set1_epi16(1)));
      }
    }
#endif
  }
}

template <bool narrow, std::size_t panels>
[[gnu::always_inline]] inline std::size_t strip_of(const Strip& s, std::size_t found) {
  const std::size_t panel_bytes = 4 * kColumnPanel * (narrow ? s.steps + s.steps / kChunkQuads : s.steps);
  const std::size_t row_bytes = 4 * kRowPanel * s.steps;
  const __m512i keep = _mm512_set1_epi32(s.magnitudes ? 0x7fffffff : -1);
  for (std::size_t panel = 0; panel < s.row_panels; panel += 2) {
    // of an odd number of row panels the last is multiplied twice and looked at once
    const bool both = panel + 1 < s.row_panels;
    const std::byte* const rows[2] = {s.queries + panel * row_bytes, s.queries + (both ? panel + 1 : panel) * row_bytes};
    __m512i sums[kRows][panels];
    if constexpr (narrow) multiply_narrow<panels>(rows, s.columns, panel_bytes, s.steps, s.column_sums, sums);
    else multiply_wide<panels>(rows, s.columns, panel_bytes, s.steps, sums);
    for (std::size_t r = 0; r < (both ? kRows : kRowPanel); ++r) {
      const std::size_t row = panel * kRowPanel + r;
      const __m512 row_scale = _mm512_set1_ps(s.row_scale[row]), threshold = _mm512_set1_ps(s.threshold[row]);
      for (std::size_t p = 0; p < panels; ++p) {
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][p]), _mm512_loadu_ps(s.column_scale + p * kColumnPanel));
        const __m512 raw = _mm512_fmadd_ps(scaled, row_scale, _mm512_loadu_ps(s.column_bias + p * kColumnPanel));
        const __m512 value = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(raw), keep));
        unsigned mask = _mm512_cmp_ps_mask(value, threshold, _CMP_NLT_UQ);
        if (mask == 0) [[likely]] continue;
        float values[kColumnPanel];
        _mm512_storeu_ps(values, value);
        for (; mask != 0; mask &= mask - 1) {
          const auto c = static_cast<std::uint32_t>(__builtin_ctz(mask));
          s.hits[found++] = {static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(p * kColumnPanel + c), values[c]};
        }
      }
    }
  }
  return found;
}

template <bool narrow>
std::size_t strip(const Strip& s) {
  if (s.column_panels == 2) return strip_of<narrow, 2>(s, 0);
  return strip_of<narrow, 1>(s, 0);
}

}  // namespace
