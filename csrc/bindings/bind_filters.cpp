// dcfast._core.filters: the language model, and sampling by scores. dcfast.filters.language and .sampling are their faces.
#include "bindings/boundary.hpp"
#include "core/filters/language_model.hpp"
#include "core/filters/score_sampling.hpp"

namespace dcfast::bindings {

namespace {

/// Numbers of labels, -1 for none. The text is Arrow's: data, and where each text begins and ends in it.
template <typename Offset>
Array<std::int32_t> predict(const LanguageModel& model, const Input<std::uint8_t, "data">& data,
                            const Input<Offset, "offsets">& offsets, unsigned threads) {
  std::vector<std::int32_t> out(offsets.view.empty() ? 0 : offsets.view.size() - 1);
  enter_core([&](const Poll& poll) { model.predict(chars_of(data.view), offsets.view, out, threads, poll); });
  return own(std::move(out));
}

/// One of penalty and most_copies is 0.
Array<std::uint32_t> draw(const Input<double, "scores">& scores, std::uint64_t total, double penalty, std::uint32_t most_copies,
                          std::uint64_t draw_rows, std::uint64_t seed) {
  const SamplingRule rule{total, penalty, most_copies, draw_rows, seed};
  return own(enter_core([&](const Poll& poll) { return draw_copies(scores.view, rule, poll); }));
}

}  // namespace

void bind_filters(py::module_& m) {
  m.def("draw_copies", &draw, "scores"_a, "total"_a, py::kw_only(), "penalty"_a, "most_copies"_a, "draw"_a, "seed"_a,
        "How often each row is drawn by its score: see csrc/core/filters/score_sampling.hpp.");
  py::class_<LanguageModel>(m, "LanguageModel", "A fastText model of languages: hierarchical softmax, dense or pruned and quantised.")
      .def(py::init([](const py::bytes& path) {
        const std::string name = path;
        return enter_core([&](const Poll&) { return std::make_unique<LanguageModel>(name); });
      }), "path"_a)
      .def("find_label", [](const LanguageModel& model, const RawText& name) { return model.find_label(name); },
           "name"_a, "The number of a label, -1 where there is none of that name.")
      .def("predict_offsets32", &predict<std::int32_t>, "data"_a, "offsets"_a, "threads"_a,
           "The number of the most likely label of each text, -1 for none.")
      .def("predict_offsets64", &predict<std::int64_t>, "data"_a, "offsets"_a, "threads"_a,
           "The number of the most likely label of each text, -1 for none.");
}

}  // namespace dcfast::bindings
