// The inner loops of shrink() for any machine. Four floats are a pixel, and the last is of no use: so it is
// in what is faster (core/images/shrink_avx2.hpp).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dcfast {

/// The pixels of a row that lie below one of the result: the first, how many, and their weights.
struct ShrinkTaps {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  const float* weights = nullptr;
};

/// That are gone over at once.
inline constexpr std::size_t kShrinkRows = 4;
using ShrinkRows = std::array<const std::uint8_t*, kShrinkRows>;

/// sums[16 i] to sums[16 i + 15] = the weighted pixels of four rows. May read a byte beyond the rows.
inline void shrink_rows_loop(const ShrinkRows& rows, const ShrinkTaps* taps, std::size_t count, float* sums) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    for (const std::uint8_t* const row : rows) {
      const std::uint8_t* pixel = row + std::size_t{3} * taps[i].first;
      std::array<float, 3> sum{};
      for (std::size_t k = 0; k < taps[i].count; ++k, pixel += 3) {
        for (std::size_t c = 0; c < 3; ++c) sum[c] += static_cast<float>(pixel[c]) * taps[i].weights[k];
      }
      for (std::size_t c = 0; c < 3; ++c) sums[c] = sum[c];
      sums += 4;
    }
  }
}

/// totals += weight * the sums of a row, four of sixteen; the first time without what was there.
inline void add_shrunk_loop(const float* sums, float weight, bool begins, std::size_t count, float* totals) noexcept {
  for (std::size_t i = 0; i < 4 * count; ++i) {
    const float added = sums[i / 4 * 4 * kShrinkRows + i % 4] * weight;
    totals[i] = begins ? added : totals[i] + added;
  }
}

/// Three bytes a pixel, rounded, halves to even. May write a byte beyond them. Totals are of 0 to 255.
inline void round_shrunk_loop(const float* totals, std::size_t count, std::uint8_t* out) noexcept {
  for (std::size_t i = 0; i < count; ++i, out += 3) {
    for (std::size_t c = 0; c < 3; ++c) out[c] = static_cast<std::uint8_t>(std::lrint(totals[4 * i + c]));
  }
}

}  // namespace dcfast
