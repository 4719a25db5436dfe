// One hash against many that lie side by side in the cache.
#pragma once

#include <cstdint>

namespace dcfast {

/// Writes to `found` which of `count` hashes differ from the query in at most `limit` bits, in order, and returns how
/// many do. `found` has room for all.
using HammingScan = std::uint32_t (*)(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                                      std::uint32_t limit, std::uint32_t* found) noexcept;

/// The fastest for hashes of 1 or 4 words that this processor has.
HammingScan hamming_scan_of(unsigned words);

namespace avx2 {
std::uint32_t scan_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                          std::uint32_t limit, std::uint32_t* found) noexcept;
}

namespace avx512 {
std::uint32_t scan_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                          std::uint32_t limit, std::uint32_t* found) noexcept;
std::uint32_t scan_wide_hashes(const std::uint64_t* query, const std::uint64_t* hashes, std::uint32_t count,
                               std::uint32_t limit, std::uint32_t* found) noexcept;
}

}  // namespace dcfast
