// dcfast._core.similarity. dcfast.similarity is the public face.
#include "bindings/boundary.hpp"
#include "core/similarity/exp_sums.hpp"
#include "core/similarity/similarity.hpp"

namespace dcfast::bindings {
namespace {

using Left = Input<std::uint64_t, "a">;
using Right = Input<std::uint64_t, "b">;

/// (index in a, index in b, distance) of each pair
std::tuple<Array<std::uint64_t>, Array<std::uint64_t>, Array<std::uint8_t>> join(const Left& a, const Right& b, unsigned max_distance,
                                                                                 std::uint64_t max_pairs, unsigned threads) {
  HammingPairs pairs = enter_core([&](const Poll& poll) { return hamming_join(a.view, b.view, max_distance, max_pairs, threads, poll); });
  return {own(std::move(pairs.ia)), own(std::move(pairs.ib)), own(std::move(pairs.distance))};
}

/// (index in b, distance) of each of a
std::tuple<Array<std::uint64_t>, Array<std::uint8_t>> nearest(const Left& a, const Right& b, unsigned threads) {
  HammingNearest nearest_hashes = enter_core([&](const Poll& poll) { return hamming_nearest(a.view, b.view, threads, poll); });
  return {own(std::move(nearest_hashes.index)), own(std::move(nearest_hashes.distance))};
}

/// (sums of rows, of columns, diagonal, shift, error): see core/similarity/exp_sums.hpp
std::tuple<Array<double>, Array<double>, Array<double>, double, double> sum_exponentials(const Input<float, "x">& x, const Input<float, "y">& y,
                                                                                         std::size_t rows, double scale, unsigned threads) {
  ExpSums sums = enter_core([&](const Poll& poll) { return exp_sums(x.view, y.view, rows, scale, threads, poll); });
  return {own(std::move(sums.rows)), own(std::move(sums.columns)), own(std::move(sums.diagonal)), sums.shift, sums.error};
}

}  // namespace

void bind_similarity(py::module_& m) {
  m.def("hamming_join", &join, "a"_a, "b"_a, "max_distance"_a, "max_pairs"_a, "threads"_a);
  m.def("exp_sums", &sum_exponentials, "x"_a, "y"_a, "rows"_a, "scale"_a, "threads"_a);
  m.def("hamming_nearest", &nearest, "a"_a, "b"_a, "threads"_a);
}

}  // namespace dcfast::bindings
