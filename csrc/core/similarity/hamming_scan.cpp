#include "core/similarity/hamming_scan.hpp"

#include <bit>
#include <cstddef>

#include "core/system/cpu.hpp"

namespace dcfast {
namespace {

std::uint32_t scan_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                          std::uint32_t limit, std::uint32_t* found) noexcept {
  const std::uint64_t key = *query;
  std::uint32_t hits = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (static_cast<std::uint32_t>(std::popcount(key ^ hashes[i])) <= limit) [[unlikely]] found[hits++] = i;
  }
  return hits;
}

/// 256 bits: half of them tells most hashes away.
std::uint32_t scan_wide_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                               std::uint32_t limit, std::uint32_t* found) noexcept {
  const std::uint64_t q0 = query[0], q1 = query[1], q2 = query[2], q3 = query[3];
  std::uint32_t hits = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t* hash = hashes + std::size_t{4} * i;
    const int half = std::popcount(q0 ^ hash[0]) + std::popcount(q1 ^ hash[1]);
    if (static_cast<std::uint32_t>(half) > limit) continue;
    const int whole = half + std::popcount(q2 ^ hash[2]) + std::popcount(q3 ^ hash[3]);
    if (static_cast<std::uint32_t>(whole) <= limit) [[unlikely]] found[hits++] = i;
  }
  return hits;
}

}  // namespace

HammingScan hamming_scan_of(unsigned words) {
#ifdef DCFAST_HAVE_AVX2
  if (have_avx512_popcount()) return words == 1 ? avx512::scan_hashes : avx512::scan_wide_hashes;
  // of wide hashes the popcnt instruction is as fast as AVX2's table look-ups
  if (words == 1 && have_avx2()) return avx2::scan_hashes;
#endif
  return words == 1 ? scan_hashes : scan_wide_hashes;
}

}  // namespace dcfast
