// dcfast._core.uids: uid arrays in, uid arrays out. Outputs are NumPy arrays allocated here and written by the core.
#include "bindings/boundary.hpp"
#include "core/uids/uid_merge.hpp"
#include "core/uids/uid_set.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast::bindings {

namespace {

/// A new array that nobody else sees yet, and the memory for the core to fill.
template <typename T>
struct Output {
  explicit Output(std::size_t size)
      : array(py::array(dtype_of<T>(), std::vector<py::ssize_t>{static_cast<py::ssize_t>(size)})),
        view(static_cast<T*>(array.mutable_data()), size) {}

  /// Gives back the memory behind the first `size` elements.
  Array<T> shrunk(std::size_t size) {
    if (size != view.size()) array.resize(std::vector<py::ssize_t>{static_cast<py::ssize_t>(size)}, false);
    return array;
  }

  Array<T> array;
  std::span<T> view;
};

/// (uids, which of the texts are valid, how many are)
using ParsedUids = std::tuple<Array<Uid>, Array<bool>, std::size_t>;

std::span<const char> text_of(const Array<std::uint8_t>& array, const char* name) {
  const auto bytes = borrow(array, name);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

ParsedUids parse_fixed(const Array<std::uint8_t>& text, std::size_t width, std::size_t count, unsigned threads) {
  const auto view = text_of(text, "text");
  Output<Uid> uids(count);
  Output<bool> valid(count);
  const std::size_t good =
      enter_core([&](const Poll& poll) { return parse_uids_fixed(view, width, uids.view, valid.view, threads, poll); });
  return {uids.array, valid.array, good};
}

template <typename Offset>
ParsedUids parse_offsets(const Array<std::uint8_t>& data, const Array<Offset>& offsets, unsigned threads) {
  const auto view = text_of(data, "data");
  const auto offset_view = borrow(offsets, "offsets");
  const std::size_t count = offset_view.empty() ? 0 : offset_view.size() - 1;
  Output<Uid> uids(count);
  Output<bool> valid(count);
  const std::size_t good = enter_core(
      [&](const Poll& poll) { return parse_uids_offsets(view, offset_view, uids.view, valid.view, threads, poll); });
  return {uids.array, valid.array, good};
}

/// Reads Python strings, which takes the GIL: nothing here but the look at 32 bytes an item. None counts as
/// not valid; other things than str, bytes and None are a TypeError.
ParsedUids parse_list(const py::typing::List<py::typing::Union<py::str, py::bytes, py::none>>& texts) {
  const auto n = static_cast<std::size_t>(PyList_GET_SIZE(texts.ptr()));
  Output<Uid> uids(n);
  Output<bool> valid(n);
  std::size_t good = 0;
  constexpr std::size_t ahead = 16;
  constexpr std::size_t poll_every = std::size_t{1} << 20;
  for (std::size_t i = 0; i < n; ++i) {
    if (i % poll_every == poll_every - 1 && PyErr_CheckSignals() != 0) throw py::error_already_set();
    // a handler of a signal may have changed the list
    if (static_cast<std::size_t>(PyList_GET_SIZE(texts.ptr())) != n) {
      throw py::value_error("texts changed while it was read");
    }
    if (i + ahead < n) {
      const PyObject* const next = PyList_GET_ITEM(texts.ptr(), static_cast<py::ssize_t>(i + ahead));
      __builtin_prefetch(next);
      __builtin_prefetch(reinterpret_cast<const char*>(next) + 64);
    }
    PyObject* const item = PyList_GET_ITEM(texts.ptr(), static_cast<py::ssize_t>(i));
    const char* text = nullptr;
    py::ssize_t size = 0;
    if (PyUnicode_Check(item)) {
      // hex digits are ASCII; any other string cannot be a uid
      if (PyUnicode_READY(item) == 0 && PyUnicode_IS_COMPACT_ASCII(item)) {
        text = reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(item));
        size = PyUnicode_GET_LENGTH(item);
      }
    } else if (PyBytes_Check(item)) {
      text = PyBytes_AS_STRING(item);
      size = PyBytes_GET_SIZE(item);
    } else if (item != Py_None) {
      throw py::type_error("texts must hold str, bytes or None; got " + std::string(Py_TYPE(item)->tp_name) +
                           " at index " + std::to_string(i));
    }
    const bool is_uid = parse_uid({text, static_cast<std::size_t>(size)}, uids.view[i]);
    valid.view[i] = is_uid;
    good += is_uid ? 1 : 0;
  }
  return {uids.array, valid.array, good};
}

Array<std::uint8_t> format(const Array<Uid>& uids, unsigned threads) {
  const auto view = borrow(uids, "uids");
  Output<std::uint8_t> out(checked_mul(view.size(), kUidTextSize, "texts"));
  const std::span<char> text(reinterpret_cast<char*>(out.view.data()), out.view.size());
  enter_core([&](const Poll& poll) { format_uids(view, text, threads, poll); });
  return out.array;
}

Array<Uid> sorted_uids(const Array<Uid>& uids, bool unique, unsigned threads) {
  const auto view = borrow(uids, "uids");
  Output<Uid> out(view.size());
  const std::size_t size = enter_core([&](const Poll& poll) {
    sort_uids(view, out.view, threads, poll);
    return unique ? unique_sorted(out.view) : out.view.size();
  });
  return out.shrunk(size);
}

Array<UidRecord> sorted_records(const Array<UidRecord>& records, unsigned threads) {
  const auto view = borrow(records, "records");
  Output<UidRecord> out(view.size());
  enter_core([&](const Poll& poll) { sort_records(view, out.view, threads, poll); });
  return out.array;
}

template <typename T>
std::size_t unsorted_at(const Array<T>& values, unsigned threads) {
  const auto view = borrow(values, "values");
  return enter_core([&](const Poll& poll) { return first_unsorted(view, threads, poll); });
}

Array<bool> is_in(const Array<Uid>& hay, const Array<Uid>& queries, unsigned threads) {
  const auto hay_view = borrow(hay, "hay");
  const auto query_view = borrow(queries, "queries");
  Output<bool> out(query_view.size());
  enter_core([&](const Poll& poll) { contains(hay_view, query_view, out.view, threads, poll); });
  return out.array;
}

template <typename T>
std::tuple<Array<std::int64_t>, Array<std::int64_t>> look_up(const Array<T>& hay, const Array<Uid>& queries, unsigned threads) {
  const auto hay_view = borrow(hay, "hay");
  const auto query_view = borrow(queries, "queries");
  Output<std::int64_t> first(query_view.size());
  Output<std::int64_t> count(query_view.size());
  enter_core([&](const Poll& poll) { lookup(hay_view, query_view, first.view, count.view, threads, poll); });
  return {first.array, count.array};
}

using SetOperation = std::size_t (*)(std::span<const Uid>, std::span<const Uid>, std::span<Uid>, unsigned, const Poll&);

Array<Uid> combine(const Array<Uid>& a, const Array<Uid>& b, unsigned threads, SetOperation operation, bool both) {
  const auto a_view = borrow(a, "a");
  const auto b_view = borrow(b, "b");
  Output<Uid> out(both ? checked_add(a_view.size(), b_view.size(), "union") : a_view.size());
  const std::size_t size =
      enter_core([&](const Poll& poll) { return operation(a_view, b_view, out.view, threads, poll); });
  return out.shrunk(size);
}

std::tuple<std::uint64_t, std::uint64_t, std::uint32_t> merge(const std::vector<py::bytes>& run_paths, const py::bytes& out_path, bool unique,
                std::uint64_t memory_bytes, std::uint32_t max_open_files) {
  const std::vector<std::string> paths(run_paths.begin(), run_paths.end());
  const std::string out = out_path;
  const MergeOptions options{unique, memory_bytes, max_open_files};
  const MergeResult result = enter_core([&](const Poll& poll) { return merge_runs(paths, out, options, poll); });
  return {result.rows_in, result.rows_out, result.passes};
}

}  // namespace

void bind_uids(py::module_& m) {
  m.def("uid_parse_fixed", &parse_fixed, py::arg("text"), py::arg("width"), py::arg("count"), py::arg("threads"),
        "Uids from texts of one width: (uids, valid, number valid).");
  m.def("uid_parse_offsets32", &parse_offsets<std::int32_t>, py::arg("data"), py::arg("offsets"), py::arg("threads"),
        "Uids from Arrow's string layout: (uids, valid, number valid).");
  m.def("uid_parse_offsets64", &parse_offsets<std::int64_t>, py::arg("data"), py::arg("offsets"), py::arg("threads"),
        "Uids from Arrow's large_string layout: (uids, valid, number valid).");
  m.def("uid_parse_list", &parse_list, py::arg("texts"),
        "Uids from a list of str, bytes or None: (uids, valid, number valid).");
  m.def("uid_format", &format, py::arg("uids"), py::arg("threads"), "32 bytes of lower-case hex a uid.");
  m.def("uid_sort", &sorted_uids, py::arg("uids"), py::arg("unique"), py::arg("threads"), "A sorted copy.");
  m.def("record_sort", &sorted_records, py::arg("records"), py::arg("threads"), "A sorted copy.");
  m.def("uid_first_unsorted", &unsorted_at<Uid>, py::arg("values"), py::arg("threads"),
        "The first index below its predecessor, or the length.");
  m.def("record_first_unsorted", &unsorted_at<UidRecord>, py::arg("values"), py::arg("threads"),
        "The first index below its predecessor, or the length.");
  m.def("uid_isin", &is_in, py::arg("hay"), py::arg("queries"), py::arg("threads"), "Membership in a sorted array.");
  m.def("uid_lookup", &look_up<Uid>, py::arg("hay"), py::arg("queries"), py::arg("threads"),
        "(first, count) of each query.");
  m.def("record_lookup", &look_up<UidRecord>, py::arg("hay"), py::arg("queries"), py::arg("threads"),
        "(first, count) of each query.");
  m.def("uid_union", [](const Array<Uid>& a, const Array<Uid>& b, unsigned threads) {
    return combine(a, b, threads, &set_union, true);
  }, py::arg("a"), py::arg("b"), py::arg("threads"), "Sorted distinct uids of both.");
  m.def("uid_intersect", [](const Array<Uid>& a, const Array<Uid>& b, unsigned threads) {
    return a.size() <= b.size() ? combine(a, b, threads, &set_intersection, false)
                                : combine(b, a, threads, &set_intersection, false);
  }, py::arg("a"), py::arg("b"), py::arg("threads"), "Sorted distinct uids in both.");
  m.def("uid_difference", [](const Array<Uid>& a, const Array<Uid>& b, unsigned threads) {
    return combine(a, b, threads, &set_difference, false);
  }, py::arg("a"), py::arg("b"), py::arg("threads"), "Sorted distinct uids of a that are not in b.");
  m.def("uid_merge_runs", &merge, py::arg("run_paths"), py::arg("out_path"), py::arg("unique"), py::arg("memory_bytes"),
        py::arg("max_open_files"), "Merges sorted .npy runs: (rows read, rows written, passes).");
}

}  // namespace dcfast::bindings
