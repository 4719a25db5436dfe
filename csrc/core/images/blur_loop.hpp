// The inner loop of the blur, compiled once for every machine and once for AVX2: no names that the linker would merge. No
// fused multiplication in either, so both round alike.
#pragma once

#include <cstddef>

namespace {

/// Columns that are summed at once.
constexpr std::size_t kBlurColumns = 32;

#ifdef __AVX2__
constexpr std::size_t kLanes = 8;
#else
constexpr std::size_t kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
/// The same wherever it lies in memory.
typedef float UnalignedLanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

/// out[j] = the sum of weights[k] * rows[k * kBlurColumns + j] over k < count.
inline void weighted_sum_loop(const float* rows, const float* weights, std::size_t count, float* out) noexcept {
  constexpr std::size_t row_lanes = kBlurColumns / kLanes;
  for (std::size_t j = 0; j < row_lanes; j += 4) {
    Lanes a{};
    Lanes b{};
    Lanes c{};
    Lanes d{};
    const UnalignedLanes* row = reinterpret_cast<const UnalignedLanes*>(rows) + j;
    for (std::size_t k = 0; k < count; ++k, row += row_lanes) {
      const float weight = weights[k];
      a += row[0] * weight;
      b += row[1] * weight;
      c += row[2] * weight;
      d += row[3] * weight;
    }
    UnalignedLanes* const sums = reinterpret_cast<UnalignedLanes*>(out) + j;
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
  }
}

}  // namespace
