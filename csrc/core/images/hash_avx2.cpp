// Compiled with -mavx2.
#include "core/images/hash_avx2.hpp"

#include "core/images/hash_loops.hpp"

namespace dcfast::avx2 {

void add_row(const std::uint8_t* row, std::size_t width, std::uint32_t weight, std::uint32_t* sums) noexcept {
  add_row_loop(row, width, weight, sums);
}

void means(const std::uint64_t* sums, std::size_t count, std::uint64_t unit, std::uint64_t area, std::int32_t offset,
           std::int16_t* out) noexcept {
  means_loop(sums, count, unit, area, offset, out);
}

void transform_rows(const std::int16_t* cells, const std::int16_t* table, std::size_t rows, std::int32_t* out) noexcept {
  transform_rows_loop(cells, table, rows, out);
}

void transform_columns(const std::int32_t* half, const std::int16_t* table, std::int64_t* out) noexcept {
  transform_columns_loop(half, table, out);
}

}  // namespace dcfast::avx2
