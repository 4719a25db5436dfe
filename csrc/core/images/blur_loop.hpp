// The inner loop of the blur, compiled once for every machine and once for AVX2: no names that the linker would merge. No
// fused multiplication in either, so both round alike.
#pragma once

#include <cstddef>
#include <cstring>

namespace {

/// Columns that are summed at once.
constexpr std::size_t kBlurColumns = 32;

typedef float Eight __attribute__((vector_size(32)));

/// out[j] = the sum of weights[k] * rows[k * kBlurColumns + j] over k < count.
inline void weighted_sum_loop(const float* rows, const float* weights, std::size_t count, float* out) noexcept {
  Eight sums[4] = {};
  for (std::size_t k = 0; k < count; ++k) {
    Eight row[4];
    std::memcpy(row, rows + k * kBlurColumns, sizeof(row));
    const float weight = weights[k];
    sums[0] += row[0] * weight;
    sums[1] += row[1] * weight;
    sums[2] += row[2] * weight;
    sums[3] += row[3] * weight;
  }
  std::memcpy(out, sums, sizeof(sums));
}

}  // namespace
