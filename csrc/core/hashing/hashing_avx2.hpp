// XXH3 compiled for AVX2, in a file of its own: call these where the machine has it (hashing.cpp asks).
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast::avx2 {

/// XXH3-128 of size bytes.
void xxh3_128(const void* data, std::size_t size, std::uint64_t& high, std::uint64_t& low) noexcept;
/// XXH3_128bits_update of an XXH3_state_t: its layout is the same for all instruction sets.
void xxh3_128_update(void* state, const void* data, std::size_t size) noexcept;

}  // namespace dcfast::avx2
