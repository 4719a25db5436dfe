// Compiled with -mavx2 -mpopcnt. Nothing that may be inlined elsewhere is included.
#include "core/similarity/hamming_scan.hpp"

#include <immintrin.h>

namespace dcfast::avx2 {
namespace {

// At up to this many bits, 32 of the 64 tell nearly all strangers away: at 10 bits 39 of 40.
constexpr std::uint32_t kHalfLimit = 10;

inline __m256i byte_counts(__m256i bits) {
  const __m256i of_nibble = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(bits, nibble);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble);
  return _mm256_add_epi8(_mm256_shuffle_epi8(of_nibble, low), _mm256_shuffle_epi8(of_nibble, high));
}

inline __m256i load(const std::uint64_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

inline bool is_near(std::uint64_t a, std::uint64_t b, std::uint32_t limit) {
  return static_cast<std::uint32_t>(_mm_popcnt_u64(a ^ b)) <= limit;
}

/// Of eight hashes, all bits of those whose lower halves are too far; in the order 0 1 4 5 2 3 6 7.
inline __m256i far_halves(const std::uint64_t* at, __m256i query, __m256i limit) {
  const __m256 halves = _mm256_shuffle_ps(_mm256_castsi256_ps(load(at)), _mm256_castsi256_ps(load(at + 4)), 0x88);
  const __m256i counts = byte_counts(_mm256_xor_si256(_mm256_castps_si256(halves), query));
  const __m256i pairs = _mm256_maddubs_epi16(counts, _mm256_set1_epi8(1));
  return _mm256_cmpgt_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), limit);
}

/// Of four hashes, all bits of those that are too far.
inline __m256i far_hashes(const std::uint64_t* at, __m256i query, __m256i limit) {
  const __m256i counts = byte_counts(_mm256_xor_si256(load(at), query));
  return _mm256_cmpgt_epi64(_mm256_sad_epu8(counts, _mm256_setzero_si256()), limit);
}

inline bool all(__m256i mask) { return _mm256_testc_si256(mask, _mm256_set1_epi64x(-1)) != 0; }

}  // namespace

std::uint32_t scan_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                          std::uint32_t limit, std::uint32_t* found) noexcept {
  const std::uint64_t key = *query;
  std::uint32_t hits = 0, i = 0;
  const auto look = [&](std::uint32_t end) {
    for (std::uint32_t k = i; k < end; ++k) {
      if (is_near(key, hashes[k], limit)) found[hits++] = k;
    }
  };
  if (limit <= kHalfLimit) {
    const __m256i half = _mm256_set1_epi32(static_cast<int>(key)), bound = _mm256_set1_epi32(static_cast<int>(limit));
    for (; i + 16 <= count; i += 16) {
      const __m256i far = _mm256_and_si256(far_halves(hashes + i, half, bound), far_halves(hashes + i + 8, half, bound));
      if (!all(far)) [[unlikely]] look(i + 16);
    }
  } else {
    const __m256i whole = _mm256_set1_epi64x(static_cast<long long>(key)), bound = _mm256_set1_epi64x(limit);
    for (; i + 8 <= count; i += 8) {
      const __m256i far = _mm256_and_si256(far_hashes(hashes + i, whole, bound), far_hashes(hashes + i + 4, whole, bound));
      if (!all(far)) [[unlikely]] look(i + 8);
    }
  }
  look(count);
  return hits;
}

}  // namespace dcfast::avx2
