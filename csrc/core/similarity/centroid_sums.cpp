#include "core/similarity/centroid_sums.hpp"

#include <atomic>
#include <cmath>

#include "core/similarity/centroid_sums_avx2.hpp"
#include "core/system/cpu.hpp"
#include "core/system/error.hpp"

namespace dcfast {
namespace {

constexpr float kOne = 1 << CentroidSums::kFractionBits;

bool add_whole(const float* values, std::int64_t* sums, std::size_t count) {
  bool within = true;
  for (std::size_t i = 0; i < count; ++i) {
    const float value = values[i];
    if (!(std::fabs(value) <= CentroidSums::kMostValue)) {
      within = false;
      continue;
    }
    sums[i] += std::lrint(value * kOne);  // exact but for the rounding: a power of two
  }
  return within;
}

/// The wide loop for as many as it takes, the plain one for the rest.
bool add_row(const float* values, std::int64_t* sums, std::size_t count, bool wide) {
  std::size_t done = 0;
  bool within = true;
#ifdef DCFAST_HAVE_AVX2
  if (wide) {
    done = count / 8 * 8;
    within = avx2::add_whole(values, sums, done, kOne, CentroidSums::kMostValue);
  }
#else
  static_cast<void>(wide);
#endif
  return add_whole(values + done, sums + done, count - done) && within;
}

}  // namespace

CentroidSums::CentroidSums(std::size_t clusters, std::size_t width) : width_(width) {
  if (clusters == 0 || width == 0) refuse_argument("clusters and width must be at least 1; got ", clusters, " and ", width, ": give at least one of each");
  sums_.assign(checked_mul(clusters, width, "sums of clusters"), 0);
  counts_.assign(clusters, 0);
}

bool CentroidSums::add(std::span<const float> points, std::span<const std::int64_t> labels, unsigned threads, const Poll& poll) {
  if (points.size() / width_ != labels.size() || points.size() % width_ != 0) {
    refuse_argument("points must have ", labels.size(), " rows of ", width_, " numbers; got ", points.size(), " numbers: give a label a row");
  }
  for (const std::int64_t label : labels) {
    if (label < 0 || static_cast<std::size_t>(label) >= counts_.size()) {
      refuse_argument("labels must be 0 to ", counts_.size() - 1, "; got ", label, ": give clusters of these");
    }
    ++counts_[static_cast<std::size_t>(label)];
  }
  const bool wide = have_avx2();
  const std::size_t shares = resolve_threads(threads);
  std::atomic<bool> within{true};
  // Each share of the clusters has one thread, so that no two add to one sum. Rows are added whole: strips of columns
  // would be read with strides that caches are slow at.
  parallel_for(shares, threads, [&](std::size_t share) {
    bool all = true;
    for (std::size_t row = 0; row < labels.size(); ++row) {
      const auto label = static_cast<std::size_t>(labels[row]);
      if (label % shares == share) all &= add_row(points.data() + row * width_, sums_.data() + label * width_, width_, wide);
    }
    if (!all) within.store(false, std::memory_order_relaxed);
  }, poll);
  return within.load();
}

}  // namespace dcfast
