// How exp_sums lays out what its inner loop reads. Plain numbers alone: see exp_tile.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast {

inline constexpr std::size_t kLanes = 8;
inline constexpr std::size_t kTileRows = 6;  // 12 registers of sums, 2 of columns, 1 of a row, 1 of a product
inline constexpr std::size_t kTileColumns = 2 * kLanes;
inline constexpr std::size_t kPartPairs = 16;  // of dimensions, whose products are summed in 32 bits before they are floats
inline constexpr int kLeastExponent = -127;

/// Some rows, at most kTileRows, against some tiles of columns.
struct ExpStrip {
  const std::int16_t* rows;     // (pairs, kTileRows, 2)
  const std::int16_t* columns;  // (tiles, pairs, kTileColumns, 2)
  std::size_t pairs;            // of dimensions
  std::size_t tiles;
  std::size_t count;  // of rows
  std::size_t first_row;
  std::size_t first_column;
  float unit;                   // of a product of 16-bit numbers, as a power of 2
  const float* row_offsets;     // (count)
  const float* column_offsets;  // (tiles * kTileColumns), very low where there is no column
  double* row_sums;             // (count)
  double* column_sums;          // (tiles * kTileColumns)
};

namespace avx2 {

/// add_strip compiled for AVX2: call it where the machine has it (core/system/cpu.hpp).
void add_strip(const ExpStrip& strip);

}  // namespace avx2
}  // namespace dcfast
