// Plain loops: SSE2's integer products where the compiler's baseline has them, scalar ones elsewhere.
#include "core/similarity/encode_loop.hpp"
#include "core/similarity/select_kernels.hpp"
#ifdef __SSSE3__
#include <immintrin.h>
#endif

namespace dcfast::baseline {
namespace {

/// products[16 r + c] of four rows and a column panel of narrow codes or wide ones, modulo 2^32: those of narrow codes
/// have the queries' offset in them, and are below 2^31 without it
template <bool narrow>
void multiply(const std::byte* rows, const std::byte* columns, std::size_t steps, std::uint32_t* products) {
  for (std::size_t i = 0; i < kRowPanel * kColumnPanel; ++i) products[i] = 0;
  for (std::size_t step = 0; step < steps; ++step, rows += 4 * kRowPanel, columns += 4 * kColumnPanel) {
    // each chunk begins with the sums that the offset of the queries brings in: taken from column_sums here
    if (narrow && step % kChunkQuads == 0) columns += 4 * kColumnPanel;
    for (std::size_t r = 0; r < kRowPanel; ++r) {
      for (std::size_t c = 0; c < kColumnPanel; ++c) {
        std::int32_t sum = 0;
        if constexpr (narrow) {
          for (std::size_t e = 0; e < 4; ++e) {
            sum += static_cast<std::int32_t>(static_cast<std::uint8_t>(rows[4 * r + e])) *
                   static_cast<std::int32_t>(static_cast<std::int8_t>(columns[4 * c + e]));
          }
        } else {
          std::int16_t left[2], right[2];
          __builtin_memcpy(left, rows + 4 * r, 4);
          __builtin_memcpy(right, columns + 4 * c, 4);
          sum = left[0] * right[0] + left[1] * right[1];
        }
        products[kColumnPanel * r + c] += static_cast<std::uint32_t>(sum);
      }
    }
  }
}

#ifdef __SSSE3__
template <>
void multiply<false>(const std::byte* rows, const std::byte* columns, std::size_t steps, std::uint32_t* products) {
  for (std::size_t r = 0; r < kRowPanel; r += 2) {
    __m128i sums[2][4] = {};
    for (std::size_t step = 0; step < steps; ++step) {
      const auto* const column = reinterpret_cast<const __m128i*>(columns + 4 * kColumnPanel * step);
      for (std::size_t i = 0; i < 2; ++i) {
        std::int32_t pair;
        __builtin_memcpy(&pair, rows + 4 * (kRowPanel * step + r + i), 4);
        const __m128i row = _mm_set1_epi32(pair);
        for (std::size_t c = 0; c < 4; ++c) {
          sums[i][c] = _mm_add_epi32(sums[i][c], _mm_madd_epi16(row, _mm_loadu_si128(column + c)));
        }
      }
    }
    for (std::size_t i = 0; i < 2; ++i) {
      for (std::size_t c = 0; c < 4; ++c) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(products + kColumnPanel * (r + i) + 4 * c), sums[i][c]);
      }
    }
  }
}
#endif

template <bool narrow>
std::size_t strip(const Strip& s) {
  std::size_t found = 0;
  const std::size_t panel_bytes = 4 * kColumnPanel * (narrow ? s.steps + s.steps / kChunkQuads : s.steps);
  for (std::size_t p = 0; p < s.column_panels; ++p) {
    for (std::size_t panel = 0; panel < s.row_panels; ++panel) {
      std::uint32_t products[kRowPanel * kColumnPanel];
      multiply<narrow>(s.queries + panel * 4 * kRowPanel * s.steps, s.columns + p * panel_bytes, s.steps, products);
      for (std::size_t r = 0; r < kRowPanel; ++r) {
        const std::size_t row = panel * kRowPanel + r;
        for (std::size_t c = 0; c < kColumnPanel; ++c) {
          const std::size_t column = p * kColumnPanel + c;
          std::uint32_t product = products[kColumnPanel * r + c];
          if (narrow) product -= static_cast<std::uint32_t>(kQueryOffset) * static_cast<std::uint32_t>(s.column_sums[column]);
          float value = static_cast<float>(static_cast<std::int32_t>(product)) * s.column_scale[column] * s.row_scale[row] + s.column_bias[column];
          if (s.magnitudes) value = __builtin_fabsf(value);
          if (!(value < s.threshold[row])) {
            s.hits[found++] = {static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(column), value};
          }
        }
      }
    }
  }
  return found;
}

}  // namespace

const SelectKernels select_kernels{"baseline", row_shape, encode_row, to_double, exact_score<false>, exact_score<true>, strip<false>, strip<true>};

}  // namespace dcfast::baseline
