// The inner loop of SigLIP's loss of a small batch: softplus of each logit, and its derivative. Compiled once for every
// machine and once for AVX2, with the same operations in the same order: no names that the linker would merge, nothing of
// the standard library. Vectors are the compilers' own, which make of them what the machine has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast {

inline constexpr std::size_t kSoftplusLanes = 4;
inline constexpr std::size_t kSoftplusPart = 256;  // of dot products: 64 factors of at most 2 for each lane

/// Sums over dot products, one for each lane.
struct SoftplusSums {
  double loss[kSoftplusLanes] = {};     // less the logarithm of products
  double products[kSoftplusLanes] = {1, 1, 1, 1};  // of 1 + exp(-|logit|): one logarithm for many terms
  double by_bias[kSoftplusLanes] = {};
  double by_scale[kSoftplusLanes] = {};
  double nothing[kSoftplusLanes] = {};  // 0 times each logit: NaN where one is not finite
};

/// Some dot products, a multiple of kSoftplusLanes, at most kSoftplusPart.
struct SoftplusPart {
  const double* dots;
  const double* signs;  // -y, or 0: nothing is added
  std::size_t count;
  double scale, bias, unit;
  double* gradient;  // by the dot products, or null: no derivative is made
};

namespace avx2 {
void add_softplus(const SoftplusPart& part, SoftplusSums& sums);
}

namespace {

using Doubles = double __attribute__((vector_size(kSoftplusLanes * sizeof(double))));
using Words = std::uint64_t __attribute__((vector_size(kSoftplusLanes * sizeof(double))));

/// of exp(x), from the highest power to that of x^2: |x| <= ln(2) / 2 leaves out 2e-16 of it
constexpr double kExpTaylor[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                 1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2};

/// x = exp(x), for x <= 0; 0 where it would be no normal number. By reference: how such vectors are passed depends on the machine.
[[gnu::always_inline]] inline void exp_of_negative(Doubles& x) {
  constexpr double to_whole = 6755399441055744.0;  // 1.5 * 2^52: its last bit is worth 1
  constexpr double least = -708;
  const Doubles low = x < least ? Doubles{} + least : x;
  const Doubles shifted = low * 1.4426950408889634 + to_whole;
  const Doubles whole = shifted - to_whole;
  const Doubles rest = (low - whole * 0x1.62e42fefa0000p-1) - whole * 0x1.cf79abc9e3b3ap-40;  // ln(2) in two parts
  Doubles power = Doubles{} + kExpTaylor[0];
#pragma GCC unroll 16
  for (std::size_t k = 1; k < sizeof(kExpTaylor) / sizeof(double); ++k) power = power * rest + kExpTaylor[k];
  power = (power * rest + 1.0) * rest + 1.0;
  Words bits, exponent;
  __builtin_memcpy(&bits, &power, sizeof(bits));
  __builtin_memcpy(&exponent, &shifted, sizeof(exponent));
  bits += exponent << 52;
  __builtin_memcpy(&power, &bits, sizeof(bits));
  x = x < least ? Doubles{} : power;
}

template <bool gradient>
[[gnu::always_inline]] inline void add_softplus_as(const SoftplusPart& part, SoftplusSums& sums) {
  const Doubles zero = {};
  const Doubles one = zero + 1.0;
  Doubles loss, products, by_bias, by_scale, nothing;
  __builtin_memcpy(&loss, sums.loss, sizeof(loss));
  __builtin_memcpy(&products, sums.products, sizeof(products));
  __builtin_memcpy(&by_bias, sums.by_bias, sizeof(by_bias));
  __builtin_memcpy(&by_scale, sums.by_scale, sizeof(by_scale));
  __builtin_memcpy(&nothing, sums.nothing, sizeof(nothing));
  for (std::size_t k = 0; k < part.count; k += kSoftplusLanes) {
    Doubles dot, sign;
    __builtin_memcpy(&dot, part.dots + k, sizeof(dot));
    __builtin_memcpy(&sign, part.signs + k, sizeof(sign));
    const Doubles wrong = sign * (dot * part.scale + part.bias);
    nothing += wrong * 0.0;
    const Doubles over = wrong > zero ? wrong : zero;
    Doubles small = wrong > zero ? -wrong : wrong;
    exp_of_negative(small);
    small *= sign * sign;
    const auto tiny = small < 1e-5;  // of 1 + small little would be left; the next term of the series is 3e-11 of it
    loss += over + (tiny ? small - small * small * 0.5 : zero);
    products *= tiny ? one : one + small;
    if constexpr (gradient) {
      const Doubles slope = sign * part.unit * (wrong < zero ? small : one) / (one + small);  // of the sigmoid
      const Doubles by_dot = slope * part.scale;
      __builtin_memcpy(part.gradient + k, &by_dot, sizeof(by_dot));
      by_bias += slope;
      by_scale += slope * dot;
    }
  }
  __builtin_memcpy(sums.loss, &loss, sizeof(loss));
  __builtin_memcpy(sums.products, &products, sizeof(products));
  __builtin_memcpy(sums.by_bias, &by_bias, sizeof(by_bias));
  __builtin_memcpy(sums.by_scale, &by_scale, sizeof(by_scale));
  __builtin_memcpy(sums.nothing, &nothing, sizeof(nothing));
}

void add_softplus(const SoftplusPart& part, SoftplusSums& sums) {
  if (part.gradient == nullptr) {
    add_softplus_as<false>(part, sums);
  } else {
    add_softplus_as<true>(part, sums);
  }
}

}  // namespace
}  // namespace dcfast
