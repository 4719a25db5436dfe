// From near hashes to the pairs of rows that the caller gets, in order.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "core/similarity/hamming.hpp"
#include "core/similarity/hamming_tables.hpp"

namespace dcfast {

/// Hash a of one set is near hash b of the other.
struct NearHashes {
  std::uint32_t a;
  std::uint32_t b;
  std::uint16_t distance;
};

/// What threads have found so far, and how many pairs of rows it is.
class NearList {
 public:
  struct Full {};  // thrown where there are more pairs than asked for

  explicit NearList(std::uint64_t max_pairs) : max_pairs_(max_pairs) {}

  void count(std::uint64_t pairs) {
    if (total_.fetch_add(pairs, std::memory_order_relaxed) + pairs > max_pairs_) throw Full{};
  }
  void add(const std::vector<NearHashes>& hits) {
    const std::lock_guard<std::mutex> lock(guard_);
    hits_.insert(hits_.end(), hits.begin(), hits.end());
  }
  std::vector<NearHashes> take() { return std::move(hits_); }

 private:
  std::uint64_t max_pairs_;
  std::atomic<std::uint64_t> total_{0};
  std::mutex guard_;
  std::vector<NearHashes> hits_;
};

/// The pairs of rows of near hashes. self: a and b are one set, and each hit of two hashes stands once, either way; the
/// copies of one hash are added here.
template <std::size_t W>
HammingPairs expand_pairs(const Distinct<W>& a, const Distinct<W>& b, std::vector<NearHashes> hits, std::size_t rows,
                          bool self, unsigned threads, const Poll& poll);

}  // namespace dcfast
