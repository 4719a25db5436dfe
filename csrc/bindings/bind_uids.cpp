// dcfast._core.uids: uid arrays in, uid arrays out. Outputs are NumPy arrays allocated here and written by the core.
#include <map>

#include "bindings/boundary.hpp"
#include "bindings/uid_objects.hpp"
#include "core/uids/uid_column.hpp"
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

/// `parse` fills uids and valid from a count of texts, and says how many are valid.
template <typename Parse>
ParsedUids parsed(std::size_t count, const Parse& parse) {
  Output<Uid> uids(count);
  Output<bool> valid(count);
  const std::size_t good = enter_core([&](const Poll& poll) { return parse(uids.view, valid.view, poll); });
  return {uids.array, valid.array, good};
}

ParsedUids parse_fixed(const Input<std::uint8_t, "text">& text, std::size_t width, std::size_t count, unsigned threads) {
  return parsed(count, [&](auto uids, auto valid, const Poll& poll) {
    return parse_uids_fixed(chars_of(text.view), width, uids, valid, threads, poll);
  });
}

using ColumnBuffer = Buffer<std::uint8_t, "buffers">;

/// Of a piece of an Arrow column: its rows, the first one's place in its buffers, and these.
using Piece = std::tuple<std::size_t, std::size_t, std::vector<ColumnBuffer>>;

std::vector<ColumnPiece> pieces_of(const std::vector<Piece>& given) {
  std::vector<ColumnPiece> pieces;
  pieces.reserve(given.size());
  for (const auto& [size, offset, buffers] : given) {
    ColumnPiece& piece = pieces.emplace_back(size, offset);
    for (const ColumnBuffer& buffer : buffers) piece.buffers.push_back(buffer.view);
    if (piece.buffers.empty()) continue;
    piece.validity = piece.buffers.front();
    piece.buffers.erase(piece.buffers.begin());
  }
  return pieces;
}

ParsedUids parse_column(const std::string& form, const std::vector<Piece>& texts, const std::vector<Piece>& rows, unsigned row_bytes,
                        bool signed_rows, unsigned threads) {
  static const std::map<std::string, UidForm, std::less<>> forms{
      {"text32", UidForm::text32}, {"text64", UidForm::text64}, {"view", UidForm::view}, {"bytes", UidForm::bytes}};
  const auto found = forms.find(form);
  if (found == forms.end()) throw py::value_error("form must be text32, text64, view or bytes; got " + form);
  const std::vector<ColumnPiece> columns = pieces_of(texts);
  const std::vector<ColumnPiece> of = pieces_of(rows);
  std::size_t count = 0;
  for (const ColumnPiece& piece : rows.empty() ? columns : of) count = checked_add(count, piece.size, "rows");
  return parsed(count, [&](auto uids, auto valid, const Poll& poll) {
    return parse_uids_column(found->second, columns, of, {row_bytes, signed_rows}, uids, valid, threads, poll);
  });
}

ParsedUids parse_list(const py::typing::List<py::typing::Union<py::str, py::bytes, py::none>>& texts, unsigned threads) {
  const auto n = static_cast<std::size_t>(PyList_GET_SIZE(texts.ptr()));
  Output<Uid> uids(n);
  Output<bool> valid(n);
  const std::size_t good = parse_uid_objects(texts, uids.view, valid.view, threads);
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
  m.def("uid_parse_column", &parse_column, "form"_a, "texts"_a, "rows"_a, "row_bytes"_a, "signed_rows"_a, "threads"_a,
        "Uids of the pieces of a column, (size, offset, buffers) each, or of dictionary rows: (uids, valid, number valid).");
  m.def("uid_parse_list", &parse_list, "texts"_a, "threads"_a, "Uids from a list of str, bytes, UUID or None: (uids, valid, number valid).");
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
