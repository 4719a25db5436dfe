#include "core/similarity/hamming_plan.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

namespace dcfast {
namespace {

// Nanoseconds, of one core; only their ratios matter.
constexpr double kCompare = 0.3, kCompareWide = 1.0;
constexpr double kProbe = 3.0;     // a key near another: where its hashes begin and end
constexpr double kCopy = 0.5;      // a hash beside those of other keys
constexpr double kSort = 12.0;     // a hash into its place of a table
constexpr double kSlot = 1.0;      // a key of a table, there or not
constexpr double kDistinct = 25.0; // a hash, once
constexpr double kNotWorthThinking = 5e6;

constexpr unsigned kMostBits = 24;      // of a key
constexpr double kMostKeys = 1 << 16;   // near another
constexpr std::size_t kSample = 512;    // hashes a side
constexpr std::size_t kSampledPlans = 4;

using Selectivity = std::function<double(const HammingPart&)>;

double num_keys_within(unsigned bits, unsigned radius) {
  double sum = 0, term = 1;
  for (unsigned k = 0; k <= radius; ++k) {
    sum += term;
    term *= static_cast<double>(bits - k) / (k + 1);
  }
  return sum;
}

double uniform(const HammingPart& part) { return num_keys_within(part.bits, part.radius) / std::exp2(part.bits); }

double compare_cost(const HammingSizes& sizes) { return sizes.words == 1 ? kCompare : kCompareWide; }

double all_pairs(const HammingSizes& sizes) {
  return static_cast<double>(sizes.a) * static_cast<double>(sizes.b) * (sizes.self ? 0.5 : 1);
}

/// Each word in `split` parts, of which at most `most` bits are the key. Of m parts of two hashes that differ in
/// m q + r bits, one of the first r + 1 differs in at most q, or one of the others in at most q - 1.
std::vector<HammingPart> parts_of(const HammingSizes& sizes, unsigned split, unsigned most) {
  const unsigned count = sizes.words * split, quotient = sizes.max_distance / count, rest = sizes.max_distance % count;
  std::vector<HammingPart> parts;
  for (unsigned i = 0; i < count; ++i) {
    if (i > rest && quotient == 0) break;
    const unsigned part = i / sizes.words, begin = 64 * part / split, end = 64 * (part + 1) / split;
    const unsigned bits = std::min(end - begin, most), radius = i <= rest ? quotient : quotient - 1;
    if (radius >= bits) return {};
    parts.push_back({i % sizes.words, (64 - end) % 64, bits, radius});
  }
  return parts;
}

double cost_of(const HammingSizes& sizes, const HammingPlan& plan, const Selectivity& selectivity) {
  const auto outer = static_cast<double>(plan.outer_is_b ? sizes.b : sizes.a);
  const auto inner = static_cast<double>(plan.outer_is_b ? sizes.a : sizes.b);
  double cost = 0;
  for (const HammingPart& part : plan.parts) {
    const double slots = std::exp2(part.bits), keys = num_keys_within(part.bits, part.radius);
    if (keys > kMostKeys) return INFINITY;
    const double probes = slots * -std::expm1(-outer / slots) * keys * (sizes.self ? 0.5 : 1);
    cost += probes * (kProbe + kCopy * inner / slots) + all_pairs(sizes) * selectivity(part) * compare_cost(sizes);
    cost += (sizes.self ? 1 : 2) * slots * kSlot + (sizes.self ? outer : outer + inner) * kSort;
  }
  return cost;
}

/// The cheapest plan for each number of parts, cheapest first.
std::vector<HammingPlan> plans_by_cost(const HammingSizes& sizes) {
  const auto larger = std::bit_width(std::max(sizes.a, sizes.b));
  const unsigned most = std::clamp<unsigned>(static_cast<unsigned>(larger) + 3, 4, kMostBits);
  std::vector<HammingPlan> plans;
  for (unsigned split = 1; split <= 16; ++split) {
    HammingPlan best;
    best.nanoseconds = INFINITY;
    for (unsigned bits = 4; bits <= most; ++bits) {
      for (const bool outer_is_b : {false, true}) {
        HammingPlan plan{parts_of(sizes, split, bits), outer_is_b && !sizes.self, 0};
        plan.nanoseconds = plan.parts.empty() ? INFINITY : cost_of(sizes, plan, uniform);
        if (plan.nanoseconds < best.nanoseconds) best = std::move(plan);
      }
    }
    if (!best.parts.empty()) plans.push_back(std::move(best));
  }
  std::ranges::sort(plans, {}, &HammingPlan::nanoseconds);
  return plans;
}

HammingPlan all_with_all(const HammingSizes& sizes) { return {{}, false, all_pairs(sizes) * compare_cost(sizes)}; }

/// The share of pairs, one of each side's sample, that a part does not tell away.
double sampled(const HammingPart& part, const HammingSizes& sizes, std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) {
  const auto keys = [&](std::span<const std::uint64_t> words) {
    const std::size_t count = words.size() / sizes.words, some = std::min(count, kSample);
    std::vector<std::uint64_t> found(some);
    for (std::size_t i = 0; i < some; ++i) found[i] = part.key(words[(i * count / some) * sizes.words + part.word]);
    return found;
  };
  const std::vector<std::uint64_t> left = keys(a), right = keys(b);
  std::uint64_t near = 0;
  for (std::size_t i = 0; i < left.size(); ++i) {
    // of one set, none with itself
    for (std::size_t j = sizes.self ? i + 1 : 0; j < right.size(); ++j) {
      near += static_cast<unsigned>(std::popcount(left[i] ^ right[j])) <= part.radius;
    }
  }
  const double pairs = static_cast<double>(left.size()) * static_cast<double>(right.size()) * (sizes.self ? 0.5 : 1);
  return static_cast<double>(near) / pairs;
}

}  // namespace

std::vector<std::uint32_t> keys_within(unsigned bits, unsigned radius) {
  std::vector<std::uint32_t> keys{0};
  for (std::size_t begin = 0; radius > 0; --radius) {
    const std::size_t end = keys.size();
    for (std::size_t i = begin; i < end; ++i) {
      // one more bit, above those that are set
      for (auto bit = static_cast<unsigned>(std::bit_width(keys[i])); bit < bits; ++bit) keys.push_back(keys[i] | (1U << bit));
    }
    begin = end;
  }
  return keys;
}

HammingPlan plan_uniform(const HammingSizes& sizes) {
  HammingPlan brute = all_with_all(sizes);
  if (brute.nanoseconds < kNotWorthThinking) return brute;
  std::vector<HammingPlan> plans = plans_by_cost(sizes);
  if (plans.empty()) return brute;
  plans[0].nanoseconds += kDistinct * static_cast<double>(sizes.self ? sizes.a : sizes.a + sizes.b);
  return plans[0].nanoseconds < brute.nanoseconds ? plans[0] : brute;
}

HammingPlan plan_sampled(const HammingSizes& sizes, std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) {
  HammingPlan best = all_with_all(sizes);
  std::vector<HammingPlan> plans = plans_by_cost(sizes);
  if (plans.size() > kSampledPlans) plans.resize(kSampledPlans);
  for (HammingPlan& plan : plans) {
    plan.nanoseconds = cost_of(sizes, plan, [&](const HammingPart& part) {
      return std::max(uniform(part), sampled(part, sizes, a, b));
    });
    if (plan.nanoseconds < best.nanoseconds) best = std::move(plan);
  }
  return best;
}

}  // namespace dcfast
