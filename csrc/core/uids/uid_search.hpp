// Look-up of many uids in one sorted array: a table of the leading bits narrows the range, interpolation
// guesses inside it, galloping makes it exact. Right for any distribution; one or two cache misses a query
// for hashes. Queries are taken in batches so that their misses overlap.
#pragma once

#include "core/uids/uid_sort.hpp"

namespace dcfast::uid_detail {

/// Lower bounds of queries in `hay` (sorted, borrowed), each the first position with hay[p] >= query.
template <typename T>
class Locator {
 public:
  Locator(std::span<const T> hay, std::size_t num_queries, unsigned threads, const Poll& poll) : hay_(hay) {
    const std::size_t n = hay.size();
    if (n == 0) return;
    const T front = hay.front();  // looked at once: a mapped file may be cut meanwhile
    const T back = hay.back();
    low_ = key_of(front);
    high_ = std::max(low_, key_of(back));
    which_ = front.hi != back.hi ? 0 : 1;
    base_ = word(front, which_);
    const std::uint64_t range = high_ == low_ ? 0 : word(back, which_) - base_;
    // A table entry costs about as much as a query: one for every 32 queries, and for at least 64 values.
    const auto width = [](std::size_t count) { return static_cast<int>(std::bit_width(count)); };
    const int bits = std::clamp(std::min(width(num_queries) - 5, width(n) - 6), 0, 20);
    shift_ = static_cast<unsigned>(std::max(0, static_cast<int>(std::bit_width(range)) - bits));
    const auto entries = static_cast<std::size_t>(shift_ >= 64 ? 0 : range >> shift_) + 1;
    table_.assign(entries + 1, n);
    constexpr std::size_t block = 512;
    parallel_for((entries + block - 1) / block, threads, [&](std::size_t b) {
      std::size_t previous = b == 0 ? 0 : guess_linear(b * block, entries);
      for (std::size_t j = b * block, end = std::min(entries, j + block); j < end; ++j) {
        const std::uint64_t start = j == 0 ? base_ : base_ + (static_cast<std::uint64_t>(j) << shift_);
        // all values share the words before `which_`
        const Key128 key = which_ == 0 ? static_cast<Key128>(start) << 64
                                       : (static_cast<Key128>(front.hi) << 64) | start;
        table_[j] = j == 0 ? 0 : gallop(key, std::min(previous, n), 0, n);
        previous = table_[j] + n / entries;
      }
    }, poll);
    // of values that are not in order, the ranges would end before they begin
    for (std::size_t j = 1; j < table_.size(); ++j) table_[j] = std::max(table_[j], table_[j - 1]);
  }

  /// out[i] = lower bound of queries[i].
  void locate(std::span<const Uid> queries, std::size_t* out) const {
    constexpr std::size_t batch = 32;
    struct Plan {
      std::size_t guess, low, high;
    };
    std::array<Plan, batch> plans;
    const std::size_t n = hay_.size();
    for (std::size_t begin = 0; begin < queries.size(); begin += batch) {
      const std::size_t count = std::min(batch, queries.size() - begin);
      for (std::size_t i = 0; i < count; ++i) {
        const Uid q = queries[begin + i];
        const Key128 key = key_of(q);
        if (n == 0 || key <= low_) {
          plans[i] = {0, 0, 0};
        } else if (key > high_) {
          plans[i] = {n, n, n};
        } else {
          const std::uint64_t delta = word(q, which_) - base_;
          const auto j = static_cast<std::size_t>(shift_ >= 64 ? 0 : delta >> shift_);
          const std::size_t low = table_[j];
          const std::size_t high = table_[j + 1];
          const std::uint64_t inside = shift_ >= 64 ? delta : delta - (static_cast<std::uint64_t>(j) << shift_);
          const auto step = static_cast<std::size_t>((static_cast<Key128>(inside) * (high - low)) >> shift_);
          const std::size_t guess = low + step;
          plans[i] = {guess, low, high};
          __builtin_prefetch(hay_.data() + guess);
        }
      }
      for (std::size_t i = 0; i < count; ++i) {
        const Plan& p = plans[i];
        out[begin + i] = p.low == p.high ? p.low : gallop(key_of(queries[begin + i]), p.guess, p.low, p.high);
      }
    }
  }

  /// The lower bound of key, which is not before p. O(log of the distance).
  std::size_t lower_bound_from(Key128 key, std::size_t p) const noexcept { return gallop(key, p, p, hay_.size()); }

  /// One past the last position from `at` on that holds the uid `key`. O(log of the count).
  std::size_t equal_end(Key128 key, std::size_t at) const noexcept {
    const std::size_t n = hay_.size();
    std::size_t low = at;  // [at, low) equals key
    std::size_t step = 1;
    while (step <= n - low && key_of(hay_[low + step - 1]) == key) {
      low += step;
      step *= 2;
    }
    std::size_t high = std::min(n, low + (step - 1));
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      if (key_of(hay_[middle]) == key) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  std::size_t guess_linear(std::size_t entry, std::size_t entries) const noexcept {
    return static_cast<std::size_t>(static_cast<Key128>(hay_.size()) * entry / entries);
  }

  /// Lower bound of key in [low, high], known to lie there, searched outwards from `guess`.
  std::size_t gallop(Key128 key, std::size_t guess, std::size_t low, std::size_t high) const noexcept {
    std::size_t a = low;   // all before a are below key
    std::size_t b = high;  // all from b on are not
    std::size_t step = 4;
    if (guess < high && key_of(hay_[guess]) < key) {
      a = guess + 1;
      while (step < b - a) {
        if (key_of(hay_[a + step]) >= key) {
          b = a + step;
          break;
        }
        a += step + 1;
        step *= 2;
      }
    } else {
      b = std::min(guess, high);
      while (step < b - a) {
        if (key_of(hay_[b - step]) < key) {
          a = b - step + 1;
          break;
        }
        b -= step;
        step *= 2;
      }
    }
    while (a < b) {
      const std::size_t middle = a + (b - a) / 2;
      if (key_of(hay_[middle]) < key) {
        a = middle + 1;
      } else {
        b = middle;
      }
    }
    return a;
  }

  std::span<const T> hay_;
  Key128 low_ = 0;
  Key128 high_ = 0;
  int which_ = 0;
  std::uint64_t base_ = 0;
  unsigned shift_ = 0;
  std::vector<std::size_t> table_;  // entry j: first position whose leading bits are >= j
};

/// The first position from p on whose high half is not below `hi`; none before p is above it. Whole groups
/// are passed by their last high half alone, and counted inside without a branch on the data.
template <typename T>
std::size_t walk_to(std::span<const T> hay, std::uint64_t hi, std::size_t p) noexcept {
  constexpr std::size_t group = 8;
  const T* const data = hay.data();
  const std::size_t n = hay.size();
  while (p + group <= n && data[p + group - 1].hi < hi) p += group;
  if (p + group <= n) {
    std::size_t below = 0;
    for (std::size_t k = 0; k < group; ++k) below += data[p + k].hi < hi ? 1 : 0;
    return p + below;
  }
  while (p < n && data[p].hi < hi) ++p;
  return p;
}

/// A query in order of its high half: the low half is read only where the high half is found.
struct Numbered {
  std::uint64_t hi;
  std::size_t index;
};

/// Calls visit(index, p, locator) for queries given in the order of their high halves: at(k) is the k-th.
template <typename T, typename At, typename Visit>
void visit_ordered(std::span<const T> hay, std::span<const Uid> queries, std::size_t m, unsigned threads,
                   const Poll& poll, const At& at, const Visit& visit) {
  constexpr std::size_t block = std::size_t{1} << 14;
  // Up to this many values a query, walking past them is cheaper than searching.
  constexpr std::size_t walk_ratio = 48;
  const bool walk = hay.size() / m < walk_ratio;
  const std::size_t num_blocks = (m + block - 1) / block;
  const Locator<T> locator(hay, walk ? num_blocks : m, threads, poll);
  parallel_for(num_blocks, threads, [&](std::size_t b) {
    const std::size_t end = std::min(m, (b + 1) * block);
    constexpr std::size_t batch = 256;
    std::array<Uid, batch> keys;
    std::array<std::size_t, batch> places;
    std::size_t p = 0;
    for (std::size_t begin = b * block; begin < end; begin += batch) {
      const std::size_t count = std::min(batch, end - begin);
      const bool search = !walk || begin == b * block;
      if (search) {
        const std::size_t searched = walk ? 1 : count;
        for (std::size_t k = 0; k < searched; ++k) keys[k] = {at(begin + k).hi, 0};
        locator.locate({keys.data(), searched}, places.data());
        p = places[0];
      }
      for (std::size_t k = 0; k < count; ++k) {
        const Numbered q = at(begin + k);
        p = walk ? walk_to(hay, q.hi, p) : places[k];
        std::size_t place = p;
        if (p < hay.size() && hay[p].hi == q.hi) place = locator.lower_bound_from(key_of(queries[q.index]), p);
        visit(q.index, place, locator);
      }
    }
  }, poll);
}

/// Calls visit(i, p, locator) once for every i, with p the lower bound of queries[i] in the sorted hay.
/// Threads work on ranges of queries; visit must write only to places that belong to i. Unsorted queries are
/// put in order first where they are many, a part at a time: that costs less than the cache misses it saves.
template <typename T, typename Visit>
void for_each_lower_bound(std::span<const T> hay, std::span<const Uid> queries, unsigned threads, const Poll& poll,
                          const Visit& visit) {
  const std::size_t m = queries.size();
  if (m == 0) return;
  constexpr std::size_t few = 4096;
  if (m < few) {
    const Locator<T> locator(hay, m, 1, poll);
    std::array<std::size_t, few> places;
    locator.locate(queries, places.data());
    for (std::size_t i = 0; i < m; ++i) visit(i, places[i], locator);
    return;
  }
  threads = resolve_threads(threads);
  if (first_unsorted(queries, threads, poll) == m) {
    visit_ordered(hay, queries, m, threads, poll,
                  [&](std::size_t k) { return Numbered{queries[k].hi, k}; }, visit);
    return;
  }
  constexpr std::size_t part = std::size_t{1} << 21;  // twice 32 MiB at most
  constexpr std::size_t block = std::size_t{1} << 16;
  const std::size_t room = std::min(m, part);
  Scratch<Uid> numbered(room);
  Scratch<Uid> ordered(room);
  for (std::size_t begin = 0; begin < m; begin += part) {
    const std::size_t count = std::min(part, m - begin);
    parallel_for((count + block - 1) / block, threads, [&](std::size_t b) {
      for (std::size_t i = b * block, end = std::min(count, i + block); i < end; ++i) {
        numbered.data()[i] = {queries[begin + i].hi, begin + i};
      }
    }, poll);
    sort_into<Uid>({numbered.data(), count}, {ordered.data(), count}, threads, poll);
    const Uid* const in_order = ordered.data();
    const auto at = [&](std::size_t k) {
      constexpr std::size_t ahead = 24;  // the low half of a hit lies anywhere in the queries
      __builtin_prefetch(queries.data() + in_order[std::min(k + ahead, count - 1)].lo);
      return Numbered{in_order[k].hi, static_cast<std::size_t>(in_order[k].lo)};
    };
    visit_ordered(hay, queries, count, threads, poll, at, visit);
  }
}

}  // namespace dcfast::uid_detail
