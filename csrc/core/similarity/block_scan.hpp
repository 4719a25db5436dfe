// One block of queries against a database, strip by strip: what topk and join have in common.
#pragma once

#include <algorithm>
#include <mutex>
#include <optional>
#include <vector>

#include "core/similarity/score_bounds.hpp"
#include "core/similarity/search_task.hpp"

namespace dcfast {

/// Rows of queries that are scanned together: their codes fill half of a second-level cache, and every thread has some.
inline std::size_t rows_a_block(const SearchTask& task) {
  const std::size_t cached = (std::size_t{256} << 10) / std::max<std::size_t>(task.queries.width, 64);
  const std::size_t threads = resolve_threads(task.threads);
  const std::size_t even = (task.queries.count + threads - 1) / threads;
  return std::max<std::size_t>(2 * kRowPanel, std::min({cached, even, std::size_t{512}}) / (2 * kRowPanel) * (2 * kRowPanel));
}

/// What an exact score costs, in products of narrow codes; and what a hit costs that is kept for later.
inline std::size_t exact_cost(std::size_t width) { return 14 * width; }
inline constexpr std::size_t kHitCost = 600;

/// The scales of a database's columns, those of wide codes made when first asked for, by whichever thread.
class LazyScales {
 public:
  explicit LazyScales(const SearchTask& task) : task_(task), narrow_(task.database->codes(CodeWidth::narrow), task.metric) {}

  const ColumnScales& of(CodeWidth width) {
    if (width == CodeWidth::narrow) return narrow_;
    std::call_once(made_, [&] { wide_.emplace(task_.database->codes(CodeWidth::wide), task_.metric); });
    return *wide_;
  }

 private:
  const SearchTask& task_;
  ColumnScales narrow_;
  std::optional<ColumnScales> wide_;
  std::once_flag made_;
};

/// The scan itself. A thread keeps one and uses its memory again.
class BlockScan {
 public:
  explicit BlockScan(const SearchTask& task) : task_(task) {}

  /// Calls thresholds(strip bounds) before each strip, which fills `threshold`; then take(row, column, value, bound) for each
  /// hit that may count, and done(strip) after it, which returns what hits of no use have cost so far, in products of narrow
  /// codes, and whether to go on. Where that is more than the scan itself, it goes on with wide codes.
  template <typename Thresholds, typename Take, typename Done>
  void run(std::size_t begin, std::size_t end, LazyScales& scales, const Thresholds& thresholds, const Take& take, const Done& done) {
    CodeWidth width = task_.database->is_coarse() ? CodeWidth::wide : CodeWidth::narrow;
    encode(begin, end, width);
    hits.resize(rows.padded * kStrip);
    const std::size_t strips = scales.of(CodeWidth::narrow).strips.size();
    std::size_t next_look = 16, last_look = 0, wasted_before = 0;
    for (std::size_t strip = 0; strip < strips; ++strip) {
      const ColumnScales& columns = scales.of(width);
      thresholds(columns.strips[strip]);
      const std::size_t found = multiply(strip, columns, width);
      const PackedRows& codes = task_.database->codes(CodeWidth::narrow);
      for (std::size_t h = 0; h < found; ++h) {
        const std::size_t column = strip * kStrip + hits[h].column;
        if (columns.bias[column] == -kInfinite || codes.count <= column) continue;
        if (hits[h].row >= rows.count || !is_usable(hits[h].row)) continue;
        if (task_.exclude_self && task_.query_base + static_cast<std::int64_t>(begin + hits[h].row) ==
                                      task_.database_base + static_cast<std::int64_t>(column)) {
          continue;
        }
        take(hits[h].row, column, hits[h].value, row_scales.bound(hits[h].row, columns.strips[strip]));
      }
      const auto [wasted, go_on] = done(strip);
      if (!go_on) return;
      if (width == CodeWidth::narrow && strip + 1 == next_look) {
        // little is known of the best at first, and more hits are natural
        const std::size_t scan_cost = (next_look - last_look) * kStrip * rows.count * task_.queries.width * (strip < 64 ? 2 : 1);
        if (wasted - wasted_before > scan_cost) {
          task_.database->set_coarse();
          width = CodeWidth::wide;
          encode(begin, end, width);
        }
        wasted_before = wasted;
        last_look = next_look;
        next_look *= 2;
      }
    }
  }

  bool is_usable(std::size_t r) const noexcept {
    return rows.state[r] == RowState::usable || (rows.state[r] == RowState::zero && task_.metric != Metric::cos);
  }

  PackedRows rows;
  RowScales row_scales;
  std::vector<float> threshold;

 private:
  void encode(std::size_t begin, std::size_t end, CodeWidth width) {
    pack_rows(task_.queries, begin, end, Side::queries, width, 1, rows);
    row_scales.set(rows, task_.metric);
    threshold.resize(rows.padded);
  }

  std::size_t multiply(std::size_t strip, const ColumnScales& columns, CodeWidth width) {
    const PackedRows& codes = task_.database->codes(width);
    const std::size_t first = strip * kStrip;
    const Strip work{rows.codes,
                     codes.codes + first / kColumnPanel * codes.panel_bytes(Side::database),
                     rows.padded / kRowPanel,
                     kStrip / kColumnPanel,
                     rows.steps,
                     row_scales.scale.data(),
                     threshold.data(),
                     columns.scale.data() + first,
                     columns.bias.data() + first,
                     width == CodeWidth::narrow ? codes.sums.data() + first : nullptr,
                     task_.magnitudes,
                     hits.data()};
    return width == CodeWidth::narrow ? select_kernels().narrow_strip(work) : select_kernels().wide_strip(work);
  }

  const SearchTask& task_;
  std::vector<Hit> hits;
};

}  // namespace dcfast
