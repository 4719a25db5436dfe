// Hamming joins, of dcfast._core.similarity. dcfast.similarity is the public face.
#include "bindings/boundary.hpp"
#include "core/similarity/hamming.hpp"

namespace dcfast::bindings {
namespace {

using Left = Input<std::uint64_t, "a">;
using Right = Input<std::uint64_t, "b">;
/// (index in a, index in b, distance) of each pair; None for more than max_pairs
using Pairs = std::optional<std::tuple<Array<std::int64_t>, Array<std::int64_t>, Array<std::uint16_t>>>;

Pairs own_pairs(std::optional<HammingPairs>&& pairs) {
  if (!pairs) return std::nullopt;
  return Pairs({own(std::move(pairs->ia)), own(std::move(pairs->ib)), own(std::move(pairs->distance))});
}

Pairs join(const Left& a, const Right& b, unsigned words, unsigned max_distance, std::uint64_t max_pairs, unsigned threads) {
  return own_pairs(enter_core(
      [&](const Poll& poll) { return hamming_join(a.view, b.view, words, {max_distance, max_pairs, threads}, poll); }));
}

Pairs self_join(const Left& a, unsigned words, unsigned max_distance, std::uint64_t max_pairs, unsigned threads) {
  return own_pairs(enter_core(
      [&](const Poll& poll) { return hamming_self_join(a.view, words, {max_distance, max_pairs, threads}, poll); }));
}

}  // namespace

void bind_hamming(py::module_& m) {
  m.def("hamming_join", &join, "a"_a, "b"_a, "words"_a, "max_distance"_a, "max_pairs"_a, "threads"_a);
  m.def("hamming_self_join", &self_join, "a"_a, "words"_a, "max_distance"_a, "max_pairs"_a, "threads"_a);
}

}  // namespace dcfast::bindings
