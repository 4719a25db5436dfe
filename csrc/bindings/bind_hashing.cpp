// dcfast._core.hashing. Paths arrive as bytes (os.fsencode).
#include "bindings/boundary.hpp"
#include "core/hashing/hashing.hpp"

namespace dcfast::bindings {

namespace {

using Bytes = Buffer<std::byte, "data">;
using Offsets = Input<std::uint64_t, "offsets">;
using Sizes = Input<std::uint64_t, "sizes">;
using HighLow = std::pair<std::uint64_t, std::uint64_t>;

HighLow pair(const Uid& hash) { return {hash.hi, hash.lo}; }

/// `source`: the path of a file, or bytes.
Array<Uid> ranges_of(const auto& source, const Offsets& offsets, const Sizes& sizes, unsigned threads) {
  std::vector<Uid> out(offsets.view.size());
  enter_core([&](const Poll& poll) { hash_ranges(source, offsets.view, sizes.view, out, threads, poll); });
  return own(std::move(out));
}

}  // namespace

void bind_hashing(py::module_& m) {
  m.def("xxh3_64", [](const Bytes& data) { return enter_core([&](const Poll&) { return xxh3_64(data.view); }); }, "data"_a,
        "XXH3-64 of a bytes-like object.");
  m.def("xxh3_128", [](const Bytes& data) { return pair(enter_core([&](const Poll&) { return xxh3_128(data.view); })); }, "data"_a,
        "XXH3-128 of a bytes-like object: (high, low).");
  m.def("hash_file", [](const py::bytes& path) {
    const std::string name = path;
    return pair(enter_core([&](const Poll& poll) { return hash_file(name, poll); }));
  }, "path"_a, "XXH3-128 of a file: (high, low).");
  m.def("hash_ranges", [](const py::bytes& path, const Offsets& offsets, const Sizes& sizes, unsigned threads) {
    return ranges_of(std::string(path), offsets, sizes, threads);
  }, "path"_a, "offsets"_a, "sizes"_a, "threads"_a, "XXH3-128 of ranges of a file.");
  m.def("hash_buffer_ranges", [](const Bytes& data, const Offsets& offsets, const Sizes& sizes, unsigned threads) {
    return ranges_of(data.view, offsets, sizes, threads);
  }, "data"_a, "offsets"_a, "sizes"_a, "threads"_a, "XXH3-128 of ranges of a bytes-like object.");
}

}  // namespace dcfast::bindings
