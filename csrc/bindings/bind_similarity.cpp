#include "bindings/boundary.hpp"
#include "core/similarity/similarity.hpp"

namespace dcfast::bindings {
namespace {

py::tuple join(const py::array& a, const py::array& b, unsigned max_distance, std::uint64_t max_pairs,
               unsigned threads) {
  const auto left = borrow<std::uint64_t>(a, "a");
  const auto right = borrow<std::uint64_t>(b, "b");
  HammingPairs pairs = enter_core(
      [&](const Poll& poll) { return hamming_join(left, right, max_distance, max_pairs, threads, poll); });
  return py::make_tuple(own(std::move(pairs.ia)), own(std::move(pairs.ib)), own(std::move(pairs.distance)));
}

py::tuple nearest(const py::array& a, const py::array& b, unsigned threads) {
  const auto left = borrow<std::uint64_t>(a, "a");
  const auto right = borrow<std::uint64_t>(b, "b");
  HammingNearest found = enter_core([&](const Poll& poll) { return hamming_nearest(left, right, threads, poll); });
  return py::make_tuple(own(std::move(found.index)), own(std::move(found.distance)));
}

}  // namespace

void bind_similarity(py::module_& m) {
  m.def("hamming_join", &join, py::arg("a"), py::arg("b"), py::arg("max_distance"), py::arg("max_pairs"),
        py::arg("threads"));
  m.def("hamming_nearest", &nearest, py::arg("a"), py::arg("b"), py::arg("threads"));
}

}  // namespace dcfast::bindings
