// dcfast._core.similarity. dcfast.similarity is the public face.
#include "bindings/boundary.hpp"
#include "core/similarity/exp_sums.hpp"

namespace dcfast::bindings {
namespace {

/// (sums of rows, of columns, diagonal, shift, error): see core/similarity/exp_sums.hpp
std::tuple<Array<double>, Array<double>, Array<double>, double, double> sum_exponentials(const Input<float, "x">& x, const Input<float, "y">& y,
                                                                                         std::size_t rows, double scale, unsigned threads) {
  ExpSums sums = enter_core([&](const Poll& poll) { return exp_sums(x.view, y.view, rows, scale, threads, poll); });
  return {own(std::move(sums.rows)), own(std::move(sums.columns)), own(std::move(sums.diagonal)), sums.shift, sums.error};
}

}  // namespace

void bind_similarity(py::module_& m) {
  bind_centroids(m);
  bind_embeddings(m);
  bind_hamming(m);
  m.def("exp_sums", &sum_exponentials, "x"_a, "y"_a, "rows"_a, "scale"_a, "threads"_a);
}

}  // namespace dcfast::bindings
