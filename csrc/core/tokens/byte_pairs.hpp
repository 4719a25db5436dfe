// Tokens of captions by byte pairs, as open_clip's SimpleTokenizer writes them, for captions that need no mending: ASCII
// that neither ftfy nor HTML's entities change. All others are reported, and open_clip's own tokenizer has them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/system/parallel.hpp"

namespace dcfast {

/// What a tokenizer knows, borrowed while a BytePairs is made. Tokens are numbers from 0 on.
struct BytePairTables {
  std::span<const std::int32_t> first;   // (m,) left token of each merge, the merge of the lowest rank first
  std::span<const std::int32_t> second;  // (m,) right token
  std::span<const std::int32_t> merged;  // (m,) the token that both become
  std::span<const std::int32_t> inner;   // (128,) token of an ASCII character within a word; negative: none
  std::span<const std::int32_t> last;    // (128,) of one that ends a word
  std::int32_t start = 0;                // token before each caption
  std::int32_t end = 0;                  // token behind it
};

/// Captions in one buffer. Views borrowed for the call.
struct CaptionRanges {
  std::span<const char> data;
  std::span<const std::int64_t> begin;  // (n,)
  std::span<const std::int64_t> size;   // (n,) bytes
};

/// Safe for many threads. Memory: 16 bytes for each of at most 4 times the merges.
class BytePairs {
 public:
  /// A longer word is left to others: merging takes time that grows with the square of its length.
  static constexpr std::size_t longest_word = 256;

  /// Throws invalid_argument where the tables have other lengths than said above, or negative tokens.
  explicit BytePairs(const BytePairTables& tables);

  /// Writes the tokens of each caption: start, those of its words, end, then zeros; what is beyond the context is cut
  /// off, and the last is then `end`. done[i] = 0 where caption i is none that is done here; its row means nothing.
  /// Args:
  ///   out: (n * context,), rows of `context` tokens, at least 1.   done: (n,).
  ///   threads: 0 means one per core.
  /// Throws invalid_argument: a range beyond the data, lengths that differ.   Cost: about 2 us a caption of 60 bytes.
  void encode(const CaptionRanges& captions, std::size_t context, std::span<std::int64_t> out, std::span<std::uint8_t> done,
              unsigned threads, const Poll& poll = {}) const;

 private:
  struct Merge {
    std::uint64_t pair;  // left << 32 | right; no_pair where the place is free
    std::uint32_t rank;
    std::int32_t merged;
  };
  struct Word {
    std::array<std::int32_t, longest_word> token;
    std::array<const Merge*, longest_word> merge;  // of a token with the next
    std::size_t size = 0;
  };
  static constexpr std::uint64_t no_pair = ~std::uint64_t{0};

  const Merge* find(std::int32_t left, std::int32_t right) const noexcept;
  bool split(std::string_view letters, Word& word) const noexcept;
  void merge_pairs(Word& word) const noexcept;
  bool encode_one(std::string_view caption, std::span<std::int64_t> out, Word& word) const noexcept;

  std::vector<Merge> merges_;  // open addressing
  std::size_t mask_ = 0;
  std::array<std::int32_t, 128> inner_{};
  std::array<std::int32_t, 128> last_{};
  std::int32_t start_;
  std::int32_t end_;
};

}  // namespace dcfast
