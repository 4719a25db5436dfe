// Grey levels to 64 x 64 cells, exactly: what both perceptual hashes begin with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dcfast {

inline constexpr std::size_t kCellSide = 64;

/// sums[64 j + i]: the grey levels of cell (row j, column i), each with the area of its pixel that lies in the cell, in
/// units of 1/4096 pixel. All cells have the same area, which in these units is `area` = width * height.
struct CellSums {
  std::array<std::uint64_t, kCellSide * kCellSide> sums{};
  std::uint64_t area = 0;
};

/// Divides width x height grey levels, rows one after another, into 64 x 64 equal cells. Throws invalid_argument where
/// either is 0, the span does not have width * height values, or that is more than 2^32. Cost: at most three passes over
/// the image, one where it is high. Memory: 4 bytes a column.
CellSums cell_sums(std::span<const std::uint8_t> grey, std::uint32_t width, std::uint32_t height);

}  // namespace dcfast
