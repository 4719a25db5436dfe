// Hierarchical softmax: which label is the most likely one, as fastText's walk of its Huffman tree finds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace dcfast {

class LabelTree {
 public:
  /// What a thread keeps from text to text.
  struct Scratch {
    std::vector<std::uint32_t> seen;  // by inner node: the text for which `steps` was computed last
    std::vector<float> steps;         // by inner node: what a step to the left, and to the right, adds to a score
    std::vector<std::pair<std::int32_t, float>> open;
    std::uint32_t text = 0;
  };

  /// Args:
  ///   counts: of each label in training, none negative.
  ///   output: a row of `dim` floats a label.
  LabelTree(std::span<const std::int64_t> counts, std::vector<float> output, std::size_t dim);

  /// The label that fastText's predict names for a vector of `dim` floats with k = 1 and no threshold; -1 where every
  /// label is less likely than 1e-5.
  std::int32_t best(std::span<const float> hidden, Scratch& scratch) const;

 private:
  struct Node {
    std::int32_t left = -1;
    std::int32_t right = -1;
  };
  /// Steps from an inner node, computed when first asked for.
  const float* steps_from(std::int32_t node, std::span<const float> hidden, Scratch& scratch) const;
  float greedy_score(std::span<const float> hidden, Scratch& scratch) const;

  std::vector<Node> nodes_;  // the labels, then inner nodes; the root is the last
  std::vector<float> output_;
  std::size_t dim_;
  std::int32_t labels_;
};

}  // namespace dcfast
