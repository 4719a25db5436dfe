// dcfast._core.hashing. Paths arrive as bytes (os.fsencode).
#include "bindings/boundary.hpp"
#include "core/hashing/hashing.hpp"

namespace dcfast::bindings {

/// Any object; what is not bytes-like is refused by Bytes, in Python's own words.
class BytesLike : public py::object {
 public:
  PYBIND11_OBJECT(BytesLike, py::object, is_object)

 private:
  static bool is_object(PyObject*) { return true; }
};

}  // namespace dcfast::bindings

template <>
struct pybind11::detail::handle_type_name<dcfast::bindings::BytesLike> {
  static constexpr auto name = const_name("typing_extensions.Buffer");
};

namespace dcfast::bindings {

namespace {

/// A contiguous bytes-like object, held for the call.
class Bytes {
 public:
  explicit Bytes(const BytesLike& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { PyBuffer_Release(&view_); }
  std::span<const std::byte> span() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

using HighLow = std::pair<std::uint64_t, std::uint64_t>;

HighLow pair(const Uid& hash) { return {hash.hi, hash.lo}; }

}  // namespace

void bind_hashing(py::module_& m) {
  m.def("xxh3_64", [](const BytesLike& data) {
    const Bytes bytes(data);
    return enter_core([&](const Poll&) { return xxh3_64(bytes.span()); });
  }, py::arg("data"), "XXH3-64 of a bytes-like object.");
  m.def("xxh3_128", [](const BytesLike& data) {
    const Bytes bytes(data);
    return pair(enter_core([&](const Poll&) { return xxh3_128(bytes.span()); }));
  }, py::arg("data"), "XXH3-128 of a bytes-like object: (high, low).");
  m.def("hash_file", [](const py::bytes& path) {
    const std::string name = path;
    return pair(enter_core([&](const Poll& poll) { return hash_file(name, poll); }));
  }, py::arg("path"), "XXH3-128 of a file: (high, low).");
  m.def("hash_ranges", [](const py::bytes& path, const Array<std::uint64_t>& offsets, const Array<std::uint64_t>& sizes, unsigned threads) {
    const std::string name = path;
    const auto offset_view = borrow(offsets, "offsets");
    const auto size_view = borrow(sizes, "sizes");
    std::vector<Uid> out(offset_view.size());
    enter_core([&](const Poll& poll) { hash_ranges(name, offset_view, size_view, out, threads, poll); });
    return own(std::move(out));
  }, py::arg("path"), py::arg("offsets"), py::arg("sizes"), py::arg("threads"), "XXH3-128 of ranges of a file.");
  m.def("hash_buffer_ranges", [](const BytesLike& data, const Array<std::uint64_t>& offsets, const Array<std::uint64_t>& sizes, unsigned threads) {
    const Bytes bytes(data);
    const auto offset_view = borrow(offsets, "offsets");
    const auto size_view = borrow(sizes, "sizes");
    std::vector<Uid> out(offset_view.size());
    enter_core([&](const Poll& poll) { hash_ranges(bytes.span(), offset_view, size_view, out, threads, poll); });
    return own(std::move(out));
  }, py::arg("data"), py::arg("offsets"), py::arg("sizes"), py::arg("threads"), "XXH3-128 of ranges of a bytes-like object.");
}

}  // namespace dcfast::bindings
