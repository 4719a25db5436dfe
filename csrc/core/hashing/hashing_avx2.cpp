// Compiled with -mavx2. Nothing that may be inlined elsewhere is included: the linker would keep one copy for all
// machines.
#include "core/hashing/hashing_avx2.hpp"

#define XXH_INLINE_ALL

namespace {

constexpr std::size_t line = 64;
constexpr std::size_t near = 2 << 10;
constexpr std::size_t far = 10 << 10;

// One request 2 KiB ahead, as xxHash makes it at a smaller distance, and one 10 KiB ahead into the second-level cache:
// a core's own prefetcher stops at the end of a page, and hashing would wait for memory at the start of each.
inline void prefetch_near_and_far(const void* at) {
  __builtin_prefetch(at, 0, 3);
  __builtin_prefetch(static_cast<const char*>(at) + (far - near), 0, 2);
}

// What the far requests would have asked for, had the hashing begun 10 KiB earlier.
inline void prefetch_start(const void* at, std::size_t size) {
  const std::size_t end = size < far ? size : far;
  for (std::size_t i = near; i < end; i += line) __builtin_prefetch(static_cast<const char*>(at) + i, 0, 2);
}

}  // namespace

// xxHash has a setting for the distance, none for a second request.
#define XXH_PREFETCH_DIST 2048
#define __builtin_prefetch(at, rw, locality) prefetch_near_and_far(at)
#include <xxhash.h>
#undef __builtin_prefetch
static_assert(XXH_PREFETCH_DIST == near);

namespace dcfast::avx2 {

void xxh3_128(const void* data, std::size_t size, std::uint64_t& high, std::uint64_t& low) noexcept {
  prefetch_start(data, size);
  const XXH128_hash_t hash = XXH3_128bits(data, size);
  high = hash.high64;
  low = hash.low64;
}

void xxh3_128_update(void* state, const void* data, std::size_t size) noexcept {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), data, size);
}

}  // namespace dcfast::avx2
