#include "core/similarity/topk_search.hpp"

#include <numeric>
#include <utility>

#include "core/similarity/block_scan.hpp"

namespace dcfast {
namespace {

struct Candidate {
  float lower, upper;  // bounds of the key
  std::uint32_t column;
  float score;         // exact, or NaN where it was not computed
};

constexpr float kUnknown = std::numeric_limits<float>::quiet_NaN();

struct Ranked {
  float score;
  std::int64_t index;
};

std::size_t room_for(std::size_t k) { return std::max<std::size_t>(4 * k, 128); }

/// The candidates of each query of one block. `floor` of a query: k rows are known to have keys that high, so that a row
/// whose key must be lower cannot be among the k best.
class Candidates {
 public:
  Candidates(const SearchTask& task, std::size_t k) : task_(task), k_(k), room_(room_for(k)), scorer_(task.queries, *task.database, task.metric, task.magnitudes) {}

  void start(std::size_t begin, const BlockScan& scan, std::span<const float> scores) {
    begin_ = begin;
    wasted = 0;
    counts_.assign(scan.rows.count, 0);
    floors.assign(scan.rows.padded, kInfinite);
    items_.resize(scan.rows.count * room_);
    for (std::size_t r = 0; r < scan.rows.count; ++r) {
      if (!scan.is_usable(r)) continue;
      const float worst = scores[(begin + r) * k_ + k_ - 1];
      floors[r] = std::isinf(worst) ? -kInfinite : key_below(scan, r, worst);
    }
  }

  void add(const BlockScan& scan, std::size_t r, std::size_t column, float value, float bound) {
    // NaN: infinite scales; nothing is known
    const bool known = bound < 1e30F && std::isfinite(value);
    const Candidate candidate{known ? value - bound : -kInfinite, known ? value + bound : kInfinite, static_cast<std::uint32_t>(column), kUnknown};
    if (candidate.upper < floors[r]) return;
    items_[r * room_ + counts_[r]++] = candidate;
    if (k_ == 1 && candidate.lower > floors[r]) {
      settle(scan, r, items(r).last(1));
      floors[r] = std::max(floors[r], items(r).back().lower);
    }
    if (counts_[r] == room_) shrink(scan, r);
  }

  /// Merges what is left into the running best.
  void finish(const BlockScan& scan, std::size_t r, float* scores, std::int64_t* indices) {
    cut(scan, r);
    std::vector<Ranked>& best = ranked_;
    best.clear();
    for (std::size_t i = 0; i < k_ && indices[i] >= 0; ++i) best.push_back({scores[i], indices[i]});
    rank(scan, r, best);
    for (std::size_t i = 0; i < best.size(); ++i) {
      scores[i] = best[i].score;
      indices[i] = best[i].index;
    }
  }

  std::vector<float> floors;
  std::size_t wasted = 0;  // on candidates that were dropped again, in products of narrow codes

 private:
  std::span<Candidate> items(std::size_t r) { return {items_.data() + r * room_, counts_[r]}; }

  /// Bounds of the key of a row of that exact score; -infinity where it leaves the range.
  float key_below(const BlockScan& scan, std::size_t r, float score) const { return key_of(scan, r, score, -kFloatLoss); }
  float key_above(const BlockScan& scan, std::size_t r, float score) const { return key_of(scan, r, score, kFloatLoss); }

  float key_of(const BlockScan& scan, std::size_t r, float score, double loss) const {
    const double value = static_cast<double>(score), square = scan.row_scales.square[r];
    const double key = (task_.metric == Metric::l2 ? square - value : value) + loss * (std::abs(value) + square);
    return std::abs(key) < 1e30 ? static_cast<float>(key) : -kInfinite;
  }

  /// Scores the k that look best exactly, raises the floor to the worst of them, and drops what is below it.
  void cut(const BlockScan& scan, std::size_t r) {
    const std::span<Candidate> all = items(r);
    if (all.size() <= k_) return;
    std::ranges::nth_element(all, all.begin() + static_cast<std::ptrdiff_t>(k_ - 1), std::greater{}, &Candidate::upper);
    settle(scan, r, all.first(k_));
    const float reached = std::ranges::min(all.first(k_), {}, &Candidate::lower).lower;
    const float floor = floors[r] = std::max(floors[r], reached);
    const auto kept = std::remove_if(all.begin(), all.end(), [floor](const Candidate& c) { return c.upper < floor; });
    counts_[r] = static_cast<std::size_t>(kept - all.begin());
  }

  /// Exact scores of row r's candidates that have none yet.
  void settle(const BlockScan& scan, std::size_t r, std::span<Candidate> some) {
    bool taken = false;
    for (std::size_t i = 0; i < some.size(); ++i) {
      if (i + 4 < some.size()) scorer_.prefetch(some[i + 4].column);
      Candidate& candidate = some[i];
      if (!std::isnan(candidate.score)) continue;
      if (!taken) scorer_.take(begin_ + r, scan.rows.norm[r]);
      taken = true;
      wasted += exact_cost(task_.queries.width);
      candidate.score = scorer_.score(candidate.column);
      candidate.lower = key_below(scan, r, candidate.score);
      candidate.upper = candidate.lower > -kInfinite ? key_above(scan, r, candidate.score) : kInfinite;
    }
  }

  /// Makes room: where bounds cannot tell the candidates apart, exact scores do.
  void shrink(const BlockScan& scan, std::size_t r) {
    wasted += kHitCost * room_;
    cut(scan, r);
    if (counts_[r] <= room_ / 2) return;
    settle(scan, r, items(r));
    const auto before = [this](const Candidate& a, const Candidate& b) {
      return precedes({a.score, std::int64_t{a.column}}, {b.score, std::int64_t{b.column}});
    };
    const std::span<Candidate> all = items(r);
    if (all.size() <= k_) return;
    std::ranges::nth_element(all, all.begin() + static_cast<std::ptrdiff_t>(k_ - 1), before);
    counts_[r] = k_;
    floors[r] = std::max(floors[r], all[k_ - 1].lower);
  }

  bool precedes(const Ranked& a, const Ranked& b) const noexcept {
    if (a.score != b.score) return task_.metric == Metric::l2 ? a.score < b.score : a.score > b.score;
    return a.index < b.index;
  }

  /// Adds row r's candidates to `best` and leaves the k best there, in order.
  void rank(const BlockScan& scan, std::size_t r, std::vector<Ranked>& best) {
    settle(scan, r, items(r));
    for (const Candidate& candidate : items(r)) {
      best.push_back({candidate.score, task_.database_base + static_cast<std::int64_t>(candidate.column)});
    }
    std::ranges::sort(best, [this](const Ranked& a, const Ranked& b) { return precedes(a, b); });
    if (best.size() > k_) best.resize(k_);
  }

  const SearchTask& task_;
  std::size_t k_, room_, begin_ = 0;
  ExactScorer scorer_;
  std::vector<std::size_t> counts_;
  std::vector<Candidate> items_;
  std::vector<Ranked> ranked_;
};

}  // namespace

void topk_search(const SearchTask& task, std::size_t k, std::span<float> scores, std::span<std::int64_t> indices, const Poll& poll) {
  constexpr std::size_t most_candidates = (std::size_t{32} << 20) / sizeof(Candidate);
  const std::size_t fitting = most_candidates / room_for(k) / kRowPanel * kRowPanel;
  const std::size_t rows = std::max(kRowPanel, std::min(rows_a_block(task), fitting));
  LazyScales scales(task);
  parallel_for((task.queries.count + rows - 1) / rows, task.threads, [&](std::size_t block, const Poll& check) {
    const std::size_t begin = block * rows, end = std::min(task.queries.count, begin + rows);
    BlockScan scan(task);
    Candidates candidates(task, k);
    bool started = false;
    scan.run(begin, end, scales,
      [&](const ColumnScales::Bounds& strip) {
        if (!started) candidates.start(begin, scan, scores);
        started = true;
        scan.row_scales.lower(candidates.floors, strip, scan.threshold);
      },
      [&](std::size_t r, std::size_t column, float value, float bound) { candidates.add(scan, r, column, value, bound); },
      [&](std::size_t strip) {
        if (strip % 64 == 0) check();
        return std::pair(candidates.wasted, true);
      });
    if (!started) return;
    for (std::size_t r = 0; r < end - begin; ++r) candidates.finish(scan, r, scores.data() + (begin + r) * k, indices.data() + (begin + r) * k);
  }, poll);
}

}  // namespace dcfast
