// dcfast._core.reshard: the plan of a reshard, output shards, and the keyed permutation. dcfast.resharding is the public
// face.
#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/boundary.hpp"
#include "core/reshard/permutation.hpp"
#include "core/reshard/reshard.hpp"
#include "core/reshard/reshard_contents.hpp"
#include "core/reshard/reshard_plan.hpp"
#include "core/uids/npy.hpp"
#include "core/uids/uid_set.hpp"

namespace dcfast::bindings {
namespace {

/// What has the buffer protocol (bytes, a map, a NumPy array), or None for nothing: no NumPy is needed for it.
template <typename T>
class Buffer : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(Buffer, py::object, is_buffer)

 private:
  static bool is_buffer(PyObject* object) { return object == Py_None || PyObject_CheckBuffer(object) != 0; }
};

/// The bytes of a path, or an open segment.
class SegmentItem : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(SegmentItem, py::object, is_item)

 private:
  static bool is_item(PyObject* object) {
    return PyBytes_Check(object) != 0 || py::isinstance<SegmentFile>(py::handle(object));
  }
};

/// Name -> number; the stubs know the names.
class Counts : public py::dict {
 public:
  using py::dict::dict;
};

}  // namespace
}  // namespace dcfast::bindings

namespace pybind11::detail {

template <>
struct handle_type_name<dcfast::bindings::Counts> {
  static constexpr auto name = const_name("dcfast.resharding.records.ReshardReport");
};

template <typename T>
struct handle_type_name<dcfast::bindings::Buffer<T>> {
  static constexpr auto name = const_name("bytes | dcfast._core.reshard.UidFile | numpy.typing.NDArray[") + dtype_name<T>() + const_name("] | None");
};

template <>
struct handle_type_name<dcfast::bindings::SegmentItem> {
  static constexpr auto name = const_name("bytes | dcfast._core.index.TarSegment");
};

}  // namespace pybind11::detail

namespace dcfast::bindings {
namespace {

/// The bytes of the tar.
std::uint64_t write_shard(
    const RawText& out_path, const std::vector<RawText>& sources, const Array<std::uint64_t>& source_size,
    const Array<std::int64_t>& source_mtime_ns, const Array<std::uint32_t>& source, const Array<std::uint64_t>& offset,
    const Array<std::uint64_t>& size, const Array<std::uint8_t>& names, const Array<std::uint64_t>& name_begin,
    std::size_t window_bytes, std::size_t max_open_sources, unsigned threads) {
  const auto sizes = borrow(source_size, "source_size");
  const auto mtimes = borrow(source_mtime_ns, "source_mtime_ns");
  if (!sizes.empty() && sizes.size() != sources.size()) throw py::value_error("source_size must be empty or one entry per source");
  if (!mtimes.empty() && mtimes.size() != sources.size()) throw py::value_error("source_mtime_ns must be empty or one entry per source");
  std::vector<CopySource> files;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    CopySource file{sources[i], std::nullopt, std::nullopt};
    if (!sizes.empty()) file.size = sizes[i];
    if (!mtimes.empty()) file.mtime_ns = mtimes[i];
    files.push_back(std::move(file));
  }
  const ShardMembers members{borrow(source, "source"), borrow(offset, "offset"), borrow(size, "size"), borrow(names, "names"),
                             borrow(name_begin, "name_begin")};
  const WriteShardOptions options{window_bytes, max_open_sources, threads};
  return enter_core([&](const Poll& poll) { return dcfast::write_shard(out_path, files, members, options, poll); });
}

py::bytes tar_member_header(const RawText& name, std::uint64_t size) {
  const std::vector<std::byte> header = dcfast::tar_member_header(name, size);
  return py::bytes(reinterpret_cast<const char*>(header.data()), header.size());
}

Array<std::uint64_t> permuted(std::uint64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t count, std::uint64_t stride) {
  if (stride == 0) throw py::value_error("stride must be at least 1");
  if (count > 0 && (first >= n || (n - 1 - first) / stride < count - 1)) throw py::value_error("places must be below n");
  std::vector<std::uint64_t> out(static_cast<std::size_t>(count));
  enter_core([&](const Poll&) {
    const Permutation permutation(n, seed);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = permutation(first + i * stride);
  });
  return own(std::move(out));
}

/// A borrowed view of what has the buffer protocol (bytes, a map, a NumPy array): no NumPy is needed for it.
template <typename T>
class Items {
 public:
  Items(const Buffer<T>& object, const char* name) {
    if (object.is_none()) return;
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
    const auto bytes = static_cast<std::size_t>(view_.len);
    const char* problem = nullptr;
    if (bytes % sizeof(T) != 0) problem = " has a length that is no multiple of its items";
    if (bytes > 0 && reinterpret_cast<std::uintptr_t>(view_.buf) % alignof(T) != 0) problem = " is not aligned; pass a copy";
    if (problem != nullptr) {
      PyBuffer_Release(&view_);
      throw py::value_error(std::string(name) + problem);
    }
  }
  ~Items() { PyBuffer_Release(&view_); }
  Items(const Items&) = delete;
  Items& operator=(const Items&) = delete;
  std::span<const T> span() const {
    return {static_cast<const T*>(view_.buf), static_cast<std::size_t>(view_.len) / sizeof(T)};
  }

 private:
  Py_buffer view_{};
};

template <typename T>
py::bytes bytes_of(const std::vector<T>& items) {
  return py::bytes(reinterpret_cast<const char*>(items.data()), items.size() * sizeof(T));
}

/// The uids of an .npy file, mapped: a buffer of 16 bytes a uid. `check` reads them, to make sure that they are sorted.
class UidFile {
 public:
  UidFile(const std::string& path, bool check, const Poll& poll) : file_(path) {
    const npy::Info info = npy::read_header(File::open_read(path));
    const auto bytes = file_.bytes();
    if (info.item_size != sizeof(Uid) || info.data_offset % alignof(Uid) != 0 || bytes.size() != info.data_offset + info.count * sizeof(Uid)) {
      throw Error(Code::corrupt_data, "expected an aligned .npy file of uids", path, 0);
    }
    uids_ = {reinterpret_cast<const Uid*>(bytes.data() + info.data_offset), static_cast<std::size_t>(info.count)};
    if (check && first_unsorted(uids_, 0, poll) < uids_.size()) throw Error(Code::corrupt_data, "the uids are not sorted", path);
  }
  std::span<const Uid> uids() const noexcept { return uids_; }

 private:
  MappedFile file_;
  std::span<const Uid> uids_;
};

using SharedSegment = std::shared_ptr<const SegmentFile>;

/// Index segments, each a path or an open one.
class Segments {
 public:
  explicit Segments(const std::vector<SegmentItem>& items) {
    for (const SegmentItem& item : items) {
      const bool is_path = py::isinstance<py::bytes>(item);
      paths_.push_back(is_path ? item.cast<std::string>() : std::string());
      open_.push_back(is_path ? nullptr : item.cast<std::shared_ptr<SegmentFile>>());
    }
  }
  std::size_t size() const noexcept { return paths_.size(); }
  SharedSegment open(std::size_t i, bool verify) const {
    return open_.at(i) ? open_[i] : std::make_shared<const SegmentFile>(paths_[i], verify);
  }

 private:
  std::vector<std::string> paths_;
  std::vector<SharedSegment> open_;
};

using Damage = std::tuple<py::bytes, std::uint64_t, bool, std::string>;
using Write = py::typing::Callable<py::int_(py::memoryview)>;

Counts counts_of(const ReshardPlan& plan) {
  const ReshardCounts& counts = plan.counts;
  Counts out;
  out["samples"] = counts.rows.samples;
  out["no_uid"] = counts.rows.no_uid;
  out["cut"] = counts.rows.cut;
  out["excluded"] = counts.rows.excluded;
  out["processed_count"] = counts.rows.processed_count;
  out["selected_rows"] = counts.selected_rows;
  out["output_count"] = counts.output_count;
  out["subset_count"] = counts.subset_count;
  out["missing_count"] = counts.missing_count;
  out["repeated_rows"] = counts.repeated_rows;
  out["output_shard_count"] = plan.cuts.size();
  out["member_count"] = counts.member_count;
  out["payload_bytes"] = counts.payload_bytes;
  out["tar_bytes"] = counts.tar_bytes;
  return out;
}

/// Row ids that are left out; they are looked up by halves.
std::span<const std::uint64_t> sorted_ids(const Items<std::uint64_t>& exclude) {
  const auto ids = exclude.span();
  if (!std::is_sorted(ids.begin(), ids.end())) throw py::value_error("exclude must be sorted");
  return ids;
}

/// `shuffled` writes the row ids somewhere.
ReshardPlan plan_reshard(const std::vector<SegmentItem>& segments, const Buffer<Uid>& subset, std::uint64_t shard_size,
                         std::uint64_t max_bytes, std::uint64_t first_shard, std::optional<std::uint64_t> num_shards,
                         const Buffer<std::uint64_t>& exclude, const Buffer<Uid>& repeated, const std::optional<Write>& shuffled,
                         std::uint64_t rows_at_once, unsigned threads) {
  const Segments opened(segments);
  const Items<Uid> subset_items(subset, "subset");
  const Items<Uid> repeated_items(repeated, "repeated");
  const Items<std::uint64_t> exclude_items(exclude, "exclude");
  ReshardPlanner::Options options;
  options.shard_size = shard_size;
  options.max_bytes = max_bytes;
  options.selection = {subset_items.span(), sorted_ids(exclude_items), first_shard, num_shards};
  if (!repeated.is_none()) options.repeated = repeated_items.span();
  if (shuffled) {
    options.shuffled = [write = shuffled->ptr()](std::span<const std::uint64_t> ids) {
      const py::gil_scoped_acquire gil;
      const py::memoryview bytes = py::memoryview::from_memory(ids.data(), static_cast<py::ssize_t>(ids.size_bytes()));
      py::reinterpret_borrow<py::function>(write)(bytes);
      bytes.attr("release")();  // whoever kept it must not look into memory that is used again
    };
  }
  options.rows_at_once = rows_at_once;
  options.threads = threads;
  return enter_core([&](const Poll& poll) {
    ReshardPlanner planner(std::move(options));
    for (std::size_t i = 0; i < opened.size(); ++i) planner.add(*opened.open(i, true), poll);
    return std::move(planner).finish();
  });
}

std::vector<Damage> damage_of(const ReshardPlan& plan) {
  std::vector<Damage> out;
  for (const ReshardPlan::Damage& one : plan.damage) out.emplace_back(py::bytes(one.shard), one.offset, one.archive, one.message);
  return out;
}

/// PlannedShards and what it borrows.
class BoundShards {
 public:
  BoundShards(const std::vector<SegmentItem>& segments, const Buffer<Uid>& subset, const Buffer<ReshardCut>& cuts,
              const Buffer<RowRepeat>& repeats, const Buffer<std::uint64_t>& exclude, const Buffer<std::uint64_t>& rows, std::optional<std::uint64_t> shuffle_seed,
              std::vector<std::uint64_t> segment_first, RawText shards_dir, std::uint64_t first_shard,
              std::optional<std::uint64_t> num_shards, std::size_t keep, std::uint64_t rows_at_once)
      : segments_(segments), subset_(subset, "subset"), exclude_(exclude, "exclude"), rows_(rows, "rows"), cuts_(cuts, "cuts"),
        repeats_(repeats, "repeats"), shards_({cuts_.span(), repeats_.span(), rows_.span(), shuffle_seed, std::move(segment_first),
                                               std::move(shards_dir), {subset_.span(), sorted_ids(exclude_), first_shard, num_shards},
                                               rows_at_once},
                                              [this](std::size_t i) { return segments_.open(i, false); }, keep) {}

  const PlannedShards& at(std::size_t k) const {
    if (k >= shards_.size()) throw py::index_error("no such output shard");
    return shards_;
  }

 private:
  Segments segments_;
  Items<Uid> subset_;
  Items<std::uint64_t> exclude_, rows_;
  Items<ReshardCut> cuts_;
  Items<RowRepeat> repeats_;
  PlannedShards shards_;
};

/// The fields of ShardContents, in order.
using Contents = std::tuple<Array<Uid>, Array<std::uint64_t>, Array<std::uint32_t>, std::vector<py::str>, Array<std::uint64_t>,
                            Array<std::int64_t>, Array<std::uint32_t>, Array<std::uint64_t>, Array<std::uint64_t>, Array<std::uint8_t>,
                            Array<std::uint64_t>>;

Contents contents_of(const BoundShards& bound, std::size_t k, bool check) {
  const PlannedShards& shards = bound.at(k);
  ShardContents shard = enter_core([&](const Poll& poll) {
    ShardContents found = shards.contents(k, poll);
    if (check) shards.check_planned(k, found);
    return found;
  });
  std::vector<py::str> sources;
  for (const std::string& path : shard.sources) {
    sources.push_back(py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<py::ssize_t>(path.size()))));
  }
  return {own(std::move(shard.uid)), own(std::move(shard.copy)), own(std::move(shard.member_sample)), std::move(sources),
                        own(std::move(shard.source_size)), own(std::move(shard.source_mtime_ns)), own(std::move(shard.source)),
                        own(std::move(shard.offset)), own(std::move(shard.size)), own(std::move(shard.names)),
                        own(std::move(shard.name_begin))};
}

std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t> write_planned(const BoundShards& bound, std::size_t k,
                                                                                     const RawText& out_path, unsigned threads, bool check_mtime) {
  const PlannedShards& shards = bound.at(k);
  const auto done = enter_core([&](const Poll& poll) { return shards.write(k, out_path, threads, check_mtime, poll); });
  return {done.samples, done.members, done.payload_bytes, done.tar_bytes};
}

}  // namespace

void bind_reshard(py::module_& m) {
  py::class_<UidFile>(m, "UidFile", py::buffer_protocol())
      .def(py::init([](const RawText& path, bool check) {
             return enter_core([&](const Poll& poll) { return std::make_unique<UidFile>(path, check, poll); });
           }),
           py::arg("path"), py::arg("check"))
      .def("__len__", [](const UidFile& file) { return file.uids().size(); })
      .def("view", [](const py::object& file) { return py::memoryview(file); })
      .def_buffer([](UidFile& file) {
        const auto bytes = std::as_bytes(file.uids());
        return py::buffer_info(const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(bytes.data())),
                               static_cast<py::ssize_t>(bytes.size()), true);
      });
  py::class_<ReshardPlan>(m, "ReshardPlan")
      .def_property_readonly("cuts", [](const ReshardPlan& plan) { return bytes_of(plan.cuts); })
      .def_property_readonly("repeats", [](const ReshardPlan& plan) { return bytes_of(plan.repeats); })
      .def_property_readonly("counts", &counts_of)
      .def_property_readonly("segment_first", [](const ReshardPlan& plan) { return plan.segment_first; })
      .def_property_readonly("chosen_shards", [](const ReshardPlan& plan) { return plan.chosen_shards; })
      .def_property_readonly("numbers", [](const ReshardPlan& plan) { return std::pair(plan.lowest_number, plan.highest_number); })
      .def_property_readonly("damage", &damage_of)
      .def_property_readonly("inputs", [](const ReshardPlan& plan) { return std::pair(plan.inputs.hi, plan.inputs.lo); });
  m.def("plan_reshard", &plan_reshard, py::arg("segments"), py::arg("subset"), py::kw_only(), py::arg("shard_size"),
        py::arg("max_bytes"), py::arg("first_shard"), py::arg("num_shards"), py::arg("exclude"), py::arg("repeated"),
        py::arg("shuffled"), py::arg("rows_at_once"), py::arg("threads") = 0);
  py::class_<BoundShards>(m, "PlannedShards")
      .def(py::init<const std::vector<SegmentItem>&, const Buffer<Uid>&, const Buffer<ReshardCut>&, const Buffer<RowRepeat>&,
                    const Buffer<std::uint64_t>&, const Buffer<std::uint64_t>&, std::optional<std::uint64_t>,
                    std::vector<std::uint64_t>, RawText, std::uint64_t, std::optional<std::uint64_t>,
                    std::size_t, std::uint64_t>(),
           py::arg("segments"), py::arg("subset"), py::kw_only(), py::arg("cuts"), py::arg("repeats"), py::arg("exclude"),
           py::arg("rows"), py::arg("shuffle_seed"), py::arg("segment_first"), py::arg("shards_dir"), py::arg("first_shard"),
           py::arg("num_shards"), py::arg("keep"), py::arg("rows_at_once"))
      .def("contents", &contents_of, py::arg("k"), py::kw_only(), py::arg("check") = false)
      .def("row_ids", [](const BoundShards& bound, std::size_t k) {
        const PlannedShards& shards = bound.at(k);
        return own(enter_core([&](const Poll& poll) { return shards.row_ids(k, poll); }));
      }, py::arg("k"))
      .def("write", &write_planned, py::arg("k"), py::arg("out_path"), py::kw_only(), py::arg("threads"), py::arg("check_mtime"));
  m.def("repeated_uids", [](const Buffer<UidRecord>& records) {
    const Items<UidRecord> items(records, "records");
    return own(enter_core([&](const Poll&) { return dcfast::repeated_uids(items.span()); }));
  }, py::arg("records"));
  m.def("permuted", &permuted, py::arg("n"), py::arg("seed"), py::arg("first"), py::arg("count"), py::arg("stride") = 1);
  m.def("write_shard", &write_shard, py::arg("out_path"), py::arg("sources"), py::arg("source_size"), py::arg("source_mtime_ns"),
        py::arg("source"), py::arg("offset"), py::arg("size"), py::arg("names"), py::arg("name_begin"), py::kw_only(),
        py::arg("window_bytes") = WriteShardOptions{}.window_bytes,
        py::arg("max_open_sources") = WriteShardOptions{}.max_open_sources, py::arg("threads") = 1);
  m.def("tar_member_header", &tar_member_header, py::arg("name"), py::arg("size"));
}

}  // namespace dcfast::bindings
