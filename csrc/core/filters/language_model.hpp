// The most likely label of each text by a fastText model: supervised, hierarchical softmax, single words and character
// n-grams, dense or pruned and quantised, which is what language identification's lid.176.bin and .ftz are.
// Written after the formats and the arithmetic of facebookresearch/fastText (MIT): each answer is that of its predict
// with one label, ties too. Every sum is taken in the same order and precision, without fused multiplication.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/system/parallel.hpp"

namespace dcfast {

class LanguageModel {
 public:
  /// Maps a model file. Throws corrupt_data where it is none or makes no sense, invalid_argument where it is a model of
  /// another kind, which is not read here, io where it cannot be opened.
  /// Memory: a quantised model's rows as floats, at most 256 MiB; a dense model's rows stay in the mapped file.
  explicit LanguageModel(const std::string& path);
  LanguageModel(LanguageModel&&) noexcept;
  ~LanguageModel();

  /// The number of a label, as "__label__en"; -1 where the model has none of that name.
  std::int32_t find_label(std::string_view name) const;

  /// out[i] = the number of the most likely label of text i = data[offsets[i], offsets[i + 1]); -1 where no label is
  /// likely enough (1e-5), or nothing of the text is known. Newlines are spaces. Bytes need not be UTF-8.
  /// offsets has out.size() + 1; invalid_argument where one points outside of data or before the one before it.
  /// Cost: O(bytes), 2 to 3 us a caption of 60 bytes.
  void predict(std::span<const char> data, std::span<const std::int32_t> offsets, std::span<std::int32_t> out,
               unsigned threads, const Poll& poll = {}) const;
  void predict(std::span<const char> data, std::span<const std::int64_t> offsets, std::span<std::int32_t> out,
               unsigned threads, const Poll& poll = {}) const;

 private:
  struct Parts;
  std::unique_ptr<const Parts> parts_;
};

}  // namespace dcfast
