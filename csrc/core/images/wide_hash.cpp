#include "core/images/wide_hash.hpp"

#include <algorithm>
#include <cstdlib>

#include "core/images/hash_avx2.hpp"
#include "core/images/hash_loops.hpp"
#include "core/system/cpu.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kSide = 16;  // frequencies 1..16 each way
constexpr std::size_t kBits = kSide * kSide;

// round(2^12 * cos(k * pi / 128)) for k = 0..64. Written out: no machine's cos() has a say in the bits.
constexpr std::array<std::int16_t, 65> kCos = {
    4096, 4095, 4091, 4085, 4076, 4065, 4052, 4036, 4017, 3996, 3973, 3948, 3920, 3889, 3857, 3822, 3784,
    3745, 3703, 3659, 3612, 3564, 3513, 3461, 3406, 3349, 3290, 3229, 3166, 3102, 3035, 2967, 2896, 2824,
    2751, 2675, 2598, 2520, 2440, 2359, 2276, 2191, 2106, 2019, 1931, 1842, 1751, 1660, 1567, 1474, 1380,
    1285, 1189, 1092, 995,  897,  799,  700,  601,  501,  401,  301,  201,  101,  0};

// cos(m * pi / 128) * 2^12 for any m, by symmetry from the first quarter.
constexpr std::int16_t cosine(std::size_t m) {
  m %= 256;
  if (m > 128) m = 256 - m;
  return m <= 64 ? kCos[m] : static_cast<std::int16_t>(-kCos[128 - m]);
}

constexpr std::array<std::int16_t, kSide * kCellSide> make_table() {
  std::array<std::int16_t, kSide * kCellSide> table{};
  for (std::size_t k = 1; k <= kSide; ++k) {
    for (std::size_t x = 0; x < kCellSide; ++x) table[kCellSide * (k - 1) + x] = cosine((2 * x + 1) * k);
  }
  return table;
}
constexpr std::array<std::int16_t, kSide * kCellSide> kTable = make_table();

// Cells are in 1/16 grey levels from the middle, so that they fit 16 bits and their sums 32.
constexpr std::uint64_t kUnit = 16;
constexpr std::int32_t kMiddle = 128 * kUnit;
// One grey level of the orthonormal 64 x 64 DCT: 2^12 twice for the table, 2^4 for the cells, and (sqrt(64 / 2))^2.
constexpr std::int64_t kGreyLevel = std::int64_t{1} << (12 + 12 + 4 + 5);

using Frequencies = std::array<std::int64_t, kBits>;  // [vertical][horizontal]

Frequencies frequencies(const CellSums& cells) {
  std::array<std::int16_t, kCellSide * kCellSide> mean;
  std::array<std::int32_t, kCellSide * kSide> half;
  Frequencies result;
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) {
    avx2::means(cells.sums.data(), mean.size(), kUnit, cells.area, kMiddle, mean.data());
    avx2::transform_rows(mean.data(), kTable.data(), kCellSide, half.data());
    avx2::transform_columns(half.data(), kTable.data(), result.data());
    return result;
  }
#endif
  means_loop(cells.sums.data(), mean.size(), kUnit, cells.area, kMiddle, mean.data());
  transform_rows_loop(mean.data(), kTable.data(), kCellSide, half.data());
  transform_columns_loop(half.data(), kTable.data(), result.data());
  return result;
}

/// Whether no mirror turns the frequency around: both of its numbers (place + 1) are even.
constexpr bool is_even(std::size_t u, std::size_t v) { return u % 2 == 1 && v % 2 == 1; }

/// The sum of the two middle values of an even number: twice their median.
template <std::size_t N>
std::int64_t twice_median(std::array<std::int64_t, N> values) {
  const auto middle = values.begin() + N / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle + *std::max_element(values.begin(), middle);
}

}  // namespace

WideHash wide_hash(const CellSums& cells) {
  const Frequencies frequency = frequencies(cells);
  std::array<std::int64_t, kBits / 4> even{};
  std::size_t n = 0;
  for (std::size_t i = 0; i < kBits; ++i) {
    if (is_even(i / kSide, i % kSide)) even[n++] = frequency[i];
  }
  const std::int64_t centre = twice_median(even);
  WideHash hash;
  Frequencies distance{};
  for (std::size_t i = 0; i < kBits; ++i) {
    const std::int64_t above = 2 * frequency[i] - (is_even(i / kSide, i % kSide) ? centre : 0);
    hash.words[i / 64] |= std::uint64_t{above > 0} << i % 64;
    distance[i] = std::abs(above);
  }
  hash.quality = static_cast<std::uint8_t>(std::min<std::int64_t>(255, twice_median(distance) / (4 * kGreyLevel)));
  return hash;
}

WideVariants wide_variants(const WideWords& words) {
  WideWords transposed{};
  for (std::size_t i = 0; i < kBits; ++i) {
    const std::size_t from = kSide * (i % kSide) + i / kSide;
    transposed[i / 64] |= (words[from / 64] >> from % 64 & 1) << i % 64;
  }
  // Frequencies of odd number, which are in even places, change their sign in a mirror: every second bit of a row of 16
  // left to right, every second row top to bottom.
  constexpr std::uint64_t left_right = 0x5555555555555555;
  constexpr std::uint64_t top_bottom = 0x0000FFFF0000FFFF;
  const auto mirrored = [](WideWords turned, std::uint64_t mask) {
    for (std::uint64_t& word : turned) word ^= mask;
    return turned;
  };
  return {words,
          mirrored(transposed, top_bottom),
          mirrored(words, top_bottom ^ left_right),
          mirrored(transposed, left_right),
          mirrored(words, left_right),
          mirrored(words, top_bottom),
          transposed,
          mirrored(transposed, top_bottom ^ left_right)};
}

}  // namespace dcfast
