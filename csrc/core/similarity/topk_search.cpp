#include "core/similarity/topk_search.hpp"

#include <numeric>

namespace dcfast {
namespace {

struct Candidate {
  float lower, upper;  // bounds of the key
  std::uint32_t column;
};

struct Ranked {
  float score;
  std::int64_t index;
};

std::size_t room_for(std::size_t k) { return std::max<std::size_t>(4 * k, 64); }

/// The candidates of each query of one block. `floor` of a query: k rows are known to have keys that high, so that a row
/// whose key must be lower cannot be among the k best.
class Candidates {
 public:
  Candidates(const SearchTask& task, std::size_t k) : task_(task), k_(k), room_(room_for(k)), scorer_(task.queries, *task.database, task.metric, task.magnitudes) {}

  void start(std::size_t begin, const BlockScan& scan, std::span<const float> scores) {
    begin_ = begin;
    useless = 0;
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
    const bool known = bound < kInfinite && std::isfinite(value);
    const Candidate candidate{known ? value - bound : -kInfinite, known ? value + bound : kInfinite, static_cast<std::uint32_t>(column)};
    if (candidate.upper < floors[r]) return;
    if (k_ == 1) floors[r] = std::max(floors[r], candidate.lower);
    items_[r * room_ + counts_[r]++] = candidate;
    if (counts_[r] == room_) shrink(scan, r);
  }

  /// Merges what is left into the running best.
  void finish(const BlockScan& scan, std::size_t r, float* scores, std::int64_t* indices) {
    cut(r);
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
  std::size_t useless = 0;  // candidates beyond k that bounds could not tell from the best

 private:
  std::span<Candidate> items(std::size_t r) { return {items_.data() + r * room_, counts_[r]}; }

  /// A key that the row of that exact score reaches.
  float key_below(const BlockScan& scan, std::size_t r, float score) const {
    const double key = task_.metric == Metric::l2 ? scan.row_scales.square[r] - static_cast<double>(score) : static_cast<double>(score);
    const double slack = kFloatLoss * (std::abs(static_cast<double>(score)) + scan.row_scales.square[r]);
    const double floor = key - slack;
    return floor < -1e30 || !(floor < 1e30) ? -kInfinite : static_cast<float>(floor);
  }

  /// Raises the floor to the k-th highest lower bound, and drops what is below it.
  void cut(std::size_t r) {
    const std::span<Candidate> all = items(r);
    if (all.size() > k_) {
      std::ranges::nth_element(all, all.begin() + static_cast<std::ptrdiff_t>(k_ - 1), std::greater{}, &Candidate::lower);
      floors[r] = std::max(floors[r], all[k_ - 1].lower);
    }
    const float floor = floors[r];
    const auto kept = std::remove_if(all.begin(), all.end(), [floor](const Candidate& c) { return c.upper < floor; });
    counts_[r] = static_cast<std::size_t>(kept - all.begin());
  }

  /// Makes room: where bounds cannot tell the candidates apart, exact scores do.
  void shrink(const BlockScan& scan, std::size_t r) {
    cut(r);
    useless += counts_[r] - std::min(counts_[r], k_);
    if (counts_[r] <= room_ / 2) return;
    ranked_.clear();
    rank(scan, r, ranked_);
    counts_[r] = ranked_.size();
    for (std::size_t i = 0; i < ranked_.size(); ++i) {
      const float key = key_below(scan, r, ranked_[i].score);
      items_[r * room_ + i] = {key, kInfinite, static_cast<std::uint32_t>(ranked_[i].index - task_.database_base)};
    }
    if (ranked_.size() == k_) floors[r] = std::max(floors[r], items_[r * room_ + k_ - 1].lower);
  }

  /// Adds the exact scores of row r's candidates to `best` and leaves the k best there, in order.
  void rank(const BlockScan& scan, std::size_t r, std::vector<Ranked>& best) {
    const std::span<const Candidate> all = items(r);
    if (!all.empty()) scorer_.take(begin_ + r, scan.rows.norm[r]);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i + 4 < all.size()) scorer_.prefetch(all[i + 4].column);
      best.push_back({scorer_.score(all[i].column), task_.database_base + static_cast<std::int64_t>(all[i].column)});
    }
    const bool smallest_first = task_.metric == Metric::l2;
    std::ranges::sort(best, [smallest_first](const Ranked& a, const Ranked& b) {
      if (a.score != b.score) return smallest_first ? a.score < b.score : a.score > b.score;
      return a.index < b.index;
    });
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
        for (std::size_t r = 0; r < scan.rows.padded; ++r) {
          const float bound = r < scan.rows.count && scan.is_usable(r) ? scan.row_scales.bound(r, strip) : 0;
          // -infinity less infinity, or infinity less it, must not lose a candidate
          scan.threshold[r] = bound < kInfinite ? candidates.floors[r] - bound : -kInfinite;
        }
      },
      [&](std::size_t r, std::size_t column, float value, float bound) { candidates.add(scan, r, column, value, bound); },
      [&](std::size_t strip) {
        if (strip % 64 == 0) check();
        return std::pair(candidates.useless, true);
      });
    if (!started) return;
    for (std::size_t r = 0; r < end - begin; ++r) candidates.finish(scan, r, scores.data() + (begin + r) * k, indices.data() + (begin + r) * k);
  }, poll);
}

}  // namespace dcfast
