// Compiled with -mavx2. Nothing that may be inlined elsewhere is included.
#include "core/similarity/centroid_sums_avx2.hpp"

#include <immintrin.h>

namespace dcfast::avx2 {
namespace {

inline void add_four(std::int64_t* sums, __m128i whole) {
  auto* const at = reinterpret_cast<__m256i*>(sums);
  _mm256_storeu_si256(at, _mm256_add_epi64(_mm256_loadu_si256(at), _mm256_cvtepi32_epi64(whole)));
}

}  // namespace

bool add_whole(const float* values, std::int64_t* sums, std::size_t count, float one, float most) noexcept {
  const __m256 scale = _mm256_set1_ps(one), bound = _mm256_set1_ps(most), sign = _mm256_set1_ps(-0.0F);
  __m256 within = _mm256_cmp_ps(scale, scale, _CMP_EQ_OQ);
  for (std::size_t i = 0; i < count; i += 8) {
    const __m256 value = _mm256_loadu_ps(values + i);
    within = _mm256_and_ps(within, _mm256_cmp_ps(_mm256_andnot_ps(sign, value), bound, _CMP_LE_OQ));  // false for NaN
    const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(value, scale));
    add_four(sums + i, _mm256_castsi256_si128(whole));
    add_four(sums + i + 4, _mm256_extracti128_si256(whole, 1));
  }
  return _mm256_movemask_ps(within) == 0xFF;
}

}  // namespace dcfast::avx2
