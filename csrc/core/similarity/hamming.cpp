#include "core/similarity/hamming.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/similarity/hamming_pairs.hpp"
#include "core/similarity/hamming_plan.hpp"
#include "core/similarity/hamming_scan.hpp"
#include "core/similarity/hamming_tables.hpp"
#include "core/system/error.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kTileBytes = 16 << 10;  // half of a first-level cache
constexpr std::size_t kRows = 64;             // of a, one piece of work when all are compared with all
constexpr std::size_t kColumns = 1 << 16;     // of b, likewise
constexpr std::size_t kPiece = 2048;          // hashes of the outer side, one piece of work in a table

template <std::size_t W>
constexpr std::uint32_t kTile = kTileBytes / sizeof(Hash<W>);

/// What both ways share: the sides, and where hits go.
template <std::size_t W>
struct Join {
  HammingSizes sizes;
  const Distinct<W>& a;
  const Distinct<W>& b;
  NearList& near;
  unsigned threads;
  const Poll& poll;

  HammingScan scan = hamming_scan_of(W);
  std::uint32_t limit() const { return sizes.max_distance; }
  std::uint64_t pairs_of(std::uint32_t i, std::uint32_t j) const { return a.copies(i) * b.copies(j); }
};

/// Notes hits: counts their pairs when there are some, and hands them on.
template <std::size_t W>
class Hits {
 public:
  explicit Hits(const Join<W>& join) : join_(join) {}

  void add(std::uint32_t i, std::uint32_t j, unsigned distance) {
    hits_.push_back({i, j, static_cast<std::uint16_t>(distance)});
    pairs_ += join_.pairs_of(i, j);
  }
  void settle() {
    if (pairs_ > 0) join_.near.count(std::exchange(pairs_, 0));
  }
  void hand_on() {
    settle();
    if (!hits_.empty()) join_.near.add(hits_);
  }

 private:
  const Join<W>& join_;
  std::vector<NearHashes> hits_;
  std::uint64_t pairs_ = 0;
};

/// One tile of b, in the cache, with some hashes of a.
template <std::size_t W>
void compare_tile(const Join<W>& join, std::size_t a_begin, std::size_t a_end, std::size_t b_begin, std::size_t b_end, Hits<W>& hits) {
  std::array<std::uint32_t, kTile<W>> found;
  for (std::size_t i = a_begin; i < a_end; ++i) {
    const std::size_t begin = join.sizes.self ? std::max(b_begin, i + 1) : b_begin;
    if (begin >= b_end) continue;
    const std::uint32_t count = join.scan(join.a.hashes[i].data(), join.b.hashes[begin].data(),
                                          static_cast<std::uint32_t>(b_end - begin), join.limit(), found.data());
    for (std::uint32_t k = 0; k < count; ++k) {
      const std::size_t j = begin + found[k];
      hits.add(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(j), hamming_distance(join.a.hashes[i], join.b.hashes[j]));
    }
  }
}

template <std::size_t W>
void compare_all(const Join<W>& join) {
  const std::size_t a_size = join.a.hashes.size(), b_size = join.b.hashes.size();
  const std::size_t blocks = (a_size + kRows - 1) / kRows, strips = (b_size + kColumns - 1) / kColumns;
  parallel_for(blocks * strips, join.threads, [&](std::size_t piece, const Poll& check) {
    const std::size_t a_begin = piece / strips * kRows, b_begin = piece % strips * kColumns;
    const std::size_t a_end = std::min(a_size, a_begin + kRows), b_end = std::min(b_size, b_begin + kColumns);
    if (join.sizes.self && b_end <= a_begin) return;
    Hits<W> hits(join);
    for (std::size_t tile = b_begin; tile < b_end; tile += kTile<W>) {
      check();
      compare_tile(join, a_begin, a_end, tile, std::min(b_end, tile + kTile<W>), hits);
      hits.settle();  // after each tile, so that no piece outgrows the bound by more than one tile's pairs
    }
    hits.hand_on();
  }, join.poll);
}

/// The join by one part of the bits: each key of the outer side with the keys near it of the inner.
template <std::size_t W>
class PartJoin {
 public:
  PartJoin(const Join<W>& join, const HammingPlan& plan, std::size_t number, const Buckets<W>& outer, const Buckets<W>& inner)
      : join_(join), plan_(plan), number_(number), outer_(outer), inner_(inner),
        keys_(keys_within(plan.parts[number].bits, plan.parts[number].radius)) {}

  void run() const {
    const std::size_t size = outer_.hashes.size();
    parallel_for((size + kPiece - 1) / kPiece, join_.threads, [&](std::size_t piece, const Poll& check) {
      Walk walk(*this, check);
      for (std::size_t at = piece * kPiece, end = std::min(size, at + kPiece); at < end;) at = walk.key(at, end);
      walk.hits.hand_on();
    }, join_.poll);
  }

 private:
  static constexpr std::uint32_t kCopied = 4;  // hashes at once: most keys have no more
  static constexpr std::uint32_t kFew = 64;    // hashes of a key that are copied beside those of other keys

  /// One thread's way through some keys. Hashes of keys near the outer key are gathered, so that they are compared in
  /// one go.
  struct Walk {
    Walk(const PartJoin& part, const Poll& polled) : join(part), check(polled), hits(part.join_) {
      starts.reserve(part.keys_.size());
      sources.reserve(part.keys_.size());
    }

    /// The outer hashes from `at` with one key, and before `end`; returns where they end.
    std::size_t key(std::size_t at, std::size_t end) {
      const auto bits = join.plan_.parts[join.number_].bits;
      const auto outer_key = static_cast<std::uint32_t>(join.outer_.hashes[at][W - 1] >> (64 - bits));
      begin = at;
      until = std::min<std::size_t>(end, join.outer_.begin[outer_key + 1]);
      const bool self = join.join_.sizes.self;
      const std::uint32_t* const begins = join.inner_.begin.data();
      for (const std::uint32_t change : join.keys_) {
        const std::uint32_t near_key = outer_key ^ change;
        if (self && near_key <= outer_key) {
          if (change == 0) same_key(begins[near_key + 1]);
          continue;  // met from the other side
        }
        gather(begins[near_key], begins[near_key + 1]);
      }
      flush();
      return until;
    }

    void gather(std::uint32_t from, std::uint32_t to) {
      const std::uint32_t count = to - from;
      if (count == 0) return;
      if (count > kFew) return large(from, to);
      if (filled + count > kTile<W>) flush();
      starts.push_back(filled);
      sources.push_back(from);
      const Hash<W>* const source = join.inner_.hashes.data() + from;
      if (count <= kCopied && from + kCopied <= join.inner_.hashes.size()) std::copy_n(source, kCopied, gathered.data() + filled);
      else std::copy_n(source, count, gathered.data() + filled);
      filled += count;
    }

    void large(std::uint32_t from, std::uint32_t to) {
      for (std::uint32_t tile = from; tile < to; tile += kTile<W>) compare(join.inner_.hashes.data() + tile, std::min(to - tile, kTile<W>), [tile](std::uint32_t k) { return tile + k; });
    }

    void flush() {
      compare(gathered.data(), filled, [this](std::uint32_t k) {
        const std::size_t range = static_cast<std::size_t>(std::ranges::upper_bound(starts, k) - starts.begin()) - 1;
        return sources[range] + (k - starts[range]);
      });
      filled = 0;
      starts.clear();
      sources.clear();
    }

    template <typename Place>
    void compare(const Hash<W>* hashes, std::uint32_t count, const Place& place) {
      if (count == 0) return;
      check();
      for (std::size_t i = begin; i < until; ++i) compare_one(i, hashes, count, place);
      hits.settle();
    }

    template <typename Place>
    void compare_one(std::size_t i, const Hash<W>* hashes, std::uint32_t count, const Place& place) {
      const std::uint32_t num = join.join_.scan(join.outer_.hashes[i].data(), hashes->data(), count, join.join_.limit(), found.data());
      for (std::uint32_t k = 0; k < num; ++k) join.note(i, place(found[k]), hits);
    }

    /// One set: each hash with those behind it of its own key.
    void same_key(std::uint32_t end_of_key) {
      for (std::size_t i = begin; i < until; ++i) {
        check();
        for (auto tile = static_cast<std::uint32_t>(i + 1); tile < end_of_key; tile += kTile<W>) {
          compare_one(i, join.inner_.hashes.data() + tile, std::min(end_of_key - tile, kTile<W>), [tile](std::uint32_t k) { return tile + k; });
        }
        hits.settle();
      }
    }

    const PartJoin& join;
    const Poll& check;
    Hits<W> hits;
    std::size_t begin = 0, until = 0;  // the outer hashes of one key
    std::uint32_t filled = 0;
    std::vector<std::uint32_t> starts, sources;  // in `gathered`, and in the inner side
    std::array<Hash<W>, kTile<W> + kCopied> gathered;
    std::array<std::uint32_t, kTile<W>> found;
  };

  /// A hit of places in the tables, where no earlier part has met it.
  void note(std::size_t outer_place, std::uint32_t inner_place, Hits<W>& hits) const {
    const bool swapped = plan_.outer_is_b;
    const std::uint32_t outer_id = outer_.ids[outer_place], inner_id = inner_.ids[inner_place];
    const std::uint32_t i = swapped ? inner_id : outer_id, j = swapped ? outer_id : inner_id;
    const Hash<W>&x = join_.a.hashes[i], &y = join_.b.hashes[j];
    for (std::size_t part = 0; part < number_; ++part) {
      const HammingPart& earlier = plan_.parts[part];
      if (earlier.distance(x[earlier.word], y[earlier.word]) <= earlier.radius) return;
    }
    hits.add(i, j, hamming_distance(x, y));
  }

  const Join<W>& join_;
  const HammingPlan& plan_;
  std::size_t number_;
  const Buckets<W>& outer_;
  const Buckets<W>& inner_;
  std::vector<std::uint32_t> keys_;
};

template <std::size_t W>
void join_by_parts(const Join<W>& join, const HammingPlan& plan) {
  const Distinct<W>& outer_set = plan.outer_is_b ? join.b : join.a;
  const Distinct<W>& inner_set = plan.outer_is_b ? join.a : join.b;
  for (std::size_t number = 0; number < plan.parts.size(); ++number) {
    const Buckets<W> outer = sort_by_part<W>(outer_set.hashes, plan.parts[number], join.threads, join.poll);
    if (join.sizes.self) {
      PartJoin<W>(join, plan, number, outer, outer).run();
    } else {
      const Buckets<W> inner = sort_by_part<W>(inner_set.hashes, plan.parts[number], join.threads, join.poll);
      PartJoin<W>(join, plan, number, outer, inner).run();
    }
  }
}

template <std::size_t W>
std::span<const std::uint64_t> words_of(std::span<const Hash<W>> hashes) {
  return {hashes.data()->data(), hashes.size() * W};
}

template <std::size_t W>
std::span<const Hash<W>> hashes_of(std::span<const std::uint64_t> words) {
  static_assert(sizeof(Hash<W>) == W * sizeof(std::uint64_t));
  return {reinterpret_cast<const Hash<W>*>(words.data()), words.size() / W};
}

/// b is null for a with itself.
template <std::size_t W>
std::optional<HammingPairs> join_hashes(std::span<const Hash<W>> a, const std::span<const Hash<W>>* b, const HammingLimits& limits, const Poll& poll) {
  const bool self = b == nullptr;
  HammingSizes sizes{a.size(), self ? a.size() : b->size(), W, limits.max_distance, self};
  NearList near(limits.max_pairs);
  if (sizes.a == 0 || sizes.b == 0) return HammingPairs();
  Distinct<W> left = as_they_are<W>(a), right;
  if (!self) right = as_they_are<W>(*b);
  HammingPlan plan = plan_uniform(sizes);
  if (!plan.parts.empty()) {
    left = find_distinct<W>(a, limits.threads, poll);
    if (!self) right = find_distinct<W>(*b, limits.threads, poll);
    if (self) {
      for (std::size_t i = 0; i < left.hashes.size(); ++i) near.count(left.copies(i) * (left.copies(i) - 1) / 2);
    }
    const Distinct<W>& other = self ? left : right;
    sizes.a = left.hashes.size();
    sizes.b = other.hashes.size();
    plan = plan_sampled(sizes, words_of<W>(left.hashes), words_of<W>(other.hashes));
  }
  const Join<W> join{sizes, left, self ? left : right, near, limits.threads, poll};
  if (plan.parts.empty()) compare_all(join);
  else join_by_parts(join, plan);
  return expand_pairs<W>(join.a, join.b, near.take(), a.size(), self, limits.threads, poll);
}

void check_side(const char* name, std::size_t hashes) {
  if (hashes <= std::numeric_limits<std::uint32_t>::max()) return;
  refuse_argument(name, " must have less than 2^32 hashes; got ", hashes, ": join parts of it one after another");
}

std::optional<HammingPairs> join_words(std::span<const std::uint64_t> a, const std::span<const std::uint64_t>* b, unsigned words,
                        const HammingLimits& limits, const Poll& poll) {
  if (words != 1 && words != 4) refuse_argument("hashes must have 1 or 4 words; got ", words);
  if (limits.max_distance > 64 * words) refuse_argument("max_distance must be 0 to ", 64 * words, "; got ", limits.max_distance);
  check_side("a", a.size() / words);
  if (b != nullptr) check_side("b", b->size() / words);
  const auto with = [&]<std::size_t W>(std::integral_constant<std::size_t, W>) {
    const std::span<const Hash<W>> right = b == nullptr ? std::span<const Hash<W>>() : hashes_of<W>(*b);
    return join_hashes<W>(hashes_of<W>(a), b == nullptr ? nullptr : &right, limits, poll);
  };
  try {
    return words == 1 ? with(std::integral_constant<std::size_t, 1>()) : with(std::integral_constant<std::size_t, 4>());
  } catch (const NearList::Full&) {
    return std::nullopt;
  }
}

}  // namespace

std::optional<HammingPairs> hamming_join(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b, unsigned words,
                                         const HammingLimits& limits, const Poll& poll) {
  return join_words(a, &b, words, limits, poll);
}

std::optional<HammingPairs> hamming_self_join(std::span<const std::uint64_t> hashes, unsigned words,
                                              const HammingLimits& limits, const Poll& poll) {
  return join_words(hashes, nullptr, words, limits, poll);
}

}  // namespace dcfast
