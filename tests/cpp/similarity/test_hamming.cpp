// Hamming joins: every pair and no other, at sizes where hashes are compared one by one and where tables are looked up.
#include "core/similarity/hamming.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/system/error.hpp"

using dcfast::HammingPairs;

namespace {

using Hashes = std::vector<std::uint64_t>;

/// Random hashes, of which some differ in a few bits from one of `near`.
Hashes hashes_near(const Hashes& near, std::size_t count, unsigned words, unsigned seed) {
  std::mt19937_64 random(seed);
  Hashes hashes(count * words);
  for (auto& word : hashes) word = random();
  if (near.empty()) return hashes;
  for (std::size_t i = 0; i < count; i += 3) {
    const std::size_t from = i % (near.size() / words) * words;
    for (unsigned w = 0; w < words; ++w) hashes[i * words + w] = near[from + w];
    for (std::size_t bit = 0; bit < i % 12; ++bit) {
      hashes[i * words + random() % words] ^= std::uint64_t{1} << random() % 64;
    }
  }
  return hashes;
}

unsigned bits_between(const Hashes& a, std::size_t i, const Hashes& b, std::size_t j, unsigned words) {
  unsigned bits = 0;
  for (unsigned w = 0; w < words; ++w) {
    bits += static_cast<unsigned>(std::popcount(a[i * words + w] ^ b[j * words + w]));
  }
  return bits;
}

void check_pairs(const HammingPairs& pairs, const Hashes& a, const Hashes& b, unsigned words, unsigned most, bool upper) {
  std::size_t k = 0;
  for (std::size_t i = 0; i < a.size() / words; ++i) {
    for (std::size_t j = upper ? i + 1 : 0; j < b.size() / words; ++j) {
      const unsigned bits = bits_between(a, i, b, j, words);
      if (bits > most) continue;
      CHECK(k < pairs.ia.size() && pairs.ia[k] == static_cast<std::int64_t>(i) &&
            pairs.ib[k] == static_cast<std::int64_t>(j) && pairs.distance[k] == bits);
      ++k;
    }
  }
  CHECK(k == pairs.ia.size() && k == pairs.ib.size() && k == pairs.distance.size());
}

void test_join(std::size_t a_count, std::size_t b_count, unsigned words, unsigned most) {
  const Hashes b = hashes_near({}, b_count, words, 1);
  const Hashes a = hashes_near(b, a_count, words, 2);
  for (const unsigned threads : {1U, 3U}) {
    const auto pairs = dcfast::hamming_join(a, b, words, {most, 1U << 20, threads});
    CHECK(pairs.has_value());
    check_pairs(*pairs, a, b, words, most, false);
    const std::uint64_t count = pairs->ia.size();
    CHECK(!dcfast::hamming_join(a, b, words, {most, count - 1, threads}).has_value());
    CHECK(dcfast::hamming_join(a, b, words, {most, count, threads})->ia == pairs->ia);
    const auto own = dcfast::hamming_self_join(a, words, {most, 1U << 20, threads});
    CHECK(own.has_value());
    check_pairs(*own, a, a, words, most, true);
  }
}

}  // namespace

int main() {
  for (const unsigned words : {1U, 4U}) {
    test_join(1009, 503, words, 2);
    test_join(400, 6007, words, words == 1 ? 8 : 31);
  }
  test_join(2003, 20011, 1, 3);
  const Hashes none;
  CHECK(dcfast::hamming_join(none, none, 1, {8, 10, 1})->ia.empty());
  CHECK_THROWS(dcfast::Error, dcfast::hamming_join(none, none, 1, {65, 10, 1}));
  return failures();
}
