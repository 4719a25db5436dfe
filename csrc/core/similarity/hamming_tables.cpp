#include "core/similarity/hamming_tables.hpp"

#include <algorithm>
#include <utility>

namespace dcfast {
namespace {

constexpr std::size_t kChunk = 1 << 16;       // hashes, for one thread at least
constexpr std::size_t kMostCounts = 1 << 24;  // of all threads: 64 MiB
constexpr std::size_t kKeys = 64;             // buckets that are sorted as one piece of work

/// A stable counting sort of 0..count-1 by key(i), which is below 2^bits: place(i, where). Returns where each key begins.
template <typename Key, typename Place>
std::vector<std::uint32_t> counting_sort(std::size_t count, unsigned bits, unsigned threads, const Key& key,
                                         const Place& place, const Poll& poll) {
  const std::size_t keys = std::size_t{1} << bits;
  const std::size_t chunks =
      std::max<std::size_t>(1, std::min({std::size_t{resolve_threads(threads)}, count / kChunk, kMostCounts / keys}));
  const auto bound = [&](std::size_t chunk) { return count * chunk / chunks; };
  std::vector<std::uint32_t> at(keys * chunks, 0);
  parallel_for(chunks, threads, [&](std::size_t chunk) {
    std::uint32_t* const counts = at.data() + keys * chunk;
    for (std::size_t i = bound(chunk); i < bound(chunk + 1); ++i) ++counts[key(i)];
  }, poll);
  std::vector<std::uint32_t> begin(keys + 1);
  std::uint32_t sum = 0;
  for (std::size_t k = 0; k < keys; ++k) {
    begin[k] = sum;
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) sum += std::exchange(at[keys * chunk + k], sum);
  }
  begin[keys] = sum;
  parallel_for(chunks, threads, [&](std::size_t chunk) {
    std::uint32_t* const next = at.data() + keys * chunk;
    for (std::size_t i = bound(chunk); i < bound(chunk + 1); ++i) place(i, next[key(i)]++);
  }, poll);
  return begin;
}

}  // namespace

template <std::size_t W>
Distinct<W> find_distinct(std::span<const Hash<W>> hashes, unsigned threads, const Poll& poll) {
  struct Entry {
    Hash<W> hash;
    std::uint32_t row;
  };
  const auto bits = static_cast<unsigned>(std::clamp(static_cast<int>(std::bit_width(hashes.size())) - 3, 1, 20));
  std::vector<Entry> entries(hashes.size());
  const std::vector<std::uint32_t> begin = counting_sort(
      hashes.size(), bits, threads, [&](std::size_t i) { return hashes[i][0] >> (64 - bits); },
      [&](std::size_t i, std::uint32_t where) { entries[where] = {hashes[i], static_cast<std::uint32_t>(i)}; }, poll);
  parallel_for((begin.size() - 1 + kKeys - 1) / kKeys, threads, [&](std::size_t piece) {
    for (std::size_t k = piece * kKeys; k < std::min((piece + 1) * kKeys, begin.size() - 1); ++k) {
      std::sort(entries.begin() + begin[k], entries.begin() + begin[k + 1], [](const Entry& a, const Entry& b) {
        return a.hash != b.hash ? a.hash < b.hash : a.row < b.row;
      });
    }
  }, poll);

  Distinct<W> set;
  set.held.reserve(entries.size());
  set.first.reserve(entries.size() + 1);
  set.rows.resize(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i == 0 || entries[i].hash != entries[i - 1].hash) {
      set.held.push_back(entries[i].hash);
      set.first.push_back(static_cast<std::uint32_t>(i));
    }
    set.rows[i] = entries[i].row;
  }
  set.first.push_back(static_cast<std::uint32_t>(entries.size()));
  set.hashes = set.held;
  return set;
}

template <std::size_t W>
Buckets<W> sort_by_part(std::span<const Hash<W>> hashes, const HammingPart& part, unsigned threads, const Poll& poll) {
  const auto turned = [&part](const Hash<W>& hash) {
    Hash<W> out;
    for (std::size_t w = 0; w < W; ++w) out[w] = std::rotl(hash[(part.word + 1 + w) % W], static_cast<int>(part.turn));
    return out;
  };
  Buckets<W> buckets;
  buckets.hashes.resize(hashes.size());
  buckets.ids.resize(hashes.size());
  buckets.begin = counting_sort(
      hashes.size(), part.bits, threads, [&](std::size_t i) { return part.key(hashes[i][part.word]); },
      [&](std::size_t i, std::uint32_t where) {
        buckets.hashes[where] = turned(hashes[i]);
        buckets.ids[where] = static_cast<std::uint32_t>(i);
      }, poll);
  return buckets;
}

template Distinct<1> find_distinct<1>(std::span<const Hash<1>>, unsigned, const Poll&);
template Distinct<4> find_distinct<4>(std::span<const Hash<4>>, unsigned, const Poll&);
template Buckets<1> sort_by_part<1>(std::span<const Hash<1>>, const HammingPart&, unsigned, const Poll&);
template Buckets<4> sort_by_part<4>(std::span<const Hash<4>>, const HammingPart&, unsigned, const Poll&);

}  // namespace dcfast
