// What the fused kernels do with scores, on the host: order as bits, the best two whatever the order, lists with an end.
#include "cuda/select.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "check.hpp"

namespace {

using namespace dcfast::select;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void test_order() {
  std::mt19937 random(1);
  std::vector<float> values{-kInfinity, std::numeric_limits<float>::lowest(), -1.0F, -std::numeric_limits<float>::denorm_min(),
                            0.0F,       std::numeric_limits<float>::denorm_min(), 1.0F, std::numeric_limits<float>::max(), kInfinity};
  std::normal_distribution<float> normal;
  for (int i = 0; i < 1000; ++i) values.push_back(normal(random));
  for (const float a : values) {
    CHECK(from_ordered(ordered(a)) == a);
    CHECK(ordered(a) != 0);
    for (const float b : values) CHECK((ordered(a) < ordered(b)) == (a < b));
  }
  CHECK(ordered(-0.0F) == ordered(0.0F));
}

void test_pack() {
  for (const std::uint32_t column : {0U, 1U, 77U, 0x7fffffffU}) {
    CHECK(packed_column(pack(0.25F, column)) == column);
    CHECK(packed_score(pack(-3.5F, column)) == -3.5F);
  }
  CHECK(pack(1.0F, 5) > pack(1.0F, 6));  // of equal scores the lower column
  CHECK(pack(1.0F, 6) > pack(0.5F, 5));
  CHECK(pack(-0.0F, 3) > pack(0.0F, 4));
  CHECK(pack(nothing(), 0) > 0);  // what nobody wrote is below everything
}

/// The highest two of all, by sorting.
PackedTwo sorted_two(const std::vector<float>& scores) {
  std::vector<std::uint64_t> keys;
  for (std::size_t i = 0; i < scores.size(); ++i) keys.push_back(pack(scores[i], static_cast<std::uint32_t>(i)));
  std::sort(keys.begin(), keys.end(), std::greater<>());
  return {keys[0], keys.size() > 1 ? static_cast<std::uint32_t>(keys[1] >> 32) : ordered(nothing())};
}

/// A tile's part, as a thread makes it.
PackedTwo tile_two(const std::vector<float>& scores, std::size_t begin, std::size_t end) {
  BestTwo best;
  for (std::size_t i = begin; i < end; ++i) best.add(scores[i], static_cast<std::uint32_t>(i - begin));
  return {pack(best.first, static_cast<std::uint32_t>(begin) + best.place), ordered(best.second)};
}

void test_best_two() {
  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    const std::size_t n = 1 + random() % 40;
    std::vector<float> scores(n);
    // few values: ties everywhere, among the second too
    for (float& s : scores) s = static_cast<float>(random() % (round % 2 != 0 ? 3 : 1000)) - 1.0F;
    const PackedTwo wanted = sorted_two(scores);
    CHECK(tile_two(scores, 0, n).first == wanted.first);
    CHECK(tile_two(scores, 0, n).second == wanted.second);

    // pieces in any order, merged as between threads, entered as between tiles
    std::vector<std::size_t> cuts{0, n};
    for (int i = 0; i < 4; ++i) cuts.push_back(random() % (n + 1));
    std::sort(cuts.begin(), cuts.end());
    std::vector<PackedTwo> parts;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      if (cuts[i] < cuts[i + 1]) parts.push_back(tile_two(scores, cuts[i], cuts[i + 1]));
    }
    std::shuffle(parts.begin(), parts.end(), random);
    PackedTwo merged = parts[0];
    for (std::size_t i = 1; i < parts.size(); ++i) merged = merged.merged(parts[i]);
    CHECK(merged.first == wanted.first);
    CHECK(merged.second == wanted.second);

    std::uint64_t first = 0;
    std::uint32_t second = 0;
    for (const PackedTwo& part : parts) {
      enter(
          part,
          [&](std::uint64_t key) {
            const std::uint64_t before = first;
            first = std::max(first, key);
            return before;
          },
          [&](std::uint32_t score) { second = std::max(second, score); });
    }
    CHECK(first == wanted.first);
    CHECK(second == wanted.second);
  }
}

void test_columns_beyond_the_last() {
  BestTwo best;
  best.add(-2.0F, 0);
  for (std::uint32_t i = 1; i < 8; ++i) best.add(nothing(), i);
  CHECK(best.first == -2.0F && best.place == 0 && best.second == nothing());
}

void test_list() {
  CHECK(passes(0.5F, 0.5F));
  CHECK(!passes(std::nextafterf(0.5F, 0.0F), 0.5F));
  CHECK(!passes(std::numeric_limits<float>::quiet_NaN(), -kInfinity));
  CHECK(!passes(1e30F, kInfinity));  // a row beyond the last
  CHECK(pair_key(3, 0xffffffffU) < pair_key(4, 0));

  std::vector<std::uint64_t> keys(5, 99);
  unsigned long long count = 0;
  const PairList list{keys.data(), &count, 3};
  for (std::uint32_t i = 0; i < 5; ++i) list.put((*list.count)++, pair_key(1, i));
  CHECK(count == 5 && count > list.capacity);  // the flag of an overflow
  CHECK(keys[2] == pair_key(1, 2));
  CHECK(keys[3] == 99 && keys[4] == 99);
}

}  // namespace

int main() {
  test_order();
  test_pack();
  test_best_two();
  test_columns_beyond_the_last();
  test_list();
  return failures();
}
