// Exact scores for whatever instruction set the including file is compiled for; see select_kernels.hpp for the order of
// the sums. Nothing that may be inlined elsewhere is included: the linker would keep one copy for all machines.
#pragma once

#include <cstddef>
#include <cstdint>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "core/similarity/embedding_rows.hpp"

namespace {

#if defined(__AVX512F__)
constexpr int kDoubles = 8;
#elif defined(__AVX2__)
constexpr int kDoubles = 4;
#else
constexpr int kDoubles = 2;
#endif
constexpr int kLanes = 16;
constexpr int kVectors = kLanes / kDoubles;
typedef double Doubles __attribute__((vector_size(8 * kDoubles)));
typedef double LooseDoubles __attribute__((vector_size(8 * kDoubles), aligned(8), may_alias));

[[gnu::always_inline]] inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t magnitude = half & 0x7fffU;
  std::uint32_t bits;
  if (magnitude >= 0x7c00U) {
    bits = sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13);  // infinite, or not a number
  } else if (magnitude >= 0x400U) {
    bits = sign | ((magnitude << 13) + ((127U - 15U) << 23));
  } else {
    const float value = static_cast<float>(magnitude) * 0x1p-24F;
    return sign != 0 ? -value : value;
  }
  return __builtin_bit_cast(float, bits);
}

/// 16 numbers as floats, or as many as are left.
template <dcfast::Kind kind>
[[gnu::always_inline]] inline void load_lanes(const std::byte* at, std::size_t count, float* out) {
  if constexpr (kind == dcfast::Kind::float32) {
    __builtin_memcpy(out, at, 4 * count);
  } else if constexpr (kind == dcfast::Kind::int8) {
    for (std::size_t l = 0; l < count; ++l) out[l] = static_cast<float>(static_cast<std::int8_t>(at[l]));
  } else {
    std::uint16_t bits[kLanes];
    __builtin_memcpy(bits, at, 2 * count);
    if constexpr (kind == dcfast::Kind::bfloat16) {
      for (std::size_t l = 0; l < count; ++l) out[l] = __builtin_bit_cast(float, std::uint32_t{bits[l]} << 16);
    } else {
#ifdef __F16C__
      if (count == kLanes) {
        _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bits))));
        _mm256_storeu_ps(out + 8, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bits + 8))));
        return;
      }
#endif
      for (std::size_t l = 0; l < count; ++l) out[l] = half_to_float(bits[l]);
    }
  }
}

constexpr std::size_t item_size(dcfast::Kind kind) {
  return kind == dcfast::Kind::float32 ? 4 : kind == dcfast::Kind::int8 ? 1 : 2;
}

template <bool squares>
[[gnu::always_inline]] inline void add_lanes(const double* x, const float* y, Doubles* sums) {
  typedef float Floats __attribute__((vector_size(4 * kDoubles), aligned(4), may_alias));
  for (int v = 0; v < kVectors; ++v) {
    const Doubles right = __builtin_convertvector(*reinterpret_cast<const Floats*>(y + v * kDoubles), Doubles);
    const Doubles left = *reinterpret_cast<const LooseDoubles*>(x + v * kDoubles);
    if constexpr (squares) {
      const Doubles difference = left - right;
      sums[v] += difference * difference;
    } else {
      sums[v] += left * right;
    }
  }
}

template <dcfast::Kind kind, bool squares>
double exact_sum(const double* x, const std::byte* y, std::size_t width) {
  Doubles sums[kVectors] = {};
  float lanes[kLanes];
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    load_lanes<kind>(y + i * item_size(kind), kLanes, lanes);
    add_lanes<squares>(x + i, lanes, sums);
  }
  if (i < width) {
    // lanes beyond the end add +0, which changes no sum
    double rest[kLanes] = {};
    for (int l = 0; l < kLanes; ++l) lanes[l] = 0;
    load_lanes<kind>(y + i * item_size(kind), width - i, lanes);
    for (std::size_t l = 0; l < width - i; ++l) rest[l] = x[i + l];
    add_lanes<squares>(rest, lanes, sums);
  }
  double total[kLanes];
  for (int l = 0; l < kLanes; ++l) total[l] = sums[l / kDoubles][l % kDoubles];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) total[l] += total[l + half];
  }
  return total[0];
}

template <bool squares>
double exact_score(const double* x, const std::byte* y, dcfast::Kind kind, std::size_t width) {
  switch (kind) {
    case dcfast::Kind::float32: return exact_sum<dcfast::Kind::float32, squares>(x, y, width);
    case dcfast::Kind::float16: return exact_sum<dcfast::Kind::float16, squares>(x, y, width);
    case dcfast::Kind::bfloat16: return exact_sum<dcfast::Kind::bfloat16, squares>(x, y, width);
    default: return exact_sum<dcfast::Kind::int8, squares>(x, y, width);
  }
}

template <dcfast::Kind kind>
void widen(const std::byte* row, std::size_t width, double* out) {
  float lanes[kLanes];
  for (std::size_t i = 0; i < width; i += kLanes) {
    const std::size_t count = width - i < kLanes ? width - i : kLanes;
    load_lanes<kind>(row + i * item_size(kind), count, lanes);
    for (std::size_t l = 0; l < count; ++l) out[i + l] = static_cast<double>(lanes[l]);
  }
}

void to_double(const std::byte* row, dcfast::Kind kind, std::size_t width, double* out) {
  switch (kind) {
    case dcfast::Kind::float32: return widen<dcfast::Kind::float32>(row, width, out);
    case dcfast::Kind::float16: return widen<dcfast::Kind::float16>(row, width, out);
    case dcfast::Kind::bfloat16: return widen<dcfast::Kind::bfloat16>(row, width, out);
    default: return widen<dcfast::Kind::int8>(row, width, out);
  }
}

}  // namespace
