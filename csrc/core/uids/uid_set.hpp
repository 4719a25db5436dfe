// Uids as arrays: text to numbers and back, sort, membership, look-up, and set operations.
// Inputs are borrowed for the call; outputs are written into memory of the caller. Every result is the
// same for any number of threads. threads = 0 means one per core.
#pragma once

#include <span>

#include "core/system/parallel.hpp"
#include "core/uids/uid.hpp"

namespace dcfast {

/// A uid with 64 bits of payload (in a pool index: shard ordinal << 32 | row), ordered by all three.
struct UidRecord {
  std::uint64_t hi = 0;
  std::uint64_t lo = 0;
  std::uint64_t payload = 0;
  friend auto operator<=>(const UidRecord&, const UidRecord&) = default;
};
static_assert(sizeof(UidRecord) == 24);

/// Texts of a fixed width, one after another (NumPy "S<width>": shorter texts end in NUL bytes). Text i is valid where it
/// is 1 to 32 hex digits, either case, or a dashed UUID (`parse_uid_or_uuid`); otherwise valid[i] is false and out[i] zero.
/// Returns how many are valid. Throws invalid_argument where sizes do not agree.
std::size_t parse_uids_fixed(std::span<const char> text, std::size_t width, std::span<Uid> out, std::span<bool> valid,
                             unsigned threads, const Poll& poll = {});

/// 32 lower-case hex digits a uid, without separators: out.size() = 32 * uids.size().
void format_uids(std::span<const Uid> uids, std::span<char> out, unsigned threads, const Poll& poll = {});

/// The first i with values[i] < values[i - 1], or values.size() where the array is sorted. O(n), stops early.
std::size_t first_unsorted(std::span<const Uid> values, unsigned threads, const Poll& poll = {});
std::size_t first_unsorted(std::span<const UidRecord> values, unsigned threads, const Poll& poll = {});

/// Sorts `in` into `out` (same size, not overlapping). Radix by the leading bits that differ, then within
/// buckets that fit a cache; O(n) for uids that are hashes, O(n log n) at worst. Memory beside `out`: the
/// largest bucket for each thread (n / 4096 for hashes; up to n where nearly all uids share their leading bits).
void sort_uids(std::span<const Uid> in, std::span<Uid> out, unsigned threads, const Poll& poll = {});
void sort_records(std::span<const UidRecord> in, std::span<UidRecord> out, unsigned threads, const Poll& poll = {});

/// Removes repeats from a sorted array, in place. Returns how many are left.
std::size_t unique_sorted(std::span<Uid> values);

/// out[i] = whether queries[i] is in the sorted `hay`. Queries in any order; sorted ones are faster.
/// O(queries) for hashes (table of leading bits, then interpolation), O(queries log hay) at worst.
/// Memory: at most 72 MiB, for unsorted queries. An unsorted hay gives wrong answers: check first_unsorted before.
void contains(std::span<const Uid> hay, std::span<const Uid> queries, std::span<bool> out, unsigned threads,
              const Poll& poll = {});

/// first[i] = the first position in the sorted `hay` whose uid is not below queries[i]; count[i] = how many
/// equal it from there on. Same cost as contains.
void lookup(std::span<const Uid> hay, std::span<const Uid> queries, std::span<std::int64_t> first,
            std::span<std::int64_t> count, unsigned threads, const Poll& poll = {});
void lookup(std::span<const UidRecord> hay, std::span<const Uid> queries, std::span<std::int64_t> first,
            std::span<std::int64_t> count, unsigned threads, const Poll& poll = {});

/// Set operations on sorted arrays (repeats allowed). The result is sorted without repeats and is written to
/// the front of `out`; its length is returned. out.size() must be at least, for union: a + b; for
/// intersection: the smaller of the two; for difference (a without b): a. O(a + b); intersection and
/// difference with a small a (or, for intersection, b) cost O(small) look-ups instead.
std::size_t set_union(std::span<const Uid> a, std::span<const Uid> b, std::span<Uid> out, unsigned threads,
                      const Poll& poll = {});
std::size_t set_intersection(std::span<const Uid> a, std::span<const Uid> b, std::span<Uid> out, unsigned threads,
                             const Poll& poll = {});
std::size_t set_difference(std::span<const Uid> a, std::span<const Uid> b, std::span<Uid> out, unsigned threads,
                           const Poll& poll = {});

}  // namespace dcfast
