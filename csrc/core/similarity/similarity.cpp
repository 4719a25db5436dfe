#include "core/similarity/similarity.hpp"

#include <algorithm>
#include <bit>

#include "core/system/error.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kRows = 64;     // of a, one piece of work
constexpr std::size_t kTile = 2048;   // of b: 16 KiB, half of a first-level cache

struct Pair {
  std::uint64_t ia;
  std::uint64_t ib;
  std::uint8_t distance;
};

std::size_t num_blocks(std::size_t rows) { return rows / kRows + (rows % kRows != 0); }

}  // namespace

HammingPairs hamming_join(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b, unsigned max_distance,
                          std::uint64_t max_pairs, unsigned threads, const Poll& poll) {
  if (max_distance > 64) refuse_argument("max_distance must be 0 to 64; got ", max_distance);
  const int limit = static_cast<int>(max_distance);
  std::vector<std::vector<Pair>> pairs_of_block(num_blocks(a.size()));
  std::atomic<std::uint64_t> total{0};
  parallel_for(pairs_of_block.size(), threads, [&](std::size_t block) {
    std::vector<Pair>& out = pairs_of_block[block];
    const std::size_t row_end = std::min(a.size(), (block + 1) * kRows);
    std::size_t reported = 0;
    for (std::size_t tile = 0; tile < b.size(); tile += kTile) {
      const std::size_t tile_end = std::min(b.size(), tile + kTile);
      for (std::size_t i = block * kRows; i < row_end; ++i) {
        const std::uint64_t key = a[i];
        for (std::size_t j = tile; j < tile_end; ++j) {
          const int distance = std::popcount(key ^ b[j]);
          if (distance <= limit) [[unlikely]] out.push_back({i, j, static_cast<std::uint8_t>(distance)});
        }
      }
      // After each tile, so that no block outgrows the bound by more than one tile's pairs.
      if (out.size() != reported) {
        const std::uint64_t more = out.size() - reported;
        reported = out.size();
        if (total.fetch_add(more, std::memory_order_relaxed) + more > max_pairs) {
          refuse_argument(
              "more than max_pairs=", max_pairs, " pairs within distance ", max_distance, " among ", a.size(), " x ",
              b.size(), " hashes: join parts of a one after another, lower max_distance, or ask for the nearest only");
        }
      }
    }
    std::ranges::sort(out, {}, [](const Pair& pair) { return std::pair(pair.ia, pair.ib); });
  }, poll);

  HammingPairs pairs;
  const std::size_t count = total.load();
  pairs.ia.reserve(count);
  pairs.ib.reserve(count);
  pairs.distance.reserve(count);
  for (std::vector<Pair>& block : pairs_of_block) {
    for (const Pair& pair : block) {
      pairs.ia.push_back(pair.ia);
      pairs.ib.push_back(pair.ib);
      pairs.distance.push_back(pair.distance);
    }
    std::vector<Pair>().swap(block);
  }
  return pairs;
}

HammingNearest hamming_nearest(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b, unsigned threads,
                               const Poll& poll) {
  if (b.empty() && !a.empty()) refuse_argument("b is empty: there is no nearest hash");
  HammingNearest nearest;
  nearest.index.assign(a.size(), 0);
  nearest.distance.assign(a.size(), 65);
  parallel_for(num_blocks(a.size()), threads, [&](std::size_t block) {
    const std::size_t row_end = std::min(a.size(), (block + 1) * kRows);
    for (std::size_t tile = 0; tile < b.size(); tile += kTile) {
      const std::size_t tile_end = std::min(b.size(), tile + kTile);
      for (std::size_t i = block * kRows; i < row_end; ++i) {
        const std::uint64_t key = a[i];
        int best = nearest.distance[i];
        for (std::size_t j = tile; j < tile_end; ++j) {
          const int distance = std::popcount(key ^ b[j]);
          if (distance < best) [[unlikely]] {
            best = distance;
            nearest.index[i] = j;
          }
        }
        nearest.distance[i] = static_cast<std::uint8_t>(best);
      }
    }
  }, poll);
  return nearest;
}

}  // namespace dcfast
