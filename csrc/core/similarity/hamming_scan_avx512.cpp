// Compiled with -mavx512f -mavx512vpopcntdq. Nothing that may be inlined elsewhere is included.
#include "core/similarity/hamming_scan.hpp"

#include <immintrin.h>

namespace dcfast::avx512 {
namespace {

constexpr std::uint32_t kLanes = 8;
constexpr __mmask8 kAll = 0xFF;  // as a mask: GCC 12 warns of the intrinsics without one

/// Bits in which the words at a place differ from those of the query, a lane a word.
inline __m512i differences(const std::uint64_t* at, __mmask8 lanes, __m512i query) {
  return _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_maskz_loadu_epi64(lanes, at), query));
}

inline std::uint32_t append(std::uint32_t* found, unsigned near, std::uint32_t first) {
  std::uint32_t hits = 0;
  for (; near != 0; near &= near - 1) found[hits++] = first + static_cast<std::uint32_t>(__builtin_ctz(near));
  return hits;
}

inline __mmask8 lanes_of(std::uint32_t words) { return static_cast<__mmask8>(words >= kLanes ? 0xFF : (1U << words) - 1); }

}  // namespace

std::uint32_t scan_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                          std::uint32_t limit, std::uint32_t* found) noexcept {
  const __m512i key = _mm512_set1_epi64(static_cast<long long>(*query)), bound = _mm512_set1_epi64(limit);
  std::uint32_t hits = 0;
  for (std::uint32_t i = 0; i < count; i += kLanes) {
    const __mmask8 lanes = lanes_of(count - i);
    const __mmask8 near = _mm512_mask_cmple_epu64_mask(lanes, differences(hashes + i, lanes, key), bound);
    if (near != 0) [[unlikely]] hits += append(found + hits, near, i);
  }
  return hits;
}

std::uint32_t scan_wide_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                               std::uint32_t limit, std::uint32_t* found) noexcept {
  const __m512i key = _mm512_maskz_broadcast_i64x4(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query)));
  const __m512i bound = _mm512_set1_epi64(limit);
  std::uint32_t hits = 0;
  for (std::uint32_t i = 0; i < count; i += 2) {  // two hashes of four words each
    const __mmask8 lanes = lanes_of(4 * (count - i < 2 ? count - i : 2));
    __m512i sums = differences(hashes + 4ULL * i, lanes, key);
    sums = _mm512_add_epi64(sums, _mm512_maskz_permutex_epi64(kAll, sums, 0xB1));  // with the neighbour
    sums = _mm512_add_epi64(sums, _mm512_maskz_permutex_epi64(kAll, sums, 0x4E));  // with the other half of the hash
    const unsigned near = _mm512_mask_cmple_epu64_mask(lanes, sums, bound);
    if (near != 0) [[unlikely]] hits += append(found + hits, (near & 1U) | ((near >> 3) & 2U), i);
  }
  return hits;
}

}  // namespace dcfast::avx512
