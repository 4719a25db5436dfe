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

/// (loss, gradient along the logits, sum of the gradient, gradient), or None where it does not serve: see
/// core/similarity/small_losses.hpp
using Loss = std::optional<std::tuple<double, double, double, Array<double>>>;

Loss loss_of(SmallLoss&& found) {
  if (!found.serves) return std::nullopt;
  return std::tuple{found.loss, found.along, found.sum, own(std::move(found.gradient))};
}

Loss clip_of_logits(const Input<double, "logits">& logits, std::size_t rows, bool gradient) {
  return loss_of(enter_core([&](const Poll&) { return small_clip(logits.view, rows, gradient); }));
}

Loss siglip_of_logits(const Input<double, "logits">& logits, std::size_t rows, double bias, bool gradient) {
  return loss_of(enter_core([&](const Poll&) { return small_siglip(logits.view, rows, bias, gradient); }));
}

}  // namespace

void bind_similarity(py::module_& m) {
  bind_centroids(m);
  bind_embeddings(m);
  bind_hamming(m);
  m.def("clip_of_logits", &clip_of_logits, "logits"_a, "rows"_a, "gradient"_a);
  m.def("siglip_of_logits", &siglip_of_logits, "logits"_a, "rows"_a, "bias"_a, "gradient"_a);
  m.def("exp_sums", &sum_exponentials, "x"_a, "y"_a, "rows"_a, "scale"_a, "threads"_a);
}

}  // namespace dcfast::bindings
