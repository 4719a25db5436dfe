// Copies drawn by score: sums, caps, rounds, ties to the order of the rows, and what is refused. Chances are tested from
// Python (tests/filters/test_filters_sampling.py).
#include "core/filters/score_sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "check.hpp"
#include "core/system/error.hpp"

namespace {

using dcfast::draw_copies;
using dcfast::SamplingRule;

std::uint64_t sum(const std::vector<std::uint32_t>& copies) {
  return std::accumulate(copies.begin(), copies.end(), std::uint64_t{0});
}

std::vector<double> scores_of(std::size_t rows, double spread, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> scores(rows);
  for (double& score : scores) score = spread * static_cast<double>(random() >> 11) * 0x1p-53;
  return scores;
}

void test_sums_and_caps() {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    const std::size_t rows = 1 + random() % 300;
    const std::vector<double> scores = scores_of(rows, std::ldexp(1.0, static_cast<int>(random() % 15) - 3), seed);
    const auto cap = static_cast<std::uint32_t>(1 + random() % 9);
    const std::uint64_t total = 1 + random() % (rows * cap);
    const auto hard = draw_copies(scores, {total, 0, cap, 1 + random() % 50, seed});
    CHECK(hard.size() == rows && sum(hard) == total);
    CHECK(*std::ranges::max_element(hard) <= cap);
    const std::uint64_t draw = 1 + random() % rows;
    const double penalty = std::ldexp(1.0, static_cast<int>(random() % 13) - 6);
    const auto soft = draw_copies(scores, {total, penalty, 0, draw, seed});
    CHECK(soft.size() == rows && sum(soft) == total);
    CHECK(*std::ranges::max_element(soft) <= (total + draw - 1) / draw);
    CHECK(soft == draw_copies(scores, {total, penalty, 0, draw, seed}));
  }
}

void test_all_rows_in_their_turn() {
  const std::vector<double> scores = scores_of(97, 30'000, 1);
  CHECK(draw_copies(scores, {97 * 4, 0, 4, 10, 5}) == std::vector<std::uint32_t>(97, 4));
  CHECK(draw_copies(scores, {97 * 4, 0.5, 0, 97, 5}) == std::vector<std::uint32_t>(97, 4));
}

void test_polled() {
  const std::vector<double> scores(10, 0.0);
  struct Stopped {};
  CHECK_THROWS(Stopped, draw_copies(scores, {1'000'000, 0, 1'000'000, 1'000'000, 0}, [] { throw Stopped{}; }));
}

void test_refused() {
  const std::vector<double> good(5, 0.0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinite = std::numeric_limits<double>::infinity();
  const auto refused = [](const std::vector<double>& scores, const SamplingRule& rule) {
    CHECK_THROWS(dcfast::Error, draw_copies(scores, rule));
  };
  refused({}, {1, 0, 1, 1, 0});
  refused({0.0, nan}, {1, 0, 1, 1, 0});
  refused({0.0, -infinite}, {1, 0, 1, 1, 0});
  refused({0.0, 45'001.0}, {1, 0, 1, 1, 0});
  refused({-1e308, 1e308}, {1, 0, 1, 1, 0});
  refused(good, {0, 0, 1, 1, 0});
  refused(good, {1, 0, 1, 0, 0});
  refused(good, {1, 0, 0, 1, 0});
  refused(good, {1, 1.0, 1, 1, 0});
  refused(good, {1, -1.0, 0, 1, 0});
  refused(good, {1, nan, 0, 1, 0});
  refused(good, {1, 65.0, 0, 1, 0});
  refused(good, {11, 0, 2, 1, 0});
  refused(good, {50'001, 1.0, 0, 1, 0});
  refused(good, {6, 1.0, 0, 6, 0});
  refused(good, {std::numeric_limits<std::uint64_t>::max(), 0, 1, 1, 0});
  CHECK(sum(draw_copies(good, {3, 1.0, 0, 6, 0})) == 3);  // of a round that is cut short only what is drawn counts
}

}  // namespace

int main() {
  test_sums_and_caps();
  test_all_rows_in_their_turn();
  test_polled();
  test_refused();
  return failures();
}
