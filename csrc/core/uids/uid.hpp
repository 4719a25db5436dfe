// A uid: 128 bits as two unsigned 64-bit halves, high first, as DataComp's "u8,u8" records lie on disk.
#pragma once

#include <compare>
#include <cstdint>

namespace dcfast {

struct Uid {
  std::uint64_t hi = 0;
  std::uint64_t lo = 0;
  friend auto operator<=>(const Uid&, const Uid&) = default;
};
static_assert(sizeof(Uid) == 16);

}  // namespace dcfast
