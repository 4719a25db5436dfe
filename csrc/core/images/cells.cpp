#include "core/images/cells.hpp"

#include <algorithm>
#include <vector>

#include "core/images/hash_avx2.hpp"
#include "core/images/hash_loops.hpp"
#include "core/system/cpu.hpp"
#include "core/system/error.hpp"

namespace dcfast {
namespace {

/// Rows that are added up before the sums could pass 32 bits: 2^16 * 64 * 255 < 2^32.
constexpr std::uint64_t kBlockRows = std::uint64_t{1} << 16;

using AddRow = void (*)(const std::uint8_t*, std::size_t, std::uint32_t, std::uint32_t*) noexcept;

AddRow add_row() {
#ifdef DCFAST_HAVE_AVX2
  if (have_avx2()) return avx2::add_row;
#endif
  return add_row_loop;
}

/// Adds the sums of `width` columns, a 0 behind them, to the 64 cells of a row.
void add_columns(const std::vector<std::uint32_t>& columns, std::uint64_t width, std::uint64_t* cells) {
  std::uint64_t whole = 0;  // of all columns before x
  std::uint64_t before = 0;
  std::uint64_t x = 0;
  for (std::uint64_t i = 0; i < kCellSide; ++i) {
    const std::uint64_t end = (i + 1) * width;
    for (; x < end / kCellSide; ++x) whole += columns[x];
    const std::uint64_t up_to_end = kCellSide * whole + end % kCellSide * columns[x];
    cells[i] += up_to_end - before;
    before = up_to_end;
  }
}

}  // namespace

CellSums cell_sums(std::span<const std::uint8_t> grey, std::uint32_t width, std::uint32_t height) {
  CellSums result;
  result.area = std::uint64_t{width} * height;
  if (result.area == 0 || result.area != grey.size() || result.area > (std::uint64_t{1} << 32)) {
    refuse_argument("grey picture of ", width, " x ", height, " with ", grey.size(),
                    " values: expected width * height values, 1 to 2^32 of them");
  }
  const AddRow add = add_row();
  std::vector<std::uint32_t> columns(std::size_t{width} + 1);
  std::uint64_t inside = height;  // the row that the cells before lay in alone: no row yet
  for (std::uint64_t j = 0; j < kCellSide; ++j) {
    std::uint64_t* const cells = result.sums.data() + kCellSide * j;
    const std::uint64_t begin = j * height;
    const std::uint64_t end = begin + height;
    const std::uint64_t first = begin / kCellSide;
    const std::uint64_t last = (end - 1) / kCellSide;
    if (first == last && first == inside) {  // of a low image many cells lie in one row, and are alike
      std::copy_n(cells - kCellSide, kCellSide, cells);
      continue;
    }
    inside = first == last ? first : height;
    for (std::uint64_t block = first; block <= last; block += kBlockRows) {
      std::ranges::fill(columns, 0);
      for (std::uint64_t y = block; y <= std::min(last, block + kBlockRows - 1); ++y) {
        const std::uint64_t weight = std::min(end, kCellSide * (y + 1)) - std::max(begin, kCellSide * y);
        add(grey.data() + y * width, width, static_cast<std::uint32_t>(weight), columns.data());
      }
      add_columns(columns, width, cells);
    }
  }
  return result;
}

}  // namespace dcfast
