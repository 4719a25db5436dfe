#include "core/images/perceptual_hash.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>

namespace dcfast {
namespace {

constexpr std::size_t kSide = 32;         // cells a side
constexpr std::size_t kFrequencies = 11;  // 0..10: what 64 steps of the diagonal order reach
constexpr std::size_t kBits = 64;

// round(2^14 * cos(k * pi / 64)) for k = 0..32. Written out: no machine's cos() has a say in the bits.
constexpr std::array<std::int64_t, 33> kCos = {
    16384, 16364, 16305, 16207, 16069, 15893, 15679, 15426, 15137, 14811, 14449,
    14053, 13623, 13160, 12665, 12140, 11585, 11003, 10394, 9760,  9102,  8423,
    7723,  7005,  6270,  5520,  4756,  3981,  3196,  2404,  1606,  804,   0};

// cos(m * pi / 64) * 2^14 for any m, by symmetry from the first quarter.
constexpr std::int64_t cosine(std::size_t m) {
  m %= 128;
  if (m <= 32) return kCos[m];
  if (m <= 64) return -kCos[64 - m];
  if (m <= 96) return -kCos[m - 64];
  return kCos[128 - m];
}

using Table = std::array<std::array<std::int64_t, kSide>, kFrequencies>;

constexpr Table make_table() {
  Table table{};
  for (std::size_t x = 0; x < kSide; ++x) {
    table[0][x] = kCos[16];  // 2^14 / sqrt(2): all rows have one norm, so all frequencies one unit
    for (std::size_t k = 1; k < kFrequencies; ++k) table[k][x] = cosine((2 * x + 1) * k);
  }
  return table;
}
constexpr Table kTable = make_table();

// One grey level of the orthonormal 32 x 32 DCT in our units: 2^14 twice for the table, 2^8 for the cells, and
// (sqrt(32 / 2))^2 for the missing normalisation.
constexpr std::int64_t kGreyLevel = std::int64_t{1} << (14 + 14 + 8 + 4);

/// Mean of a cell of 32 x 32 in 1/256 grey levels: of four of the 64 x 64, whose sums are in units four times as small.
std::int64_t cell_mean(const CellSums& cells, std::size_t j, std::size_t i) {
  const std::uint64_t* const corner = &cells.sums[2 * (kCellSide * j + i)];
  const std::uint64_t sum = (corner[0] + corner[1] + corner[kCellSide] + corner[kCellSide + 1]) / 4;
  return static_cast<std::int64_t>((sum * 256 + cells.area / 2) / cells.area);
}

/// The sum of the two middle values of 64: twice their median.
std::int64_t twice_median(std::array<std::int64_t, kBits> values) {
  const auto middle = values.begin() + kBits / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle + *std::max_element(values.begin(), middle);
}

}  // namespace

PerceptualHash perceptual_hash(const CellSums& cells) {
  // Mean of each cell in 1/256 grey levels, then both passes of the DCT for the frequencies that are wanted.
  std::array<std::array<std::int64_t, kFrequencies>, kSide> half{};  // [cell row][horizontal frequency]
  for (std::size_t j = 0; j < kSide; ++j) {
    std::array<std::int64_t, kSide> mean{};
    for (std::size_t i = 0; i < kSide; ++i) mean[i] = cell_mean(cells, j, i);
    for (std::size_t v = 0; v < kFrequencies; ++v) {
      for (std::size_t i = 0; i < kSide; ++i) half[j][v] += mean[i] * kTable[v][i];
    }
  }
  std::array<std::int64_t, kBits> frequency{};
  std::size_t n = 0;
  for (std::size_t diagonal = 1; n < kBits; ++diagonal) {
    for (std::size_t u = 0; u <= diagonal && n < kBits; ++u, ++n) {
      for (std::size_t j = 0; j < kSide; ++j) frequency[n] += half[j][diagonal - u] * kTable[u][j];
    }
  }

  PerceptualHash hash;
  const std::int64_t centre = twice_median(frequency);
  std::array<std::int64_t, kBits> deviation{};
  for (std::size_t i = 0; i < kBits; ++i) {
    hash.bits = hash.bits << 1 | (2 * frequency[i] > centre ? 1U : 0U);
    deviation[i] = std::abs(2 * frequency[i] - centre);
  }
  hash.flat = twice_median(deviation) < 4 * kFlatSpread * kGreyLevel;
  return hash;
}

}  // namespace dcfast
