// The part of dcfast._core.similarity that searches embeddings. dcfast.similarity is the public face: it checks values and
// shapes of what comes from outside, cuts large inputs into blocks, and names rows.
#include "bindings/boundary.hpp"
#include "core/similarity/join_search.hpp"
#include "core/similarity/topk_search.hpp"

namespace dcfast::bindings {

/// Rows of numbers of any dtype; `kind` says which.
class AnyArray : public py::array {
 public:
  PYBIND11_OBJECT(AnyArray, py::array, is_array)

 private:
  static bool is_array(PyObject* object) { return py::isinstance<py::array>(object); }
};

}  // namespace dcfast::bindings

template <>
struct pybind11::detail::handle_type_name<dcfast::bindings::AnyArray> {
  static constexpr auto name = const_name("numpy.typing.NDArray[numpy.generic]");
};

namespace dcfast::bindings {
namespace {

Kind kind_of(const std::string& name) {
  if (name == "float32") return Kind::float32;
  if (name == "float16") return Kind::float16;
  if (name == "bfloat16") return Kind::bfloat16;
  if (name == "int8") return Kind::int8;
  throw py::value_error(cat("kind must be float32, float16, bfloat16 or int8; got ", name));
}

Metric metric_of(const std::string& name) {
  if (name == "ip") return Metric::ip;
  if (name == "cos") return Metric::cos;
  if (name == "l2") return Metric::l2;
  throw py::value_error(cat("metric must be ip, cos or l2; got ", name));
}

EmbeddingRows rows_of(const AnyArray& array, const std::string& kind_name) {
  const Kind kind = kind_of(kind_name);
  const py::ssize_t item = kind == Kind::float32 ? 4 : kind == Kind::int8 ? 1 : 2;
  if (array.ndim() != 2 || array.itemsize() != item) {
    throw py::value_error(cat("rows must be two-dimensional, with items of ", item, " bytes; got shape ",
                              std::string(py::str(array.attr("shape"))), " of ", array.itemsize()));
  }
  if (!array.dtype().attr("isnative").cast<bool>()) {
    throw py::value_error("rows must have the byte order of this machine; pass rows.astype(rows.dtype.newbyteorder('='))");
  }
  const auto* const data = static_cast<const std::byte*>(array.data());
  // NumPy gives any stride to a side on which there is nothing to step over
  const bool apart = array.shape(0) > 0 && array.shape(1) > 1 && array.strides(1) != item;
  const bool astray = array.shape(0) > 0 && reinterpret_cast<std::uintptr_t>(data) % static_cast<std::size_t>(item) != 0;
  if (apart || astray || (array.shape(0) > 1 && array.strides(0) % item != 0)) {
    throw py::value_error("the numbers of a row must lie side by side, and aligned; pass numpy.array(rows, order='C')");
  }
  return {data, static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1)), array.strides(0), kind};
}

/// A packed database and the array that it searches in.
struct Database {
  Database(AnyArray array, const std::string& kind, unsigned threads)
      : held(std::move(array)),
        packed(enter_core([rows = rows_of(held, kind), threads](const Poll& poll) { return std::make_unique<PackedDatabase>(rows, threads, poll); })) {}

  AnyArray held;
  std::unique_ptr<PackedDatabase> packed;
};

std::optional<std::pair<std::size_t, bool>> bad_database_row(const Database& database, bool zeros) {
  const std::optional<BadRow> bad = first_bad_row(database.packed->codes(CodeWidth::narrow), zeros);
  if (!bad) return std::nullopt;
  return std::pair(bad->row, bad->state == RowState::zero);
}

std::optional<std::pair<std::size_t, bool>> bad_row(const AnyArray& rows, const std::string& kind, bool zeros, unsigned threads) {
  const EmbeddingRows view = rows_of(rows, kind);
  const std::optional<BadRow> bad = enter_core([&](const Poll& poll) { return first_bad_row(view, zeros, threads, poll); });
  if (!bad) return std::nullopt;
  return std::pair(bad->row, bad->state == RowState::zero);
}

struct TaskArguments {
  std::string metric;
  bool magnitudes, exclude_self;
  std::int64_t query_base, database_base;
  unsigned threads;
};

SearchTask task_of(const Database& database, const AnyArray& queries, const std::string& kind, const TaskArguments& arguments) {
  SearchTask task{rows_of(queries, kind), database.packed.get(), metric_of(arguments.metric), arguments.magnitudes,
                  arguments.exclude_self, arguments.query_base, arguments.database_base, arguments.threads};
  if (task.queries.width != database.packed->rows().width) throw py::value_error("queries and database must be of one width");
  return task;
}

template <typename T>
std::span<T> room_of(Array<T>& array, std::size_t count) {
  if (!array.dtype().equal(py::dtype::of<T>()) || static_cast<std::size_t>(array.size()) != count ||
      (array.flags() & py::array::c_style) == 0) {
    throw py::value_error(cat("results need a contiguous array of ", count, " items; pass numpy.empty of that size"));
  }
  return {static_cast<T*>(array.mutable_data()), count};
}

void topk(const Database& database, const AnyArray& queries, const std::string& kind, const TaskArguments& arguments, std::size_t k,
          Array<float> scores, Array<std::int64_t> indices) {
  const SearchTask task = task_of(database, queries, kind, arguments);
  if (k == 0) throw py::value_error("k must be at least 1");
  const std::span<float> score_room = room_of(scores, task.queries.count * k);
  const std::span<std::int64_t> index_room = room_of(indices, task.queries.count * k);
  enter_core([&](const Poll& poll) { topk_search(task, k, score_room, index_room, poll); });
}

using PairArrays = std::tuple<Array<std::int64_t>, Array<std::int64_t>, Array<float>, std::uint64_t, bool>;

/// (ia, ib, scores, pairs found, whether these are more than max_pairs)
PairArrays join(
    const Database& database, const AnyArray& queries, const std::string& kind, const TaskArguments& arguments, float threshold,
    bool upper, std::uint64_t max_pairs) {
  const SearchTask task = task_of(database, queries, kind, arguments);
  ScoredPairs pairs = enter_core([&](const Poll& poll) { return join_search(task, threshold, upper, max_pairs, poll); });
  return {own(std::move(pairs.ia)), own(std::move(pairs.ib)), own(std::move(pairs.scores)), pairs.found, pairs.is_full};
}

/// As join, of pairs ia < ib within groups.
PairArrays group_join(const AnyArray& rows, const std::string& kind, const Input<std::uint64_t, "offsets">& offsets,
                      const std::string& metric, float threshold, std::uint64_t max_pairs, unsigned threads) {
  const EmbeddingRows view = rows_of(rows, kind);
  const Metric chosen = metric_of(metric);
  if (offsets.view.empty() || offsets.view.front() != 0 || offsets.view.back() != view.count || !std::ranges::is_sorted(offsets.view)) {
    throw py::value_error(cat("offsets must rise from 0 to the ", view.count, " rows; give where each group begins, and the end"));
  }
  ScoredPairs pairs = enter_core([&](const Poll& poll) { return group_search(view, offsets.view, chosen, threshold, max_pairs, threads, poll); });
  return {own(std::move(pairs.ia)), own(std::move(pairs.ib)), own(std::move(pairs.scores)), pairs.found, pairs.is_full};
}

/// Sets out[i] to 1 where query i has a pair.
void any_above(const Database& database, const AnyArray& queries, const std::string& kind, const TaskArguments& arguments,
               float threshold, Array<std::uint8_t> out) {
  const SearchTask task = task_of(database, queries, kind, arguments);
  const std::span<std::uint8_t> room = room_of(out, task.queries.count);
  enter_core([&](const Poll& poll) { any_search(task, threshold, room, poll); });
}

}  // namespace

void bind_embeddings(py::module_& m) {
  py::class_<Database>(m, "PackedDatabase")
    .def(py::init<AnyArray, const std::string&, unsigned>(), "rows"_a, "kind"_a, "threads"_a)
    .def_property_readonly("count", [](const Database& database) { return database.packed->rows().count; })
    .def_property_readonly("bytes", [](const Database& database) { return database.packed->bytes(); })
    .def_property_readonly("is_coarse", [](const Database& database) { return database.packed->is_coarse(); })
    .def("bad_row", &bad_database_row, "zeros"_a);
  py::class_<TaskArguments>(m, "SearchTask")
    .def(py::init([](std::string metric, bool magnitudes, bool exclude_self, std::int64_t query_base, std::int64_t database_base,
                     unsigned threads) {
           return TaskArguments{std::move(metric), magnitudes, exclude_self, query_base, database_base, threads};
         }),
         "metric"_a, "magnitudes"_a, "exclude_self"_a, "query_base"_a, "database_base"_a, "threads"_a);
  m.def("bad_row", &bad_row, "rows"_a, "kind"_a, "zeros"_a, "threads"_a);
  m.def("topk", &topk, "database"_a, "queries"_a, "kind"_a, "task"_a, "k"_a, "scores"_a, "indices"_a);
  m.def("join", &join, "database"_a, "queries"_a, "kind"_a, "task"_a, "threshold"_a, "upper"_a, "max_pairs"_a);
  m.def("group_join", &group_join, "rows"_a, "kind"_a, "offsets"_a, "metric"_a, "threshold"_a, "max_pairs"_a, "threads"_a);
  m.def("any_above", &any_above, "database"_a, "queries"_a, "kind"_a, "task"_a, "threshold"_a, "out"_a);
  m.def("select_kernels", [] { return std::string(select_kernels().name); });
}

}  // namespace dcfast::bindings
