// How two sets of hashes are joined: which parts of the bits are looked up, or all with all.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace dcfast {

/// Bits of a hash that are looked up in a table: two hashes may differ in at most `radius` of them.
struct HammingPart {
  unsigned word;
  unsigned turn;    // by how many bits the word is turned to the left, so that the key is its first bits
  unsigned bits;    // of the key
  unsigned radius;

  std::uint64_t key(std::uint64_t value) const { return std::rotl(value, static_cast<int>(turn)) >> (64 - bits); }
  unsigned distance(std::uint64_t a, std::uint64_t b) const { return static_cast<unsigned>(std::popcount(key(a) ^ key(b))); }
};

/// parts: of two hashes within the distance at least one is within its radius. None: all are compared with all.
struct HammingPlan {
  std::vector<HammingPart> parts;
  bool outer_is_b = false;  // whose keys are walked through; those near them are looked up in the other side
  double nanoseconds = 0;
};

/// Sizes of a join. self: both sides are one set, each pair is compared once.
struct HammingSizes {
  std::size_t a;
  std::size_t b;
  unsigned words;
  unsigned max_distance;
  bool self;
};

/// The plan that costs least if bits are uniform.
HammingPlan plan_uniform(const HammingSizes& sizes);

/// The plan that costs least, judged by how near the parts of some of these hashes are: those of real images crowd.
HammingPlan plan_sampled(const HammingSizes& sizes, std::span<const std::uint64_t> a, std::span<const std::uint64_t> b);

/// All keys of that many bits with at most radius bits set, fewest first.
std::vector<std::uint32_t> keys_within(unsigned bits, unsigned radius);

}  // namespace dcfast
