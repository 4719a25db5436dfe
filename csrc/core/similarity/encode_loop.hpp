// Rows into integer codes, for whatever instruction set the including file is compiled for.
#pragma once

#include "core/similarity/exact_loop.hpp"
#include "core/similarity/select_kernels.hpp"

namespace {

/// 16 numbers, zeros beyond the end.
[[gnu::always_inline]] inline void load_doubles(const double* x, std::size_t count, Doubles* out) {
  double rest[kLanes] = {};
  if (count < kLanes) {
    for (std::size_t l = 0; l < count; ++l) rest[l] = x[l];
    x = rest;
  }
  for (int v = 0; v < kVectors; ++v) out[v] = *reinterpret_cast<const LooseDoubles*>(x + v * kDoubles);
}

dcfast::RowShape row_shape(const double* x, std::size_t width) {
  constexpr std::size_t chunk_size = 4 * dcfast::kChunkQuads;
  Doubles largest[kVectors] = {};
  double longest = 0;
  for (std::size_t chunk = 0; chunk < width; chunk += chunk_size) {
    const std::size_t end = width - chunk < chunk_size ? width : chunk + chunk_size;
    Doubles squares[kVectors] = {};
    for (std::size_t i = chunk; i < end; i += kLanes) {
      Doubles values[kVectors];
      load_doubles(x + i, end - i, values);
      for (int v = 0; v < kVectors; ++v) {
        const Doubles magnitude = values[v] < 0 ? -values[v] : values[v];
        largest[v] = magnitude > largest[v] ? magnitude : largest[v];
        squares[v] += values[v] * values[v];
      }
    }
    double parts[2] = {0, 0};
    for (int l = 0; l < kLanes; ++l) parts[(l >> 1) & 1] += squares[l / kDoubles][l % kDoubles];
    for (const double part : parts) longest = part > longest ? part : longest;
  }
  double most = 0;
  for (int l = 0; l < kLanes; ++l) {
    const double value = largest[l / kDoubles][l % kDoubles];
    most = value > most ? value : most;
  }
  // sums of squares are rounded: a little more is on the safe side
  return {most, longest * (1 + 1e-12)};
}

double encode_row(const double* x, std::size_t width, double to_codes, double scale, std::int16_t* codes) {
  constexpr double round = 0x1.8p52;  // added and taken away: rounds to a whole number
  typedef std::int32_t Words __attribute__((vector_size(4 * kDoubles)));
  Doubles rest[kVectors] = {};
  for (std::size_t i = 0; i < width; i += kLanes) {
    const std::size_t count = width - i < kLanes ? width - i : kLanes;
    Doubles values[kVectors];
    load_doubles(x + i, count, values);
    std::int32_t words[kLanes];
    for (int v = 0; v < kVectors; ++v) {
      const Doubles whole = (values[v] * to_codes + round) - round;
      const Doubles lost = values[v] - whole * scale;
      rest[v] += lost * lost;
      const Words word = __builtin_convertvector(whole, Words);
      __builtin_memcpy(words + v * kDoubles, &word, sizeof(word));
    }
    for (std::size_t l = 0; l < count; ++l) codes[i + l] = static_cast<std::int16_t>(words[l]);
  }
  double total = 0;
  for (int l = 0; l < kLanes; ++l) total += rest[l / kDoubles][l % kDoubles];
  return total;
}

}  // namespace
