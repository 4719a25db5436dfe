// The blur's inner loop compiled for AVX2, in a file of its own: call it where the machine has it (core/system/cpu.hpp).
#pragma once

#include <cstddef>

namespace dcfast::avx2 {

void weighted_sum(const float* rows, const float* weights, std::size_t count, float* out) noexcept;

}  // namespace dcfast::avx2
