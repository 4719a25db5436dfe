// Sums of clusters, of dcfast._core.similarity. dcfast.similarity.centroids is the public face.
#include "bindings/boundary.hpp"
#include "core/similarity/centroid_sums.hpp"

namespace dcfast::bindings {
namespace {

bool add(CentroidSums& sums, const Input<float, "points">& points, const Input<std::int64_t, "labels">& labels, unsigned threads) {
  return enter_core([&](const Poll& poll) { return sums.add(points.view, labels.view, threads, poll); });
}

/// (sums, counts); the sums are gone from here
std::tuple<Array<std::int64_t>, Array<std::int64_t>> take(CentroidSums& sums) {
  return {own(sums.take_sums()), own(std::vector<std::int64_t>(sums.counts()))};
}

}  // namespace

void bind_centroids(py::module_& m) {
  py::class_<CentroidSums>(m, "CentroidSums")
      .def(py::init<std::size_t, std::size_t>(), "clusters"_a, "width"_a)
      .def("add", &add, "points"_a, "labels"_a, "threads"_a)
      .def("take", &take);
}

}  // namespace dcfast::bindings
