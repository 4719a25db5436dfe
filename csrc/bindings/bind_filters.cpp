// dcfast._core.filters: the language model. dcfast.filters.language is its face.
#include "bindings/boundary.hpp"
#include "core/filters/language_model.hpp"

namespace dcfast::bindings {

namespace {

/// Numbers of labels, -1 for none. The text is Arrow's: data, and where each text begins and ends in it.
template <typename Offset>
Array<std::int32_t> predict(const LanguageModel& model, const Array<std::uint8_t>& data, const Array<Offset>& offsets, unsigned threads) {
  const auto bytes = borrow(data, "data");
  const auto offset_view = borrow(offsets, "offsets");
  const std::span<const char> text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::int32_t> out(offset_view.empty() ? 0 : offset_view.size() - 1);
  enter_core([&](const Poll& poll) { model.predict(text, offset_view, out, threads, poll); });
  return own(std::move(out));
}

}  // namespace

void bind_filters(py::module_& m) {
  py::class_<LanguageModel>(m, "LanguageModel", "A fastText model of languages: hierarchical softmax, dense or pruned and quantised.")
      .def(py::init([](const py::bytes& path) {
        const std::string name = path;
        return enter_core([&](const Poll&) { return std::make_unique<LanguageModel>(name); });
      }), py::arg("path"))
      .def("find_label", [](const LanguageModel& model, const RawText& name) { return model.find_label(name); },
           py::arg("name"), "The number of a label, -1 where there is none of that name.")
      .def("predict_offsets32", &predict<std::int32_t>, py::arg("data"), py::arg("offsets"), py::arg("threads"),
           "The number of the most likely label of each text, -1 for none.")
      .def("predict_offsets64", &predict<std::int64_t>, py::arg("data"), py::arg("offsets"), py::arg("threads"),
           "The number of the most likely label of each text, -1 for none.");
}

}  // namespace dcfast::bindings
