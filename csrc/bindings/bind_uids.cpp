// dcfast._core.uids: uid arrays in, uid arrays out. Outputs are NumPy arrays allocated here and written by the core.
#include "bindings/boundary.hpp"
#include "core/uids/uid_merge.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast::bindings {

namespace {

/// A new array that nobody else sees yet, and the memory for the core to fill.
template <typename T>
struct Output {
  explicit Output(std::size_t size)
      : array(py::array(dtype_of<T>(), std::vector<py::ssize_t>{static_cast<py::ssize_t>(size)})),
        view(static_cast<T*>(array.mutable_data()), size) {}

  /// Memory of the caller's, as long as what is written to it: a part of a larger array.
  Output(const Array<T>& given, std::size_t size) : array(given) {
    const Input<T, "into"> checked(given);
    if (checked.view.size() != size) throw py::value_error("into must have an entry for each text");
    view = {static_cast<T*>(array.mutable_data()), size};
  }

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

/// Where to write uids, and which are valid.
using Into = std::optional<std::pair<Array<Uid>, Array<bool>>>;

/// `parse` fills uids and valid from a count of texts, and says how many are valid.
template <typename Parse>
ParsedUids parsed(std::size_t count, const Parse& parse, const Into& into = std::nullopt) {
  Output<Uid> uids = into ? Output<Uid>(into->first, count) : Output<Uid>(count);
  Output<bool> valid = into ? Output<bool>(into->second, count) : Output<bool>(count);
  const std::size_t good = enter_core([&](const Poll& poll) { return parse(uids.view, valid.view, poll); });
  return {uids.array, valid.array, good};
}

ParsedUids parse_fixed(const Input<std::uint8_t, "text">& text, std::size_t width, std::size_t count, unsigned threads) {
  return parsed(count, [&](auto uids, auto valid, const Poll& poll) {
    return parse_uids_fixed(chars_of(text.view), width, uids, valid, threads, poll);
  });
}

/// Of a dictionary's texts, which of them each row has.
using Rows = std::optional<Input<std::int32_t, "rows">>;

template <typename Offset>
ParsedUids parse_offsets(const Input<std::uint8_t, "data">& data, const Input<Offset, "offsets">& offsets, const Rows& rows,
                         const Into& into, unsigned threads) {
  const std::span<const std::int32_t> of = rows ? rows->view : std::span<const std::int32_t>{};
  const std::size_t texts = offsets.view.empty() ? 0 : offsets.view.size() - 1;
  return parsed(rows ? of.size() : texts, [&](auto uids, auto valid, const Poll& poll) {
    return parse_uids_offsets(chars_of(data.view), offsets.view, of, uids, valid, threads, poll);
  }, into);
}

using TextBuffer = Input<std::uint8_t, "buffers">;

ParsedUids parse_views(const Input<std::int32_t, "views">& views, const std::vector<TextBuffer>& buffers, const Rows& rows,
                       const Into& into, unsigned threads) {
  const std::span<const std::int32_t> of = rows ? rows->view : std::span<const std::int32_t>{};
  std::vector<std::span<const char>> texts;
  for (const TextBuffer& buffer : buffers) texts.push_back(chars_of(buffer.view));
  return parsed(rows ? of.size() : views.view.size() / 4, [&](auto uids, auto valid, const Poll& poll) {
    return parse_uids_views(views.view, texts, of, uids, valid, threads, poll);
  }, into);
}

/// Numbers of uuid.UUID objects.
class UuidReader {
 public:
  /// False where the item is another object.
  bool read(PyObject* item, Uid& out) {
    if (!type_) type_ = py::module_::import("uuid").attr("UUID");
    if (!py::isinstance(item, type_)) return false;
    const py::object number = py::reinterpret_borrow<py::object>(item).attr(name_);
    const py::object high = number >> shift_;
    out = {PyLong_AsUnsignedLongLongMask(high.ptr()), PyLong_AsUnsignedLongLongMask(number.ptr())};
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    return true;
  }

 private:
  py::object type_;
  py::str name_{"int"};
  py::int_ shift_{64};
};

/// Reads Python strings, which takes the GIL: nothing here but the look at 32 bytes an item. None counts as
/// not valid; other things than str, bytes, UUID and None are a TypeError.
ParsedUids parse_list(const py::typing::List<py::typing::Union<py::str, py::bytes, py::none>>& texts) {
  const auto n = static_cast<std::size_t>(PyList_GET_SIZE(texts.ptr()));
  Output<Uid> uids(n);
  Output<bool> valid(n);
  std::size_t good = 0;
  UuidReader uuids;
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
      if (PyUnicode_READY(item) == 0 && PyUnicode_IS_ASCII(item)) {
        text = static_cast<const char*>(PyUnicode_DATA(item));  // of a subclass, too: NumPy's texts are one
        size = PyUnicode_GET_LENGTH(item);
      }
    } else if (PyBytes_Check(item)) {
      text = PyBytes_AS_STRING(item);
      size = PyBytes_GET_SIZE(item);
    } else if (item != Py_None) {
      if (!uuids.read(item, uids.view[i])) {
        throw py::type_error("texts must hold str, bytes, uuid.UUID or None; got " + std::string(Py_TYPE(item)->tp_name) +
                             " at index " + std::to_string(i));
      }
      valid.view[i] = true;
      ++good;
      continue;
    }
    const bool is_uid = parse_uid_or_uuid({text, static_cast<std::size_t>(size)}, uids.view[i]);
    valid.view[i] = is_uid;
    good += is_uid ? 1 : 0;
  }
  return {uids.array, valid.array, good};
}

using Uids = Input<Uid, "uids">;
using Hay = Input<Uid, "hay">;
using Queries = Input<Uid, "queries">;

Array<std::uint8_t> format(const Uids& uids, unsigned threads) {
  Output<std::uint8_t> out(checked_mul(uids.view.size(), kUidTextSize, "texts"));
  const std::span<char> text(reinterpret_cast<char*>(out.view.data()), out.view.size());
  enter_core([&](const Poll& poll) { format_uids(uids.view, text, threads, poll); });
  return out.array;
}

Array<Uid> sorted_uids(const Uids& uids, bool unique, unsigned threads) {
  Output<Uid> out(uids.view.size());
  const std::size_t size = enter_core([&](const Poll& poll) {
    sort_uids(uids.view, out.view, threads, poll);
    return unique ? unique_sorted(out.view) : out.view.size();
  });
  return out.shrunk(size);
}

Array<UidRecord> sorted_records(const Input<UidRecord, "records">& records, unsigned threads) {
  Output<UidRecord> out(records.view.size());
  enter_core([&](const Poll& poll) { sort_records(records.view, out.view, threads, poll); });
  return out.array;
}

template <typename T>
std::size_t unsorted_at(const Input<T, "values">& values, unsigned threads) {
  return enter_core([&](const Poll& poll) { return first_unsorted(values.view, threads, poll); });
}

Array<bool> is_in(const Hay& hay, const Queries& queries, unsigned threads) {
  Output<bool> out(queries.view.size());
  enter_core([&](const Poll& poll) { contains(hay.view, queries.view, out.view, threads, poll); });
  return out.array;
}

template <typename T>
std::tuple<Array<std::int64_t>, Array<std::int64_t>> look_up(const Input<T, "hay">& hay, const Queries& queries, unsigned threads) {
  Output<std::int64_t> first(queries.view.size());
  Output<std::int64_t> count(queries.view.size());
  enter_core([&](const Poll& poll) { lookup(hay.view, queries.view, first.view, count.view, threads, poll); });
  return {first.array, count.array};
}

using Left = Input<Uid, "a">;
using Right = Input<Uid, "b">;

/// `room`: the most uids that the operation yields.
template <typename Operation>
Array<Uid> combine(const Left& a, const Right& b, unsigned threads, std::size_t room, const Operation& operation) {
  Output<Uid> out(room);
  const std::size_t size = enter_core([&](const Poll& poll) { return operation(a.view, b.view, out.view, threads, poll); });
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
  m.def("uid_parse_fixed", &parse_fixed, "text"_a, "width"_a, "count"_a, "threads"_a,
        "Uids from texts of one width: (uids, valid, number valid).");
  m.def("uid_parse_offsets32", &parse_offsets<std::int32_t>, "data"_a, "offsets"_a, "rows"_a, "into"_a, "threads"_a,
        "Uids from Arrow's string layout: (uids, valid, number valid).");
  m.def("uid_parse_offsets64", &parse_offsets<std::int64_t>, "data"_a, "offsets"_a, "rows"_a, "into"_a, "threads"_a,
        "Uids from Arrow's large_string layout: (uids, valid, number valid).");
  m.def("uid_parse_views", &parse_views, "views"_a, "buffers"_a, "rows"_a, "into"_a, "threads"_a,
        "Uids from Arrow's string_view layout: (uids, valid, number valid).");
  m.def("uid_parse_list", &parse_list, "texts"_a, "Uids from a list of str, bytes, UUID or None: (uids, valid, number valid).");
  m.def("uid_format", &format, "uids"_a, "threads"_a, "32 bytes of lower-case hex a uid.");
  m.def("uid_sort", &sorted_uids, "uids"_a, "unique"_a, "threads"_a, "A sorted copy.");
  m.def("record_sort", &sorted_records, "records"_a, "threads"_a, "A sorted copy.");
  m.def("uid_first_unsorted", &unsorted_at<Uid>, "values"_a, "threads"_a, "The first index below its predecessor, or the length.");
  m.def("record_first_unsorted", &unsorted_at<UidRecord>, "values"_a, "threads"_a, "The first index below its predecessor, or the length.");
  m.def("uid_isin", &is_in, "hay"_a, "queries"_a, "threads"_a, "Membership in a sorted array.");
  m.def("uid_lookup", &look_up<Uid>, "hay"_a, "queries"_a, "threads"_a, "(first, count) of each query.");
  m.def("record_lookup", &look_up<UidRecord>, "hay"_a, "queries"_a, "threads"_a, "(first, count) of each query.");
  m.def("uid_union", [](const Left& a, const Right& b, unsigned threads) {
    return combine(a, b, threads, checked_add(a.view.size(), b.view.size(), "union"), set_union);
  }, "a"_a, "b"_a, "threads"_a, "Sorted distinct uids of both.");
  m.def("uid_intersect", [](const Left& a, const Right& b, unsigned threads) {
    return combine(a, b, threads, std::min(a.view.size(), b.view.size()), set_intersection);
  }, "a"_a, "b"_a, "threads"_a, "Sorted distinct uids in both.");
  m.def("uid_difference", [](const Left& a, const Right& b, unsigned threads) {
    return combine(a, b, threads, a.view.size(), set_difference);
  }, "a"_a, "b"_a, "threads"_a, "Sorted distinct uids of a that are not in b.");
  m.def("uid_merge_runs", &merge, "run_paths"_a, "out_path"_a, "unique"_a, "memory_bytes"_a, "max_open_files"_a,
        "Merges sorted .npy runs: (rows read, rows written, passes).");
}

}  // namespace dcfast::bindings
