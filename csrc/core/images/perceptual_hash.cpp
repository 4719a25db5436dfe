#include "core/images/perceptual_hash.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>

#include "core/system/error.hpp"

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

/// Sums of one row over the 32 cells, in units of 1/32 pixel: every cell's weights add up to `width`.
void sum_row(const std::uint8_t* row, std::uint64_t width, std::array<std::uint64_t, kSide>& sums) {
  for (std::uint64_t i = 0; i < kSide; ++i) {
    const std::uint64_t begin = i * width;
    const std::uint64_t end = begin + width;
    const std::uint64_t first = begin / kSide;
    const std::uint64_t last = end / kSide;  // the pixel that holds the end, perhaps with weight 0
    if (first == last) {
      sums[i] = width * row[first];
      continue;
    }
    std::uint64_t whole = 0;
    for (std::uint64_t x = first + 1; x < last; ++x) whole += row[x];
    std::uint64_t sum = kSide * whole + (kSide * (first + 1) - begin) * row[first];
    if (const std::uint64_t rest = end - kSide * last; rest != 0) sum += rest * row[last];
    sums[i] = sum;
  }
}

/// The sum of the two middle values of 64: twice their median.
std::int64_t twice_median(std::array<std::int64_t, kBits> values) {
  const auto middle = values.begin() + kBits / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle + *std::max_element(values.begin(), middle);
}

}  // namespace

PerceptualHash perceptual_hash(std::span<const std::uint8_t> grey, std::uint32_t width, std::uint32_t height) {
  const std::uint64_t area = std::uint64_t{width} * height;
  if (area == 0 || area != grey.size() || area > (std::uint64_t{1} << 32)) {
    refuse_argument("grey picture of ", width, " x ", height, " with ", grey.size(),
                    " values: expected width * height values, 1 to 2^32 of them");
  }

  std::array<std::array<std::uint64_t, kSide>, kSide> cells{};
  std::array<std::uint64_t, kSide> sums{};
  for (std::uint64_t y = 0; y < height; ++y) {
    sum_row(grey.data() + y * width, width, sums);
    const std::uint64_t begin = kSide * y;
    const std::uint64_t end = begin + kSide;
    for (std::uint64_t j = begin / height; j < kSide && j * height < end; ++j) {
      const std::uint64_t weight = std::min(end, (j + 1) * height) - std::max(begin, j * height);
      for (std::size_t i = 0; i < kSide; ++i) cells[j][i] += weight * sums[i];
    }
  }

  // Mean of each cell in 1/256 grey levels, then both passes of the DCT for the frequencies that are wanted.
  std::array<std::array<std::int64_t, kFrequencies>, kSide> half{};  // [cell row][horizontal frequency]
  for (std::size_t j = 0; j < kSide; ++j) {
    std::array<std::int64_t, kSide> mean{};
    for (std::size_t i = 0; i < kSide; ++i) mean[i] = static_cast<std::int64_t>((cells[j][i] * 256 + area / 2) / area);
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
