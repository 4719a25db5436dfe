#include "core/filters/score_sampling.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/system/error.hpp"

namespace dcfast {

namespace {

constexpr double kLn2 = 0.693147180559945309417;
constexpr std::size_t kLeaves = 128;
constexpr std::uint64_t kPolledEvery = 1 << 16;
constexpr std::uint64_t kAhead = 8;  // rows that are fetched before they are looked at

/// 2^-leaf.
constexpr std::array<double, kLeaves> kWeights = [] {
  std::array<double, kLeaves> weights{};
  double weight = 1;
  for (double& each : weights) {
    each = weight;
    weight /= 2;
  }
  return weights;
}();

using Block = std::array<std::uint64_t, 4>;

/// Philox 4x64-10 (Salmon et al., SC 2011), as numpy.random.Philox: 256 bits for a counter and a key of two words.
Block philox(std::uint64_t counter, std::uint64_t key0, std::uint64_t key1) noexcept {
  Block x{counter, 0, 0, 0};
  for (int round = 0; round < 10; ++round) {
    const auto a = static_cast<unsigned __int128>(0xD2E7470EE14C6C93) * x[0];
    const auto b = static_cast<unsigned __int128>(0xCA5A826395121157) * x[2];
    x = {static_cast<std::uint64_t>(b >> 64) ^ x[1] ^ key0, static_cast<std::uint64_t>(b),
         static_cast<std::uint64_t>(a >> 64) ^ x[3] ^ key1, static_cast<std::uint64_t>(a)};
    key0 += 0x9E3779B97F4A7C15;
    key1 += 0xBB67AE8584CAA73B;
  }
  return x;
}

/// [0, 1), a multiple of 2^-53.
double to_unit(std::uint64_t bits) noexcept { return static_cast<double>(bits >> 11) * 0x1p-53; }

/// exp(x) for x in [-ln 2, 0], the same on all machines: a library's differs in the last bit from one processor to
/// another. Taylor's series about the middle of the range; the error is 2 units in the last place.
double exp_of(double x) noexcept {
  constexpr std::array<double, 14> inverse_factorials{1.0,           1.0,           1.0 / 2,        1.0 / 6,       1.0 / 24,
                                                      1.0 / 120,     1.0 / 720,     1.0 / 5040,     1.0 / 40320,   1.0 / 362880,
                                                      1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  const double y = x + kLn2 / 2;
  double sum = inverse_factorials.back();
  for (std::size_t i = inverse_factorials.size() - 1; i-- > 0;) sum = sum * y + inverse_factorials[i];
  return sum * 0.707106781186547524401;
}

struct Row {
  double depth;  // of its score below the highest, before it was drawn
  std::uint32_t index;
  std::uint32_t copies;
};
static_assert(sizeof(Row) == 16);

/// The rows by class. Rows of class c have a weight in (2^-(c+1), 2^-c] of the highest, and lie in [begin(c), end_[c]);
/// the first active_[c] of them can be drawn.
class Classes {
 public:
  Classes(std::span<const double> scores, const SamplingRule& rule) : rule_(rule), rows_(scores.size()) {
    const double highest = *std::ranges::max_element(scores);
    for (const double score : scores) ++region(class_of(highest - score));
    std::vector<std::uint64_t> place(end_.size());
    std::uint64_t sum = 0;
    for (std::size_t c = 0; c < end_.size(); ++c) {
      place[c] = sum;
      sum = end_[c] += sum;
    }
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double depth = highest - scores[i];
      rows_[place[class_of(depth)]++] = {depth, static_cast<std::uint32_t>(i), 0};
    }
    active_.resize(end_.size());
    for (std::size_t c = 0; c < end_.size(); ++c) active_[c] = end_[c] - begin(c);
    find_top();
  }

  /// Draws rows one after the other, each once a round under a soft cap.
  void draw_round(std::uint64_t round, std::uint64_t count, const Poll& poll) {
    std::array<Block, kAhead> ahead;
    for (std::uint64_t i = 0; i < kAhead; ++i) ahead[i] = philox(i, rule_.seed, round);
    for (std::uint64_t counter = 0; count > 0; ++counter) {
      if (poll && counter % kPolledEvery == 0) poll();
      const Block random = ahead[counter % kAhead];
      const Block& later = ahead[counter % kAhead] = philox(counter + kAhead, rule_.seed, round);
      __builtin_prefetch(rows_.data() + place_of(later).at, 1);  // a guess: until then other rows are drawn
      const auto [c, at] = place_of(random);
      const double chance = to_unit(random[2]);
      if (chance >= 0.5 && chance >= exp_of(static_cast<double>(c) * kLn2 - depth_of(rows_[at]))) continue;
      --count;
      ++rows_[at].copies;
      if (rule_.penalty > 0 || rows_[at].copies == rule_.most_copies) set_aside(c, at);
    }
  }

  /// The rows of a round can be drawn again, by their new scores.
  void sink_drawn() {
    const std::size_t last = std::min(active_.size(), top_ + kLeaves);
    for (std::size_t c = last; c-- > first_;) {
      const std::uint64_t first_drawn = begin(c) + active_[c];
      for (std::uint64_t at = end_[c]; at-- > first_drawn;) sink(c, at);
      // what sank from here into lower classes, whose regions begin further up now, can be drawn there
    }
    for (std::size_t c = first_; c < active_.size(); ++c) active_[c] = end_[c] - begin(c);
    top_ = first_;
    find_top();
    first_ = top_;
  }

  std::vector<std::uint32_t> copies() const {
    std::vector<std::uint32_t> out(rows_.size());
    for (const Row& row : rows_) out[row.index] = row.copies;
    return out;
  }

 private:
  std::uint64_t begin(std::size_t c) const noexcept { return c == 0 ? 0 : end_[c - 1]; }

  /// The rows that are counted for a class, made where there is none yet.
  std::uint64_t& region(std::size_t c) {
    if (c >= end_.size()) end_.resize(c + 1);
    return end_[c];
  }

  double depth_of(const Row& row) const noexcept {
    return row.depth + static_cast<double>(row.copies) * rule_.penalty;
  }

  static std::size_t class_of(double depth) noexcept { return static_cast<std::size_t>(depth * (1 / kLn2)); }

  /// A drawn row that stands behind those of its class that were not drawn, or were looked at before it.
  void sink(std::size_t c, std::uint64_t at) {
    for (const std::size_t target = std::max(c, class_of(depth_of(rows_[at]))); c < target; ++c) {
      while (c + 1 >= end_.size()) {
        end_.push_back(rows_.size());
        active_.push_back(0);
      }
      std::swap(rows_[at], rows_[end_[c] - 1]);
      at = --end_[c];
    }
  }

  /// Moves a row behind those of its class that can be drawn.
  void set_aside(std::size_t c, std::uint64_t at) {
    std::swap(rows_[at], rows_[begin(c) + --active_[c]]);
    if (active_[top_] == 0) {
      find_top();
      return;
    }
    std::size_t node = kLeaves + c - top_;
    sums_[node] = static_cast<double>(active_[c]) * kWeights[c - top_];
    while (node > 1) {
      node /= 2;
      sums_[node] = sums_[2 * node] + sums_[2 * node + 1];
    }
  }

  /// The heaviest class with rows to draw, and the sums over it and those behind it.
  void find_top() {
    while (top_ < active_.size() && active_[top_] == 0) ++top_;
    for (std::size_t leaf = 0; leaf < kLeaves; ++leaf) {
      const std::size_t c = top_ + leaf;
      const double rows = c < active_.size() ? static_cast<double>(active_[c]) : 0.0;
      sums_[kLeaves + leaf] = rows * kWeights[leaf];
    }
    for (std::size_t node = kLeaves; node-- > 1;) sums_[node] = sums_[2 * node] + sums_[2 * node + 1];
  }

  struct Place {
    std::size_t c;
    std::uint64_t at;
  };

  /// The class, by its sum, and the row of it that random numbers stand for.
  Place place_of(const Block& random) const noexcept {
    double x = to_unit(random[0]) * sums_[1];
    std::size_t node = 1;
    while (node < kLeaves) {
      node *= 2;
      const bool right = (x >= sums_[node]) & (sums_[node + 1] > 0);  // one with rows, whatever is rounded
      x -= right ? sums_[node] : 0.0;
      node += right ? 1 : 0;
    }
    const std::size_t c = std::min(top_ + node - kLeaves, active_.size() - 1);
    return {c, begin(c) + static_cast<std::uint64_t>(static_cast<unsigned __int128>(random[1]) * active_[c] >> 64)};
  }

  const SamplingRule rule_;
  std::vector<Row> rows_;
  std::vector<std::uint64_t> end_, active_;
  std::array<double, 2 * kLeaves> sums_{};
  std::size_t top_ = 0;    // the heaviest class with rows to draw
  std::size_t first_ = 0;  // the same when the round began
};

void check(std::span<const double> scores, const SamplingRule& rule) {
  const std::uint64_t rows = scores.size();
  if (rows == 0) refuse_argument("scores must have at least one row");
  if (rows > std::numeric_limits<std::uint32_t>::max()) {
    refuse_argument("scores must have at most 2^32 - 1 rows; got ", rows, ": give fewer, chosen by another filter");
  }
  double low = scores[0];
  double high = scores[0];
  for (std::size_t i = 0; i < rows; ++i) {
    if (!std::isfinite(scores[i])) refuse_argument("scores must be finite; row ", i, " is not: leave it out");
    low = std::min(low, scores[i]);
    high = std::max(high, scores[i]);
  }
  if (!(high - low <= kMostSpread)) {
    refuse_argument("scores must lie within ", static_cast<std::uint64_t>(kMostSpread),
                    " of each other, as logits do; give others, or divide them by a temperature");
  }
  if (!(rule.penalty >= 0 && rule.penalty <= kMostPenalty) || (rule.penalty > 0) == (rule.most_copies > 0)) {
    refuse_argument("one cap must be given: a penalty above 0 and up to ", static_cast<int>(kMostPenalty),
                    ", or a number of copies of at least 1");
  }
  if (rule.total == 0 || rule.draw == 0) refuse_argument("total and draw must be at least 1");
  const std::uint64_t most = rule.most_copies > 0 ? rule.most_copies : kMostMeanCopies;
  if (rule.total / most > rows || (rule.total / most == rows && rule.total % most > 0)) {
    refuse_argument("total must be at most ", rows, " rows x ", most, " copies; got ", rule.total, ": give a smaller total");
  }
  if (rule.penalty > 0 && std::min(rule.draw, rule.total) > rows) {
    refuse_argument("draw must be at most the ", rows, " rows; got ", rule.draw, ": give a smaller draw");
  }
}

}  // namespace

std::vector<std::uint32_t> draw_copies(std::span<const double> scores, const SamplingRule& rule, const Poll& poll) {
  check(scores, rule);
  Classes classes(scores, rule);
  std::uint64_t left = rule.total;
  for (std::uint64_t round = 0; left > 0; ++round) {
    const std::uint64_t count = std::min(left, rule.draw);
    classes.draw_round(round, count, poll);
    left -= count;
    if (rule.penalty > 0 && left > 0) classes.sink_drawn();
  }
  return classes.copies();
}

}  // namespace dcfast
