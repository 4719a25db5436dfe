// Compiled with -mavx2. Nothing that may be inlined elsewhere is included: the linker would keep one copy for all
// machines.
#include "core/hashing_avx2.hpp"

#define XXH_INLINE_ALL
// The default of 384 bytes leaves a thread waiting for memory: this far ahead it hashes as fast as it could read.
#define XXH_PREFETCH_DIST 4096
#include <xxhash.h>

namespace dcfast::avx2 {

void xxh3_128(const void* data, std::size_t size, std::uint64_t& high, std::uint64_t& low) noexcept {
  const XXH128_hash_t hash = XXH3_128bits(data, size);
  high = hash.high64;
  low = hash.low64;
}

void xxh3_128_update(void* state, const void* data, std::size_t size) noexcept {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), data, size);
}

}  // namespace dcfast::avx2
