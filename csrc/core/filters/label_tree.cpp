#include "core/filters/label_tree.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace dcfast {

namespace {

/// fastText's logarithm, in its precisions; of no chance at all it is -11.5, below which no label is named.
float log_of(float value) { return static_cast<float>(std::log(static_cast<double>(value) + 1e-5)); }

const float kLeast = log_of(0.0F);

/// A score only falls on the way down, but for 1e-5 at most a step; depths are far below 10,000. So what is a whole
/// unit below the score of some label takes no part in what the walk finds, whether it is visited or not.
constexpr float kHopeless = 1.0F;

}  // namespace

LabelTree::LabelTree(std::span<const std::int64_t> counts, std::vector<float> output, std::size_t dim)
    : nodes_(2 * counts.size() - 1), output_(std::move(output)), dim_(dim), labels_(static_cast<std::int32_t>(counts.size())) {
  // two queues: labels from the rarest (they are sorted the other way), and the nodes that were made of them, from the first
  std::vector<std::uint64_t> weight(nodes_.size(), 1'000'000'000'000'000);
  for (std::size_t i = 0; i < counts.size(); ++i) weight[i] = static_cast<std::uint64_t>(counts[i]);
  std::int32_t leaf = labels_ - 1;
  std::int32_t inner = labels_;
  const auto lightest = [&] {
    const bool is_leaf = leaf >= 0 && weight[static_cast<std::size_t>(leaf)] < weight[static_cast<std::size_t>(inner)];
    return is_leaf ? leaf-- : inner++;
  };
  for (std::size_t i = counts.size(); i < nodes_.size(); ++i) {
    nodes_[i].left = lightest();
    nodes_[i].right = lightest();
    weight[i] = weight[static_cast<std::size_t>(nodes_[i].left)] + weight[static_cast<std::size_t>(nodes_[i].right)];
  }
}

const float* LabelTree::steps_from(std::int32_t node, std::span<const float> hidden, Scratch& scratch) const {
  const auto at = static_cast<std::size_t>(node - labels_);
  float* const steps = &scratch.steps[2 * at];
  if (scratch.seen[at] != scratch.text) {
    scratch.seen[at] = scratch.text;
    const float* const row = &output_[at * dim_];
    float sum = 0.0F;
    for (std::size_t i = 0; i < dim_; ++i) sum += row[i] * hidden[i];
    const float right = static_cast<float>(1.0 / static_cast<double>(1.0F + std::exp(-sum)));
    steps[0] = log_of(static_cast<float>(1.0 - static_cast<double>(right)));
    steps[1] = log_of(right);
  }
  return steps;
}

/// The score of the label that the likelier child leads to, each time.
float LabelTree::greedy_score(std::span<const float> hidden, Scratch& scratch) const {
  float score = 0.0F;
  auto node = static_cast<std::int32_t>(nodes_.size()) - 1;
  while (node >= labels_) {
    const float* const steps = steps_from(node, hidden, scratch);
    const bool right = steps[1] > steps[0];
    score += steps[right ? 1 : 0];
    node = right ? nodes_[static_cast<std::size_t>(node)].right : nodes_[static_cast<std::size_t>(node)].left;
  }
  return score;
}

std::int32_t LabelTree::best(std::span<const float> hidden, Scratch& scratch) const {
  const auto inner = nodes_.size() - static_cast<std::size_t>(labels_);
  if (scratch.seen.size() != inner || ++scratch.text == 0) {
    scratch.seen.assign(inner, 0);
    scratch.steps.resize(2 * inner);
    scratch.text = 1;
  }
  const float hopeless = greedy_score(hidden, scratch) - kHopeless;
  std::int32_t best_label = -1;
  float best_score = 0.0F;
  // in fastText's order, left before right: of equal scores the last one counts
  scratch.open.assign(1, {static_cast<std::int32_t>(nodes_.size()) - 1, 0.0F});
  while (!scratch.open.empty()) {
    const auto [node, score] = scratch.open.back();
    scratch.open.pop_back();
    if (score < kLeast || score < hopeless || (best_label >= 0 && score < best_score)) continue;
    if (node < labels_) {
      best_label = node;
      best_score = score;
      continue;
    }
    const float* const steps = steps_from(node, hidden, scratch);
    const Node& at = nodes_[static_cast<std::size_t>(node)];
    scratch.open.emplace_back(at.right, score + steps[1]);
    scratch.open.emplace_back(at.left, score + steps[0]);
  }
  return best_label;
}

}  // namespace dcfast
