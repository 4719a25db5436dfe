// Compiled with -mavx2. Nothing that may be inlined elsewhere is included.
//
// A weight of 23 bits is 2^11 * high + low, each of which fits the multiplier of 16 bits: two sums of products, exact, and
// put together at the end.
#include "core/images/resize_avx2.hpp"

#include <immintrin.h>

namespace dcfast::avx2 {
namespace {

constexpr int kRows = 4;

inline __m128i load16(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
inline __m256i load32(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline __m256i load_two(const void* low, const void* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(low)), load16(high), 1);
}

/// Of four pixels of three bytes the first two, and the last two: pairs of 16 bits of red, green, blue.
inline __m256i first_pair() {
  const __m128i order = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  return _mm256_broadcastsi128_si256(order);
}
inline __m256i second_pair() {
  const __m128i order = _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  return _mm256_broadcastsi128_si256(order);
}

inline __m256i multiply_add(__m256i sum, __m256i pixels, __m256i weights) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pixels, weights));
}

/// Rounded levels, not clipped.
inline __m256i levels_of(__m256i high, __m256i low) {
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, 11), low), 22);
}

inline void store_pixel(std::uint8_t* at, int pixel) { __builtin_memcpy(at, &pixel, sizeof(pixel)); }

inline void store_rows(std::uint8_t* const* out, std::size_t at, __m128i pixels) {
  store_pixel(out[0] + at, _mm_cvtsi128_si32(pixels));
  store_pixel(out[1] + at, _mm_extract_epi32(pixels, 1));
  store_pixel(out[2] + at, _mm_extract_epi32(pixels, 2));
  store_pixel(out[3] + at, _mm_extract_epi32(pixels, 3));
}

}  // namespace

void resize_across(const std::uint8_t* const* rows, const std::uint32_t* first, const std::int16_t* split, std::uint32_t size,
                   std::uint32_t slots, std::uint32_t pairs, std::uint8_t* const* out) noexcept {
  const std::size_t stride = std::size_t{2} * slots;
  const __m256i half = _mm256_set1_epi32(1 << 21);
  const __m256i order_a = first_pair(), order_b = second_pair();
  for (std::uint32_t x = 0; x < size; x += 2) {  // two pixels of four rows at a time
    const std::uint32_t next = x + 1 < size ? x + 1 : x;
    const std::int16_t* left_weights = split + x * stride;
    const std::int16_t* right_weights = split + next * stride;
    std::size_t left = std::size_t{3} * first[x], right = std::size_t{3} * first[next];
    __m256i high[kRows], low[kRows];
    for (int row = 0; row < kRows; ++row) {
      high[row] = _mm256_setzero_si256();
      low[row] = half;
    }
    for (std::uint32_t pair = 0; pair + 2 <= pairs; pair += 2, left += 12, right += 12, left_weights += 8, right_weights += 8) {
      const __m256i weights = load_two(left_weights, right_weights);
      const __m256i high_a = _mm256_shuffle_epi32(weights, 0x00), low_a = _mm256_shuffle_epi32(weights, 0x55);
      const __m256i high_b = _mm256_shuffle_epi32(weights, 0xaa), low_b = _mm256_shuffle_epi32(weights, 0xff);
      for (int row = 0; row < kRows; ++row) {
        const __m256i pixels = load_two(rows[row] + left, rows[row] + right);
        const __m256i a = _mm256_shuffle_epi8(pixels, order_a), b = _mm256_shuffle_epi8(pixels, order_b);
        high[row] = multiply_add(multiply_add(high[row], a, high_a), b, high_b);
        low[row] = multiply_add(multiply_add(low[row], a, low_a), b, low_b);
      }
    }
    if (pairs % 2 != 0) {
      const __m256i weights = load_two(left_weights, right_weights);
      const __m256i high_a = _mm256_shuffle_epi32(weights, 0x00), low_a = _mm256_shuffle_epi32(weights, 0x55);
      for (int row = 0; row < kRows; ++row) {
        const __m256i a = _mm256_shuffle_epi8(load_two(rows[row] + left, rows[row] + right), order_a);
        high[row] = multiply_add(high[row], a, high_a);
        low[row] = multiply_add(low[row], a, low_a);
      }
    }
    const __m256i upper = _mm256_packs_epi32(levels_of(high[0], low[0]), levels_of(high[1], low[1]));
    const __m256i lower = _mm256_packs_epi32(levels_of(high[2], low[2]), levels_of(high[3], low[3]));
    const __m256i bytes = _mm256_packus_epi16(upper, lower);
    // a fourth byte is written, which the next pixel overwrites
    store_rows(out, std::size_t{3} * x, _mm256_castsi256_si128(bytes));
    if (next != x) store_rows(out, std::size_t{3} * next, _mm256_extracti128_si256(bytes, 1));
  }
}

void resize_down(const std::uint8_t* const* rows, const std::int16_t* split, std::uint32_t pairs, std::size_t count,
                 std::uint8_t* out) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  for (std::size_t at = 0; at < count;) {
    __m256i high[4], low[4];
    for (int i = 0; i < 4; ++i) {
      high[i] = zero;
      low[i] = _mm256_set1_epi32(1 << 21);
    }
    for (std::uint32_t pair = 0; pair < pairs; ++pair) {
      int weights[2];
      __builtin_memcpy(weights, split + 4 * pair, sizeof(weights));
      const __m256i high_weights = _mm256_set1_epi32(weights[0]), low_weights = _mm256_set1_epi32(weights[1]);
      const __m256i above = load32(rows[2 * pair] + at), below = load32(rows[2 * pair + 1] + at);
      const __m256i left = _mm256_unpacklo_epi8(above, below), right = _mm256_unpackhi_epi8(above, below);
      const __m256i pixels[4] = {_mm256_unpacklo_epi8(left, zero), _mm256_unpackhi_epi8(left, zero),
                                 _mm256_unpacklo_epi8(right, zero), _mm256_unpackhi_epi8(right, zero)};
      for (int i = 0; i < 4; ++i) {
        high[i] = multiply_add(high[i], pixels[i], high_weights);
        low[i] = multiply_add(low[i], pixels[i], low_weights);
      }
    }
    const __m256i left = _mm256_packs_epi32(levels_of(high[0], low[0]), levels_of(high[1], low[1]));
    const __m256i right = _mm256_packs_epi32(levels_of(high[2], low[2]), levels_of(high[3], low[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + at), _mm256_packus_epi16(left, right));
    if (at + kDownBytes == count) break;
    at = at + 2 * kDownBytes <= count ? at + kDownBytes : count - kDownBytes;  // the last block lies over the one before
  }
}

}  // namespace dcfast::avx2
