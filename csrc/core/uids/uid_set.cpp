#include "core/uids/uid_search.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast {

namespace {

using uid_detail::cut;
using uid_detail::key_of;

constexpr std::size_t kTextBlock = std::size_t{1} << 15;

template <typename... Parts>
void require(bool good, const Parts&... message) {
  if (!good) refuse_argument(message...);
}

/// Calls work(begin, end) for blocks of texts.
template <typename Work>
void for_text_blocks(std::size_t n, unsigned threads, const Poll& poll, const Work& work) {
  parallel_for((n + kTextBlock - 1) / kTextBlock, threads, [&](std::size_t block) {
    work(block * kTextBlock, std::min(n, (block + 1) * kTextBlock));
  }, poll);
}

/// Parses text_of(i) for each i. Returns how many are uids.
template <typename TextOf>
std::size_t parse_each(std::span<Uid> out, std::span<bool> valid, unsigned threads, const Poll& poll, const TextOf& text_of) {
  std::atomic<std::size_t> total{0};
  for_text_blocks(out.size(), threads, poll, [&](std::size_t begin, std::size_t end) {
    std::size_t good = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const bool is_uid = parse_uid_or_uuid(text_of(i), out[i]);
      valid[i] = is_uid;
      good += is_uid ? 1 : 0;
    }
    total.fetch_add(good, std::memory_order_relaxed);
  });
  return total.load();
}

template <typename T>
void lookup_in(std::span<const T> hay, std::span<const Uid> queries, std::span<std::int64_t> first,
               std::span<std::int64_t> count, unsigned threads, const Poll& poll) {
  require(first.size() == queries.size() && count.size() == queries.size(), "first and count must be as long as queries");
  uid_detail::for_each_lower_bound(hay, queries, threads, poll, [&](std::size_t i, std::size_t p, const auto& locator) {
    first[i] = static_cast<std::int64_t>(p);
    count[i] = static_cast<std::int64_t>(locator.equal_end(key_of(queries[i]), p) - p);
  });
}

/// The part of two sorted arrays that one chunk of a set operation works on.
struct Part {
  std::size_t a_begin, a_end, b_begin, b_end;
};

std::size_t lower_bound(std::span<const Uid> values, const Uid& v) {
  return static_cast<std::size_t>(std::ranges::lower_bound(values, key_of(v), {}, key_of<Uid>) - values.begin());
}

/// Cuts both arrays at the same values, so that equal values never lie in two parts.
std::vector<Part> cut_by_value(std::span<const Uid> a, std::span<const Uid> b, unsigned threads) {
  constexpr std::size_t part_size = std::size_t{1} << 18;
  threads = resolve_threads(threads);
  // one thread gains nothing from parts but the chance to be interrupted
  const std::size_t size = threads == 1 ? part_size * 16 : part_size;
  const std::size_t num_parts = std::max<std::size_t>(1, (a.size() + b.size()) / size);
  const std::span<const Uid> longer = a.size() >= b.size() ? a : b;
  std::vector<Part> parts;
  parts.reserve(num_parts);
  std::size_t a_at = 0;
  std::size_t b_at = 0;
  for (std::size_t c = 1; c <= num_parts; ++c) {
    std::size_t a_end = a.size();
    std::size_t b_end = b.size();
    if (c < num_parts) {
      const Uid v = longer[cut(longer.size(), num_parts, c)];
      a_end = std::max(a_at, lower_bound(a, v));
      b_end = std::max(b_at, lower_bound(b, v));
    }
    parts.push_back({a_at, a_end, b_at, b_end});
    a_at = a_end;
    b_at = b_end;
  }
  return parts;
}

/// Runs merge(part's a, part's b, place in out) for all parts, then closes the gaps between their results.
/// room(part) is the most a part can yield and decides where its result begins.
template <typename Room, typename Merge>
std::size_t by_parts(std::span<const Uid> a, std::span<const Uid> b, std::span<Uid> out, unsigned threads,
                     const Poll& poll, const Room& room, const Merge& merge) {
  const std::vector<Part> parts = cut_by_value(a, b, threads);
  std::vector<std::size_t> place(parts.size());
  std::vector<std::size_t> count(parts.size());
  std::size_t sum = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    place[i] = sum;
    sum += room(parts[i]);
  }
  parallel_for(parts.size(), threads, [&](std::size_t i) {
    const Part& p = parts[i];
    count[i] = merge(a.subspan(p.a_begin, p.a_end - p.a_begin), b.subspan(p.b_begin, p.b_end - p.b_begin),
                     out.data() + place[i]);
  }, poll);
  std::size_t size = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (size != place[i]) std::memmove(out.data() + size, out.data() + place[i], count[i] * sizeof(Uid));
    size += count[i];
  }
  return size;
}

/// The distinct values of sorted `a` for which keep[i] is `wanted`.
std::size_t compress(std::span<const Uid> a, const bool* keep, bool wanted, Uid* out) {
  std::size_t k = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (keep[i] != wanted || (i > 0 && a[i] == a[i - 1])) continue;
    out[k++] = a[i];
  }
  return k;
}

/// Walks both arrays once; yields the distinct values of `a` that are in `b` (`wanted`) or are not.
std::size_t select_merge(std::span<const Uid> a, std::span<const Uid> b, bool wanted, Uid* out) {
  std::size_t k = 0;
  std::size_t j = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto key = key_of(a[i]);
    while (j < b.size() && key_of(b[j]) < key) ++j;
    const bool in_b = j < b.size() && key_of(b[j]) == key;
    const bool repeated = i > 0 && a[i] == a[i - 1];
    out[k] = a[i];  // overwritten unless counted; k <= i, so always inside the room
    k += (in_b == wanted && !repeated) ? 1 : 0;
  }
  return k;
}

std::size_t union_merge(std::span<const Uid> a, std::span<const Uid> b, Uid* out) {
  std::size_t i = 0;
  std::size_t j = 0;
  std::size_t k = 0;
  const auto put = [&](const Uid& v) {
    if (k == 0 || out[k - 1] != v) out[k++] = v;
  };
  while (i < a.size() && j < b.size()) {
    const auto x = key_of(a[i]);
    const auto y = key_of(b[j]);
    put(x <= y ? a[i] : b[j]);
    i += x <= y ? 1 : 0;
    j += y <= x ? 1 : 0;
  }
  for (; i < a.size(); ++i) put(a[i]);
  for (; j < b.size(); ++j) put(b[j]);
  return k;
}

/// Beyond this ratio of lengths, looking up the shorter array beats walking the longer one.
constexpr std::size_t kSearchRatio = 32;

std::size_t select_by_lookup(std::span<const Uid> a, std::span<const Uid> b, bool wanted, std::span<Uid> out,
                             unsigned threads, const Poll& poll) {
  uid_detail::Scratch<bool> keep(a.size());
  contains(b, a, {keep.data(), a.size()}, threads, poll);
  return compress(a, keep.data(), wanted, out.data());
}

}  // namespace

std::size_t parse_uids_fixed(std::span<const char> text, std::size_t width, std::span<Uid> out, std::span<bool> valid,
                             unsigned threads, const Poll& poll) {
  require(valid.size() == out.size() && text.size() == checked_mul(out.size(), width, "texts"), "texts must hold ", out.size(),
          " entries of ", width, " bytes; got ", text.size(), " bytes");
  return parse_each(out, valid, threads, poll, [&](std::size_t i) {
    std::string_view padded(text.data() + i * width, width);
    while (!padded.empty() && padded.back() == '\0') padded.remove_suffix(1);
    return padded;
  });
}

void format_uids(std::span<const Uid> uids, std::span<char> out, unsigned threads, const Poll& poll) {
  require(out.size() == checked_mul(uids.size(), kUidTextSize, "texts"), "out must hold 32 bytes for each uid");
  for_text_blocks(uids.size(), threads, poll, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) format_uid_32(uids[i], out.data() + i * kUidTextSize);
  });
}

std::size_t first_unsorted(std::span<const Uid> values, unsigned threads, const Poll& poll) {
  return uid_detail::first_unsorted(values, threads, poll);
}

std::size_t first_unsorted(std::span<const UidRecord> values, unsigned threads, const Poll& poll) {
  return uid_detail::first_unsorted(values, threads, poll);
}

void sort_uids(std::span<const Uid> in, std::span<Uid> out, unsigned threads, const Poll& poll) {
  require(in.size() == out.size(), "out must be as long as the input");
  uid_detail::sort_into(in, out, threads, poll);
}

void sort_records(std::span<const UidRecord> in, std::span<UidRecord> out, unsigned threads, const Poll& poll) {
  require(in.size() == out.size(), "out must be as long as the input");
  uid_detail::sort_into(in, out, threads, poll);
}

std::size_t unique_sorted(std::span<Uid> values) {
  return static_cast<std::size_t>(std::unique(values.begin(), values.end()) - values.begin());
}

void contains(std::span<const Uid> hay, std::span<const Uid> queries, std::span<bool> out, unsigned threads,
              const Poll& poll) {
  require(out.size() == queries.size(), "out must be as long as queries");
  uid_detail::for_each_lower_bound(hay, queries, threads, poll, [&](std::size_t i, std::size_t p, const auto&) {
    out[i] = p < hay.size() && hay[p] == queries[i];
  });
}

void lookup(std::span<const Uid> hay, std::span<const Uid> queries, std::span<std::int64_t> first,
            std::span<std::int64_t> count, unsigned threads, const Poll& poll) {
  lookup_in(hay, queries, first, count, threads, poll);
}

void lookup(std::span<const UidRecord> hay, std::span<const Uid> queries, std::span<std::int64_t> first,
            std::span<std::int64_t> count, unsigned threads, const Poll& poll) {
  lookup_in(hay, queries, first, count, threads, poll);
}

std::size_t set_union(std::span<const Uid> a, std::span<const Uid> b, std::span<Uid> out, unsigned threads,
                      const Poll& poll) {
  require(out.size() >= checked_add(a.size(), b.size(), "union"), "out is too short for the union");
  return by_parts(a, b, out, threads, poll,
                  [](const Part& p) { return p.a_end - p.a_begin + p.b_end - p.b_begin; }, union_merge);
}

std::size_t set_intersection(std::span<const Uid> a, std::span<const Uid> b, std::span<Uid> out, unsigned threads,
                             const Poll& poll) {
  if (a.size() > b.size()) std::swap(a, b);
  require(out.size() >= a.size(), "out is too short for the intersection");
  if (b.size() / kSearchRatio > a.size()) return select_by_lookup(a, b, true, out, threads, poll);
  return by_parts(a, b, out, threads, poll, [](const Part& p) { return p.a_end - p.a_begin; },
                  [](auto x, auto y, Uid* to) { return select_merge(x, y, true, to); });
}

std::size_t set_difference(std::span<const Uid> a, std::span<const Uid> b, std::span<Uid> out, unsigned threads,
                           const Poll& poll) {
  require(out.size() >= a.size(), "out is too short for the difference");
  if (b.size() / kSearchRatio > a.size()) return select_by_lookup(a, b, false, out, threads, poll);
  return by_parts(a, b, out, threads, poll, [](const Part& p) { return p.a_end - p.a_begin; },
                  [](auto x, auto y, Uid* to) { return select_merge(x, y, false, to); });
}

}  // namespace dcfast
