// The inner loops of shrink() for AVX2, in a file of their own: call them where the machine has it (core/system/cpu.hpp).
// What they do is said in core/images/shrink_loop.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/images/shrink_loop.hpp"

namespace dcfast::avx2 {

void shrink_rows(const ShrinkRows& rows, const ShrinkTaps* taps, std::size_t count, float* sums) noexcept;
void add_shrunk(const float* sums, float weight, bool begins, std::size_t count, float* totals) noexcept;
void round_shrunk(const float* totals, std::size_t count, std::uint8_t* out) noexcept;

}  // namespace dcfast::avx2
