// dcfast._core.similarity. dcfast.similarity is the public face.
#include "bindings/boundary.hpp"
#include "core/similarity/similarity.hpp"

namespace dcfast::bindings {
namespace {

/// (index in a, index in b, distance) of each pair
std::tuple<Array<std::uint64_t>, Array<std::uint64_t>, Array<std::uint8_t>> join(const Array<std::uint64_t>& a,
                                                                                 const Array<std::uint64_t>& b,
                                                                                 unsigned max_distance,
                                                                                 std::uint64_t max_pairs, unsigned threads) {
  const auto left = borrow(a, "a");
  const auto right = borrow(b, "b");
  HammingPairs pairs = enter_core(
      [&](const Poll& poll) { return hamming_join(left, right, max_distance, max_pairs, threads, poll); });
  return {own(std::move(pairs.ia)), own(std::move(pairs.ib)), own(std::move(pairs.distance))};
}

/// (index in b, distance) of each of a
std::tuple<Array<std::uint64_t>, Array<std::uint8_t>> nearest(const Array<std::uint64_t>& a, const Array<std::uint64_t>& b,
                                                              unsigned threads) {
  const auto left = borrow(a, "a");
  const auto right = borrow(b, "b");
  HammingNearest found = enter_core([&](const Poll& poll) { return hamming_nearest(left, right, threads, poll); });
  return {own(std::move(found.index)), own(std::move(found.distance))};
}

}  // namespace

void bind_similarity(py::module_& m) {
  m.def("hamming_join", &join, py::arg("a"), py::arg("b"), py::arg("max_distance"), py::arg("max_pairs"),
        py::arg("threads"));
  m.def("hamming_nearest", &nearest, py::arg("a"), py::arg("b"), py::arg("threads"));
}

}  // namespace dcfast::bindings
