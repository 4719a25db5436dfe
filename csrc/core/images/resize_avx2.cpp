// Compiled with -mavx2. Nothing that may be inlined elsewhere is included.
//
// A weight of 23 bits is 2^11 * high + low, each of which fits the multiplier of 16 bits: two sums of products, exact, and
// put together at the end.
#include "core/images/resize_avx2.hpp"

#include <immintrin.h>

namespace dcfast::avx2 {
namespace {

inline __m128i load16(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
inline __m256i load32(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline __m256i load_two(const void* low, const void* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(low)), load16(high), 1);
}
inline void store32(void* at, __m256i bytes) { _mm256_storeu_si256(static_cast<__m256i*>(at), bytes); }

inline __m256i in_both(__m128i order) { return _mm256_broadcastsi128_si256(order); }

inline __m256i multiply_add(__m256i sum, __m256i pixels, __m256i weights) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pixels, weights));
}

/// Rounded levels, not clipped.
inline __m256i levels_of(__m256i high, __m256i low) {
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, 11), low), 22);
}

/// Of four vectors a row in each half, with a red, a green and a blue pair: red, green and blue of all eight rows.
inline void store_colours(const __m256i* rows, std::uint8_t* to) {
  const __m256i low_a = _mm256_unpacklo_epi32(rows[0], rows[1]), low_b = _mm256_unpacklo_epi32(rows[2], rows[3]);
  const __m256i high_a = _mm256_unpackhi_epi32(rows[0], rows[1]), high_b = _mm256_unpackhi_epi32(rows[2], rows[3]);
  store32(to, _mm256_unpacklo_epi64(low_a, low_b));
  store32(to + 32, _mm256_unpackhi_epi64(low_a, low_b));
  store32(to + 64, _mm256_unpacklo_epi64(high_a, high_b));
}

/// Eight rows of RGB to pairs of neighbours of 16 bits, all rows of a colour beside each other: kPairBytes a pair of pixels.
inline void pair_up(const std::uint8_t* const* rows, std::size_t width, std::uint8_t* to) {
  const __m256i first_two = in_both(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i last_two = in_both(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  for (std::size_t at = 0; at < 3 * width; at += 12, to += 2 * kPairBytes) {
    __m256i first[4], last[4];
    for (int i = 0; i < 4; ++i) {
      const __m256i pixels = load_two(rows[i] + at, rows[i + 4] + at);
      first[i] = _mm256_shuffle_epi8(pixels, first_two);
      last[i] = _mm256_shuffle_epi8(pixels, last_two);
    }
    store_colours(first, to);
    store_colours(last, to + kPairBytes);
  }
}

/// Red, green and blue of eight rows, as levels that are not clipped.
inline void sum_pixel(const std::uint8_t* pixels, const std::int16_t* split, std::uint32_t pairs, __m256i* levels) {
  const __m256i half = _mm256_set1_epi32(1 << 21), zero = _mm256_setzero_si256();
  __m256i high_red = zero, high_green = zero, high_blue = zero;
  __m256i low_red = half, low_green = half, low_blue = half;
  for (std::uint32_t pair = 0; pair < pairs; ++pair, pixels += kPairBytes, split += 4) {
    int weights[2];
    __builtin_memcpy(weights, split, sizeof(weights));
    const __m256i high = _mm256_set1_epi32(weights[0]), low = _mm256_set1_epi32(weights[1]);
    const __m256i red = load32(pixels), green = load32(pixels + 32), blue = load32(pixels + 64);
    high_red = multiply_add(high_red, red, high);
    low_red = multiply_add(low_red, red, low);
    high_green = multiply_add(high_green, green, high);
    low_green = multiply_add(low_green, green, low);
    high_blue = multiply_add(high_blue, blue, high);
    low_blue = multiply_add(low_blue, blue, low);
  }
  levels[0] = levels_of(high_red, low_red);
  levels[1] = levels_of(high_green, low_green);
  levels[2] = levels_of(high_blue, low_blue);
}

/// Four bytes of each row, from four vectors of levels.
inline __m256i bytes_of(const __m256i* levels) {
  const __m256i turn = in_both(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i left = _mm256_packs_epi32(levels[0], levels[1]), right = _mm256_packs_epi32(levels[2], levels[3]);
  return _mm256_shuffle_epi8(_mm256_packus_epi16(left, right), turn);
}

inline void store_rows(std::uint8_t* const* out, int row, std::size_t at, __m256i bytes) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out[row] + at), _mm256_castsi256_si128(bytes));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out[row + 4] + at), _mm256_extracti128_si256(bytes, 1));
}

}  // namespace

void resize_across(const std::uint8_t* const* rows, std::size_t width, const std::uint32_t* first, const std::int16_t* split,
                   std::uint32_t size, std::uint32_t slots, std::uint32_t pairs, std::uint8_t* pixels, std::uint8_t* const* out) noexcept {
  pair_up(rows, width, pixels);
  for (std::uint32_t x = 0; x < size; x += 4) {
    __m256i levels[12];
    for (std::uint32_t i = 0; i < 4; ++i) {
      const std::uint32_t place = x + i < size ? x + i : size - 1;
      sum_pixel(pixels + first[place] / 2 * kPairBytes, split + std::size_t{2} * place * slots, pairs, levels + 3 * i);
    }
    const __m256i a = bytes_of(levels), b = bytes_of(levels + 4), c = bytes_of(levels + 8);
    const __m256i upper = _mm256_unpacklo_epi32(a, b), lower = _mm256_unpackhi_epi32(a, b);
    const __m256i upper_end = _mm256_unpacklo_epi32(c, c), lower_end = _mm256_unpackhi_epi32(c, c);
    // sixteen bytes are written, of which the next pixels overwrite the last four
    const std::size_t at = std::size_t{3} * x;
    store_rows(out, 0, at, _mm256_unpacklo_epi64(upper, upper_end));
    store_rows(out, 1, at, _mm256_unpackhi_epi64(upper, upper_end));
    store_rows(out, 2, at, _mm256_unpacklo_epi64(lower, lower_end));
    store_rows(out, 3, at, _mm256_unpackhi_epi64(lower, lower_end));
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
    store32(out + at, _mm256_packus_epi16(left, right));
    if (at + kDownBytes == count) break;
    at = at + 2 * kDownBytes <= count ? at + kDownBytes : count - kDownBytes;  // the last block lies over the one before
  }
}

}  // namespace dcfast::avx2
