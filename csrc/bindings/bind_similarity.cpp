// dcfast._core.similarity. dcfast.similarity is the public face.
#include "bindings/boundary.hpp"
#include "core/similarity/exp_sums.hpp"
#include "core/similarity/small_losses.hpp"

namespace dcfast::bindings {
namespace {

/// (sums of rows, of columns, diagonal, shift, error): see core/similarity/exp_sums.hpp
std::tuple<Array<double>, Array<double>, Array<double>, double, double> sum_exponentials(const Input<float, "x">& x, const Input<float, "y">& y,
                                                                                         std::size_t rows, double scale, unsigned threads) {
  ExpSums sums = enter_core([&](const Poll& poll) { return exp_sums(x.view, y.view, rows, scale, threads, poll); });
  return {own(std::move(sums.rows)), own(std::move(sums.columns)), own(std::move(sums.diagonal)), sums.shift, sums.error};
}

/// (loss, derivative by the scale, by the bias, gradient by the dot products), or None where it does not serve: see
/// core/similarity/small_losses.hpp
template <typename Number>
using Loss = std::optional<std::tuple<double, double, double, Array<Number>>>;

template <typename Number>
Loss<Number> loss_of(SmallLoss<Number>&& found) {
  if (!found.serves) return std::nullopt;
  return std::tuple{found.loss, found.by_scale, found.by_bias, own(std::move(found.gradient))};
}

Loss<double> clip_of_dots(const Input<double, "dots">& dots, std::size_t rows, double scale, bool gradient) {
  return loss_of(enter_core([&](const Poll&) { return small_clip(dots.view, rows, scale, gradient); }));
}

template <typename Dot>
Loss<Dot> siglip_of_dots(const Input<Dot, "dots">& dots, std::size_t rows, double scale, double bias, bool gradient) {
  return loss_of(enter_core([&](const Poll&) { return small_siglip(dots.view, rows, scale, bias, gradient); }));
}

}  // namespace

void bind_similarity(py::module_& m) {
  bind_centroids(m);
  bind_embeddings(m);
  bind_hamming(m);
  m.def("clip_of_dots", &clip_of_dots, "dots"_a, "rows"_a, "scale"_a, "gradient"_a);
  m.def("siglip_of_dots", &siglip_of_dots<double>, "dots"_a, "rows"_a, "scale"_a, "bias"_a, "gradient"_a);
  m.def("siglip_of_dots32", &siglip_of_dots<float>, "dots"_a, "rows"_a, "scale"_a, "bias"_a, "gradient"_a);
  m.def("exp_sums", &sum_exponentials, "x"_a, "y"_a, "rows"_a, "scale"_a, "threads"_a);
}

}  // namespace dcfast::bindings
