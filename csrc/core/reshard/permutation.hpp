// A keyed permutation of 0..n-1 that is computed, not stored: an order for a shuffle of any length, in which any
// part can be had alone. The numbers decide orders that users rely on: they must not change.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dcfast {

/// An alternating Feistel network over the smallest power of two that holds n values, walked until the value is below
/// n: less than two steps on average. Not for secrets.
class Permutation {
 public:
  Permutation(std::uint64_t n, std::uint64_t seed) : n_(n) {
    const auto bits = static_cast<unsigned>(n < 2 ? 0 : std::bit_width(n - 1));
    low_bits_ = (bits + 1) / 2;
    low_mask_ = mask(low_bits_);
    high_mask_ = mask(bits - low_bits_);
    for (std::uint64_t& key : keys_) key = mix(seed += golden);
  }

  /// The value at place i < n. About 30 ns.
  std::uint64_t operator()(std::uint64_t i) const noexcept {
    if (n_ < 2) return i;
    do i = step(i); while (i >= n_);
    return i;
  }

 private:
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;

  static std::uint64_t mask(unsigned bits) noexcept { return bits == 0 ? 0 : ~std::uint64_t{0} >> (64 - bits); }

  // a bijection in which every bit of the input reaches every bit of the result (splitmix64's constants)
  static std::uint64_t mix(std::uint64_t x) noexcept {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  std::uint64_t step(std::uint64_t x) const noexcept {
    std::uint64_t low = x & low_mask_;
    std::uint64_t high = x >> low_bits_;
    for (std::size_t round = 0; round < keys_.size(); round += 2) {
      high ^= (mix(low ^ keys_[round]) >> 32) & high_mask_;
      low ^= (mix(high ^ keys_[round + 1]) >> 32) & low_mask_;
    }
    return high << low_bits_ | low;
  }

  std::uint64_t n_;
  unsigned low_bits_ = 0;
  std::uint64_t low_mask_ = 0;
  std::uint64_t high_mask_ = 0;
  std::array<std::uint64_t, 8> keys_{};
};

}  // namespace dcfast
