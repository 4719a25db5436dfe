#include "core/similarity/join_search.hpp"

#include <bit>
#include <utility>

#include "core/similarity/block_scan.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kBatch = 1 << 15;  // hits that are gathered before their exact scores are computed

struct Pair {
  std::uint32_t row;  // in the block
  std::uint32_t column;
  float score;
};

/// A key that every row reaches whose score reaches the threshold.
float key_of(const BlockScan& scan, Metric metric, std::size_t r, float threshold) {
  // no distance is so low; no score is so high but of rows that are longer than any float that is encoded
  if (metric == Metric::l2 && threshold == -kInfinite) return kInfinite;
  if (metric != Metric::l2 && threshold == kInfinite) return 1e30F;
  const double key = metric == Metric::l2 ? scan.row_scales.square[r] - static_cast<double>(threshold) : static_cast<double>(threshold);
  const double floor = key - kFloatLoss * (std::abs(static_cast<double>(threshold)) + scan.row_scales.square[r]);
  if (std::isnan(floor)) return -kInfinite;
  return floor > 1e30 ? 1e30F : floor < -1e30 ? -kInfinite : static_cast<float>(floor);
}

/// The pairs of one block of queries.
class Join {
 public:
  Join(const SearchTask& task, float threshold, bool upper)
      : task_(task), threshold_(threshold), upper_(upper), scorer_(task.queries, *task.database, task.metric, task.magnitudes) {}

  void start(std::size_t begin, const BlockScan& scan) {
    begin_ = begin;
    floors.assign(scan.rows.padded, kInfinite);
    for (std::size_t r = 0; r < scan.rows.count; ++r) {
      if (scan.is_usable(r)) floors[r] = key_of(scan, task_.metric, r, threshold_);
    }
  }

  void add(std::size_t r, std::size_t column) {
    if (upper_ && task_.query_base + static_cast<std::int64_t>(begin_ + r) >= task_.database_base + static_cast<std::int64_t>(column)) return;
    waiting_.push_back({static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(column), 0});
  }

  bool is_due() const noexcept { return waiting_.size() >= kBatch; }

  /// Exact scores of what waits.
  void settle(const BlockScan& scan) {
    std::ranges::sort(waiting_, {}, [](const Pair& pair) { return std::pair(pair.row, pair.column); });
    std::uint32_t taken = 0xffffffff;
    for (std::size_t i = 0; i < waiting_.size(); ++i) {
      Pair& pair = waiting_[i];
      if (pair.row != taken) scorer_.take(begin_ + pair.row, scan.rows.norm[pair.row]);
      taken = pair.row;
      if (i + 4 < waiting_.size()) scorer_.prefetch(waiting_[i + 4].column);
      pair.score = scorer_.score(pair.column);
      if (task_.metric == Metric::l2 ? pair.score <= threshold_ : pair.score >= threshold_) pairs.push_back(pair);
      else ++useless;
    }
    waiting_.clear();
  }

  /// Whether one pair reaches the threshold.
  bool reaches(const BlockScan& scan, std::size_t r, std::size_t column) {
    scorer_.take(begin_ + r, scan.rows.norm[r]);
    const float score = scorer_.score(column);
    return task_.metric == Metric::l2 ? score <= threshold_ : score >= threshold_;
  }

  std::vector<float> floors;
  std::vector<Pair> pairs;
  std::size_t useless = 0;

 private:
  const SearchTask& task_;
  float threshold_;
  bool upper_;
  std::size_t begin_ = 0;
  ExactScorer scorer_;
  std::vector<Pair> waiting_;
};

}  // namespace

ScoredPairs join_search(const SearchTask& task, float threshold, bool upper, std::uint64_t max_pairs, const Poll& poll,
                        std::atomic<std::uint64_t>* counted) {
  const std::size_t rows = rows_a_block(task), blocks = (task.queries.count + rows - 1) / rows;
  std::vector<std::vector<Pair>> pairs_of_block(blocks);
  std::atomic<std::uint64_t> own{0};
  std::atomic<std::uint64_t>& total = counted != nullptr ? *counted : own;
  std::atomic<bool> is_full{false};
  LazyScales scales(task);
  parallel_for(blocks, task.threads, [&](std::size_t block, const Poll& check) {
    if (is_full.load(std::memory_order_relaxed)) return;
    const std::size_t begin = block * rows, end = std::min(task.queries.count, begin + rows);
    BlockScan scan(task);
    Join join(task, threshold, upper);
    bool started = false;
    std::size_t reported = 0;
    const auto report = [&] {
      const std::uint64_t more = join.pairs.size() - reported;
      reported = join.pairs.size();
      if (total.fetch_add(more, std::memory_order_relaxed) + more > max_pairs) is_full.store(true, std::memory_order_relaxed);
    };
    scan.run(begin, end, scales,
      [&](const ColumnScales::Bounds& strip) {
        if (!started) join.start(begin, scan);
        started = true;
        scan.row_scales.lower(join.floors, strip, scan.threshold);
      },
      [&](std::size_t r, std::size_t column, float, float) { join.add(r, column); },
      [&](std::size_t strip) {
        if (strip % 64 == 0) check();
        if (join.is_due() || (strip >= 15 && std::has_single_bit(strip + 1))) {
          join.settle(scan);
          report();
        }
        return std::pair(join.useless * exact_cost(task.queries.width), !is_full.load(std::memory_order_relaxed));
      });
    join.settle(scan);
    report();
    std::ranges::sort(join.pairs, {}, [](const Pair& pair) { return std::pair(pair.row, pair.column); });
    pairs_of_block[block] = std::move(join.pairs);
  }, poll);

  ScoredPairs out;
  out.found = total.load();
  out.is_full = is_full.load();
  if (out.is_full) return out;
  std::size_t count = 0;
  for (const std::vector<Pair>& pairs : pairs_of_block) count += pairs.size();
  out.ia.reserve(count);
  out.ib.reserve(count);
  out.scores.reserve(count);
  for (std::size_t block = 0; block < blocks; ++block) {
    for (const Pair& pair : pairs_of_block[block]) {
      out.ia.push_back(static_cast<std::int64_t>(block * rows + pair.row));
      out.ib.push_back(pair.column);
      out.scores.push_back(pair.score);
    }
    std::vector<Pair>().swap(pairs_of_block[block]);
  }
  return out;
}

void any_search(const SearchTask& task, float threshold, std::span<std::uint8_t> out, const Poll& poll) {
  const std::size_t rows = rows_a_block(task);
  LazyScales scales(task);
  parallel_for((task.queries.count + rows - 1) / rows, task.threads, [&](std::size_t block, const Poll& check) {
    const std::size_t begin = block * rows, end = std::min(task.queries.count, begin + rows);
    BlockScan scan(task);
    Join join(task, threshold, false);
    bool started = false;
    std::size_t open = 0;
    scan.run(begin, end, scales,
      [&](const ColumnScales::Bounds& strip) {
        if (!started) {
          join.start(begin, scan);
          for (std::size_t r = 0; r < scan.rows.count; ++r) {
            if (out[begin + r] != 0) join.floors[r] = kInfinite;
            open += join.floors[r] < kInfinite;
          }
        }
        started = true;
        scan.row_scales.lower(join.floors, strip, scan.threshold);
      },
      [&](std::size_t r, std::size_t column, float, float) {
        if (join.floors[r] == kInfinite) return;
        if (!join.reaches(scan, r, column)) {
          ++join.useless;
          return;
        }
        out[begin + r] = 1;
        join.floors[r] = kInfinite;
        --open;
      },
      [&](std::size_t strip) {
        if (strip % 64 == 0) check();
        return std::pair(join.useless * exact_cost(task.queries.width), open > 0);
      });
  }, poll);
}

}  // namespace dcfast
