#include "core/index/string_hash.hpp"

#define XXH_INLINE_ALL
#include <sys/random.h>
#include <xxhash.h>

#include <chrono>
#include <cstdint>

namespace dcfast {
namespace {

std::uint64_t fresh_seed() noexcept {
  std::uint64_t seed = 0;
  // early in the boot of a machine there is no randomness without waiting: the clock is hard to guess too
  if (::getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == static_cast<ssize_t>(sizeof(seed))) return seed;
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) * 0x9e3779b97f4a7c15;
}

}  // namespace

std::size_t StringHash::operator()(std::string_view text) const noexcept {
  static const std::uint64_t seed = fresh_seed();
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

}  // namespace dcfast
