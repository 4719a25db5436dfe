// What a fastText model file holds, read with bounds: a stranger's file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dcfast::model_file {

/// The sizes that prediction obeys.
struct Shape {
  std::int32_t dim = 0;
  std::uint32_t bucket = 0;
  std::int32_t min_ngram = 0;
  std::int32_t max_ngram = 0;
  std::int32_t words = 0;
  std::int32_t labels = 0;
};

/// A model as it lies in the bytes that were read; views point into them.
struct Contents {
  Shape shape;
  std::vector<std::string_view> words;         // words, then labels
  std::vector<std::int64_t> label_counts;
  bool pruned = false;                         // only n-grams of `kept` have a row
  std::vector<std::pair<std::uint32_t, std::uint32_t>> kept;  // bucket of an n-gram, its row behind those of words
  std::uint64_t input_rows = 0;
  std::span<const std::byte> dense_input;      // input_rows * dim floats of any alignment, or empty where
  std::vector<float> quantised_input;          // the file holds codes: the same, decoded
  std::vector<float> output;                   // labels * dim
};

/// Throws corrupt_data where the bytes are no model or contradict themselves, invalid_argument where they are a model
/// of a kind that is not read. Memory: what Contents says, bounded by the file's size and 256 MiB of decoded rows.
Contents read(std::span<const std::byte> bytes, const std::string& path);

}  // namespace dcfast::model_file
