// Compiled with -ffp-contract=off: the weights are the same on every machine.
#include "core/images/resize.hpp"

#include <algorithm>
#include <cmath>

#include "core/images/resize_avx2.hpp"
#include "core/system/cpu.hpp"

namespace dcfast {
namespace {

constexpr int kWeightBits = 22;
constexpr int kLowBits = 11;
constexpr double kReach = 2;  // of the cubic, in pixels of the result

/// Keys' cubic with a = -1/2.
double cubic(double x) {
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

std::uint8_t level_of(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

bool use_avx2() {
#ifdef DCFAST_HAVE_AVX2
  return have_avx2();
#else
  return false;
#endif
}

}  // namespace

void make_resize_taps(std::uint32_t length, float from, float to, PlacesOf places, ResizeTaps& taps) {
  const std::uint32_t size = places.count;
  const double scale = static_cast<double>(to - from) / places.size;
  const double stretch = std::max(scale, 1.0);
  const double reach = kReach * stretch;
  taps.first.resize(size);
  taps.last.resize(size);
  const auto centre_of = [&](std::uint32_t i) { return from + (places.begin + i + 0.5) * scale; };
  const auto begin_at = [&](double centre) { return std::max(0, static_cast<int>(centre - reach + 0.5)); };
  std::uint32_t most = 0;
  for (std::uint32_t i = 0; i < size; ++i) {
    const double centre = centre_of(i);
    taps.first[i] = static_cast<std::uint32_t>(begin_at(centre)) & ~1U;
    taps.last[i] = std::min(length, static_cast<std::uint32_t>(centre + reach + 0.5));
    most = std::max(most, taps.last[i] - taps.first[i]);
  }
  taps.begin = taps.first.front();
  taps.end = taps.last.back();
  taps.pairs = (most + 1) / 2;
  taps.slots = 2 * taps.pairs;
  taps.weights.assign(std::size_t{size} * taps.slots, 0);
  taps.split.resize(2 * taps.weights.size());
  std::vector<double> shares(taps.slots);
  for (std::uint32_t i = 0; i < size; ++i) {
    const double centre = centre_of(i);
    const auto first = static_cast<int>(taps.first[i]);
    const auto count = static_cast<int>(taps.last[i]) - first;
    const int ahead = begin_at(centre) - first;  // one place with a zero, or none
    std::int32_t* const weights = &taps.weights[std::size_t{i} * taps.slots];
    double sum = 0;
    for (int k = ahead; k < count; ++k) sum += shares[static_cast<std::size_t>(k)] = cubic((first + k - centre + 0.5) * (1 / stretch));
    for (int k = ahead; k < count; ++k) {
      const double share = sum == 0 ? shares[static_cast<std::size_t>(k)] : shares[static_cast<std::size_t>(k)] / sum;
      weights[k] = static_cast<std::int32_t>(share * (1 << kWeightBits) + (share < 0 ? -0.5 : 0.5));
    }
    std::int16_t* const split = &taps.split[std::size_t{2} * i * taps.slots];
    for (std::uint32_t k = 0; k < taps.slots; ++k) {
      split[k / 2 * 4 + k % 2] = static_cast<std::int16_t>(weights[k] >> kLowBits);
      split[k / 2 * 4 + k % 2 + 2] = static_cast<std::int16_t>(weights[k] & ((1 << kLowBits) - 1));
    }
  }
}

void resize_across(const std::uint8_t* const* rows, std::size_t width, const ResizeTaps& taps, std::vector<std::uint8_t>& scratch,
                   std::uint8_t* const* out) {
#ifdef DCFAST_HAVE_AVX2
  if (use_avx2()) {
    constexpr std::size_t line = 64;
    scratch.resize((width / 2 + taps.pairs + 3) * avx2::kPairBytes + line);
    std::uint8_t* const pixels = scratch.data() + (line - reinterpret_cast<std::uintptr_t>(scratch.data()) % line) % line;
    return avx2::resize_across(rows, width, taps.first.data(), taps.split.data(), taps.size(), taps.slots, taps.pairs, pixels, out);
  }
#endif
  for (std::size_t row = 0; row < kAcrossRows; ++row) {
    for (std::uint32_t x = 0; x < taps.size(); ++x) {
      const std::uint8_t* pixel = rows[row] + std::size_t{3} * taps.first[x];
      const std::int32_t* const weights = &taps.weights[std::size_t{x} * taps.slots];
      std::int32_t red = kHalf, green = kHalf, blue = kHalf;
      for (std::uint32_t k = 0; k < taps.last[x] - taps.first[x]; ++k, pixel += 3) {
        red += pixel[0] * weights[k];
        green += pixel[1] * weights[k];
        blue += pixel[2] * weights[k];
      }
      std::uint8_t* const to = out[row] + std::size_t{3} * x;
      to[0] = level_of(red);
      to[1] = level_of(green);
      to[2] = level_of(blue);
    }
  }
}

void resize_down(const std::uint8_t* const* rows, const ResizeTaps& taps, std::uint32_t place, std::size_t count, std::uint8_t* out) {
#ifdef DCFAST_HAVE_AVX2
  if (use_avx2() && count >= avx2::kDownBytes) {
    return avx2::resize_down(rows, &taps.split[std::size_t{2} * place * taps.slots], taps.pairs, count, out);
  }
#endif
  constexpr std::size_t block = 64;
  const std::int32_t* const weights = &taps.weights[std::size_t{place} * taps.slots];
  for (std::size_t begin = 0; begin < count; begin += block) {
    const std::size_t wide = std::min(block, count - begin);
    std::int32_t sums[block];
    std::fill_n(sums, block, kHalf);
    for (std::uint32_t k = 0; k < 2 * taps.pairs; ++k) {
      const std::uint8_t* const row = rows[k] + begin;
      for (std::size_t j = 0; j < wide; ++j) sums[j] += row[j] * weights[k];
    }
    for (std::size_t j = 0; j < wide; ++j) out[begin + j] = level_of(sums[j]);
  }
}

}  // namespace dcfast
