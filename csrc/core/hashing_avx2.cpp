// Compiled with -mavx2. Nothing that may be inlined elsewhere is included: the linker would keep one copy for all
// machines.
#include "core/hashing_avx2.hpp"

#define XXH_INLINE_ALL

namespace {

// One request 2 KiB ahead, as xxHash makes it at a smaller distance, and one 10 KiB ahead into the second-level cache:
// a core's own prefetcher stops at the end of a page, and hashing would wait for memory at the start of each.
inline void prefetch_near_and_far(const void* at) {
  __builtin_prefetch(at, 0, 3);
  __builtin_prefetch(static_cast<const char*>(at) + (8 << 10), 0, 2);
}

}  // namespace

// xxHash has a setting for the distance, none for a second request.
#define XXH_PREFETCH_DIST 2048
#define __builtin_prefetch(at, rw, locality) prefetch_near_and_far(at)
#include <xxhash.h>
#undef __builtin_prefetch

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
