// The inner loops of the perceptual hashes, compiled once for every machine and once for AVX2: no names that the linker
// would merge. Whole numbers and exact quotients only, so both give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace {

/// sums[x] += weight * row[x] for x < width; weight <= 64.
inline void add_row_loop(const std::uint8_t* row, std::size_t width, std::uint32_t weight, std::uint32_t* sums) noexcept {
  const auto factor = static_cast<std::uint16_t>(weight);
  for (std::size_t x = 0; x < width; ++x) sums[x] += static_cast<std::uint16_t>(factor * row[x]);
}

/// out[i] = (sums[i] * unit + area / 2) / area - offset, rounded down, for i < count; sums[i] <= 255 * area, area <= 2^32,
/// unit <= 16. A quotient that is not whole lies at least 2^-32 below the next whole number, and doubles at 2^12 are closer
/// than that: their quotient, rounded once, never reaches it.
inline void means_loop(const std::uint64_t* sums, std::size_t count, std::uint64_t unit, std::uint64_t area, std::int32_t offset,
                       std::int16_t* out) noexcept {
  const auto divisor = static_cast<double>(area);
  for (std::size_t i = 0; i < count; ++i) {
    const auto dividend = static_cast<double>(static_cast<std::int64_t>(sums[i] * unit + area / 2));
    out[i] = static_cast<std::int16_t>(static_cast<std::int32_t>(dividend / divisor) - offset);
  }
}

/// out[j][v] = the sum of cells[j][i] * table[v][i] over i: `rows` rows of 64 cells, 16 frequencies.
inline void transform_rows_loop(const std::int16_t* cells, const std::int16_t* table, std::size_t rows, std::int32_t* out) noexcept {
  for (std::size_t j = 0; j < rows; ++j) {
    for (std::size_t v = 0; v < 16; ++v) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < 64; ++i) sum += std::int32_t{cells[64 * j + i]} * table[64 * v + i];
      out[16 * j + v] = sum;
    }
  }
}

/// out[u][v] = the sum of table[u][j] * half[j][v] over j < 64; 16 x 16 frequencies.
inline void transform_columns_loop(const std::int32_t* half, const std::int16_t* table, std::int64_t* out) noexcept {
  for (std::size_t u = 0; u < 16; ++u) {
    std::int64_t sums[16] = {};
    for (std::size_t j = 0; j < 64; ++j) {
      const std::int32_t factor = table[64 * u + j];
      for (std::size_t v = 0; v < 16; ++v) sums[v] += std::int64_t{factor} * half[16 * j + v];
    }
    for (std::size_t v = 0; v < 16; ++v) out[16 * u + v] = sums[v];
  }
}

}  // namespace
