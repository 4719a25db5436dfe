// Compiled with -mavx2.
#include "core/images/shrink_avx2.hpp"

#include <immintrin.h>

#include <cstring>

namespace dcfast::avx2 {

namespace {

/// Three levels of each of two rows; the fourth is of no use.
__m256 pixels_of(const std::uint8_t* one, const std::uint8_t* two) noexcept {
  const __m128i bytes = _mm_unpacklo_epi32(_mm_loadu_si32(one), _mm_loadu_si32(two));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

}  // namespace

void shrink_rows(const ShrinkRows& rows, const ShrinkTaps* taps, std::size_t count, float* sums) noexcept {
  for (std::size_t i = 0; i < count; ++i, sums += 4 * kShrinkRows) {
    __m256 upper = _mm256_setzero_ps();
    __m256 lower = _mm256_setzero_ps();
    std::size_t at = std::size_t{3} * taps[i].first;
    for (std::size_t k = 0; k < taps[i].count; ++k, at += 3) {
      const __m256 weight = _mm256_broadcast_ss(taps[i].weights + k);
      upper = _mm256_add_ps(upper, _mm256_mul_ps(pixels_of(rows[0] + at, rows[1] + at), weight));
      lower = _mm256_add_ps(lower, _mm256_mul_ps(pixels_of(rows[2] + at, rows[3] + at), weight));
    }
    _mm256_storeu_ps(sums, upper);
    _mm256_storeu_ps(sums + 8, lower);
  }
}

void add_shrunk(const float* sums, float weight, bool begins, std::size_t count, float* totals) noexcept {
  const __m128 all = _mm_set1_ps(weight);
  for (std::size_t i = 0; i < count; ++i) {
    const __m128 added = _mm_mul_ps(_mm_loadu_ps(sums + 4 * kShrinkRows * i), all);
    _mm_storeu_ps(totals + 4 * i, begins ? added : _mm_add_ps(_mm_loadu_ps(totals + 4 * i), added));
  }
}

void round_shrunk(const float* totals, std::size_t count, std::uint8_t* out) noexcept {
  const __m128i lowest = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  for (std::size_t i = 0; i < count; ++i, out += 3) {
    const int bytes = _mm_cvtsi128_si32(_mm_shuffle_epi8(_mm_cvtps_epi32(_mm_loadu_ps(totals + 4 * i)), lowest));
    std::memcpy(out, &bytes, 4);
  }
}

}  // namespace dcfast::avx2
