// The inner loops of the perceptual hashes compiled for AVX2, in a file of their own: call them where the machine has it
// (core/system/cpu.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast::avx2 {

void add_row(const std::uint8_t* row, std::size_t width, std::uint32_t weight, std::uint32_t* sums) noexcept;
void means(const std::uint64_t* sums, std::size_t count, std::uint64_t unit, std::uint64_t area, std::int32_t offset,
           std::int16_t* out) noexcept;
void transform_rows(const std::int16_t* cells, const std::int16_t* table, std::size_t rows, std::int32_t* out) noexcept;
void transform_columns(const std::int32_t* half, const std::int16_t* table, std::int64_t* out) noexcept;

}  // namespace dcfast::avx2
