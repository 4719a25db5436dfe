// dcfast._core.tokens: byte pairs. dcfast.models.tokens is the face.
#include "bindings/boundary.hpp"
#include "core/tokens/byte_pairs.hpp"

namespace dcfast::bindings {

namespace {

using Tokens = Array<std::int64_t>;
using Done = Array<bool>;

std::unique_ptr<BytePairs> make_byte_pairs(const Input<std::int32_t, "first">& first, const Input<std::int32_t, "second">& second,
                                           const Input<std::int32_t, "merged">& merged, const Input<std::int32_t, "inner">& inner,
                                           const Input<std::int32_t, "last">& last, std::int32_t start, std::int32_t end) {
  return std::make_unique<BytePairs>(BytePairTables{first.view, second.view, merged.view, inner.view, last.view, start, end});
}

std::tuple<Tokens, Done> encode(const BytePairs& pairs, const Buffer<std::byte, "data">& data, const Input<std::int64_t, "begin">& begin,
                                const Input<std::int64_t, "size">& size, std::size_t context, unsigned threads) {
  check_one_length("begin and size must have one length", begin, size);
  std::vector<std::int64_t> tokens;
  std::vector<std::uint8_t> done(begin.view.size());
  enter_core([&](const Poll& poll) {
    tokens.resize(checked_mul(begin.view.size(), context, "tokens"));
    const std::span<const char> chars(reinterpret_cast<const char*>(data.view.data()), data.view.size());
    pairs.encode({chars, begin.view, size.view}, context, tokens, done, threads, poll);
  });
  return {own(std::move(tokens)), own_as<bool>(std::move(done))};
}

}  // namespace

void bind_tokens(py::module_& m) {
  py::class_<BytePairs>(m, "BytePairs", "A tokenizer by byte pairs, of captions that need no mending.")
      .def(py::init(&make_byte_pairs), "first"_a, "second"_a, "merged"_a, "inner"_a, "last"_a, "start"_a, "end"_a)
      .def("encode", &encode, "data"_a, "begin"_a, "size"_a, "context"_a, "threads"_a,
           "(tokens, one row of `context` after the other; whether each caption is one that is done here).");
}

}  // namespace dcfast::bindings
