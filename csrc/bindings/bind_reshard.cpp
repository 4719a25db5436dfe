#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/boundary.hpp"
#include "core/npy.hpp"
#include "core/reshard.hpp"
#include "core/reshard_contents.hpp"
#include "core/reshard_plan.hpp"
#include "core/uid_set.hpp"

namespace dcfast::bindings {
namespace {

py::tuple write_shard(const std::string& out_path, const std::vector<std::string>& sources, const py::array& source_size,
                      const py::array& source_mtime_ns, const py::array& source, const py::array& offset, const py::array& size,
                      const py::array& names, const py::array& name_begin, bool hash_payloads, std::size_t window_bytes,
                      std::size_t max_open_sources, unsigned threads) {
  const auto sizes = borrow<std::uint64_t>(source_size, "source_size");
  const auto mtimes = borrow<std::int64_t>(source_mtime_ns, "source_mtime_ns");
  if (!sizes.empty() && sizes.size() != sources.size()) throw py::value_error("source_size must be empty or one entry per source");
  if (!mtimes.empty() && mtimes.size() != sources.size()) throw py::value_error("source_mtime_ns must be empty or one entry per source");
  std::vector<CopySource> files;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    CopySource file{sources[i], std::nullopt, std::nullopt};
    if (!sizes.empty()) file.size = sizes[i];
    if (!mtimes.empty()) file.mtime_ns = mtimes[i];
    files.push_back(std::move(file));
  }
  const ShardMembers members{borrow<std::uint32_t>(source, "source"), borrow<std::uint64_t>(offset, "offset"),
                             borrow<std::uint64_t>(size, "size"), borrow<std::uint8_t>(names, "names"),
                             borrow<std::uint64_t>(name_begin, "name_begin")};
  const WriteShardOptions options{window_bytes, max_open_sources, hash_payloads, threads};
  WrittenShard written = enter_core([&](const Poll& poll) { return dcfast::write_shard(out_path, files, members, options, poll); });
  return py::make_tuple(written.bytes, own(std::move(written.hashes)));
}

py::tuple sample_member_names(const py::array& uid, const py::array& copy, const py::array& member_sample,
                              const py::array& member_ext, const std::vector<std::string>& exts) {
  const auto uids = borrow<Uid>(uid, "uid");
  const auto copies = borrow<std::uint64_t>(copy, "copy");
  const auto samples = borrow<std::uint32_t>(member_sample, "member_sample");
  const auto ext_ids = borrow<std::uint32_t>(member_ext, "member_ext");
  std::vector<std::uint8_t> names;
  std::vector<std::uint64_t> name_begin;
  enter_core([&](const Poll&) { dcfast::sample_member_names(uids, copies, samples, ext_ids, exts, names, name_begin); });
  return py::make_tuple(own(std::move(names)), own(std::move(name_begin)));
}

py::bytes tar_member_header(const std::string& name, std::uint64_t size) {
  const std::vector<std::byte> header = dcfast::tar_member_header(name, size);
  return py::bytes(reinterpret_cast<const char*>(header.data()), header.size());
}

/// A borrowed view of what has the buffer protocol (bytes, a map, a NumPy array): no NumPy is needed for it.
template <typename T>
class Items {
 public:
  Items(const py::object& object, const char* name) {
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
  explicit Segments(const py::list& items) {
    for (const py::handle& item : items) {
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

py::dict counts_of(const ReshardPlan& plan) {
  const ReshardCounts& counts = plan.counts;
  py::dict out;
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

/// `shuffled`: a binary file that takes the row ids, or None.
py::dict plan_reshard(const py::list& segments, const py::object& subset, std::uint64_t shard_size, std::uint64_t max_bytes,
                      std::uint64_t first_shard, std::optional<std::uint64_t> num_shards, const py::object& exclude,
                      const py::object& repeated, const py::object& shuffled, std::uint64_t rows_at_once, unsigned threads) {
  const Segments opened(segments);
  const Items<Uid> subset_items(subset, "subset");
  const Items<Uid> repeated_items(repeated, "repeated");
  const Items<std::uint64_t> exclude_items(exclude, "exclude");
  ReshardPlanner::Options options;
  options.shard_size = shard_size;
  options.max_bytes = max_bytes;
  options.selection = {subset_items.span(), exclude_items.span(), first_shard, num_shards};
  if (!repeated.is_none()) options.repeated = repeated_items.span();
  if (!shuffled.is_none()) {
    options.shuffled = [file = shuffled.ptr()](std::span<const std::uint64_t> ids) {
      const py::gil_scoped_acquire gil;
      py::handle(file).attr("write")(py::memoryview::from_memory(ids.data(), static_cast<py::ssize_t>(ids.size_bytes())));
    };
  }
  options.rows_at_once = rows_at_once;
  options.threads = threads;
  const ReshardPlan plan = enter_core([&](const Poll& poll) {
    ReshardPlanner planner(std::move(options));
    for (std::size_t i = 0; i < opened.size(); ++i) planner.add(*opened.open(i, true), poll);
    return std::move(planner).finish();
  });
  py::list damage;
  for (const ReshardPlan::Damage& one : plan.damage) damage.append(py::make_tuple(py::bytes(one.shard), one.offset, one.message));
  py::dict out;
  out["cuts"] = bytes_of(plan.cuts);
  out["repeats"] = bytes_of(plan.repeats);
  out["counts"] = counts_of(plan);
  out["segment_first"] = plan.segment_first;
  out["chosen_shards"] = plan.chosen_shards;
  out["numbers"] = py::make_tuple(plan.lowest_number, plan.highest_number);
  out["damage"] = damage;
  out["inputs"] = py::make_tuple(plan.inputs.hi, plan.inputs.lo);
  return out;
}

/// PlannedShards and what it borrows.
class BoundShards {
 public:
  BoundShards(const py::list& segments, const py::object& subset, const py::object& cuts, const py::object& repeats,
              const py::object& exclude, const py::object& rows, std::optional<std::uint64_t> shuffle_seed,
              std::vector<std::uint64_t> segment_first, std::string shards_dir, std::uint64_t first_shard,
              std::optional<std::uint64_t> num_shards, std::size_t keep, std::uint64_t rows_at_once)
      : segments_(segments), subset_(subset, "subset"), exclude_(exclude, "exclude"), rows_(rows, "rows"), cuts_(cuts, "cuts"),
        repeats_(repeats, "repeats"), shards_({cuts_.span(), repeats_.span(), rows_.span(), shuffle_seed, std::move(segment_first),
                                               std::move(shards_dir), {subset_.span(), exclude_.span(), first_shard, num_shards},
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
py::tuple contents_of(const BoundShards& bound, std::size_t k, bool check) {
  const PlannedShards& shards = bound.at(k);
  ShardContents shard = enter_core([&](const Poll& poll) {
    ShardContents found = shards.contents(k, poll);
    if (check) shards.check_planned(k, found);
    return found;
  });
  py::list sources;
  for (const std::string& path : shard.sources) sources.append(py::bytes(path));
  return py::make_tuple(own(std::move(shard.uid)), own(std::move(shard.copy)), own(std::move(shard.member_sample)), sources,
                        own(std::move(shard.source_size)), own(std::move(shard.source_mtime_ns)), own(std::move(shard.source)),
                        own(std::move(shard.offset)), own(std::move(shard.size)), own(std::move(shard.names)),
                        own(std::move(shard.name_begin)));
}

py::tuple write_planned(const BoundShards& bound, std::size_t k, const std::string& out_path, unsigned threads, bool check_mtime) {
  const PlannedShards& shards = bound.at(k);
  const auto done = enter_core([&](const Poll& poll) { return shards.write(k, out_path, threads, check_mtime, poll); });
  return py::make_tuple(done.samples, done.members, done.payload_bytes, done.tar_bytes);
}

py::bytes first_copies(const py::object& uids, const py::object& ids, const py::object& multiplicity) {
  const Items<Uid> uid(uids, "uids");
  const Items<std::uint64_t> id(ids, "ids");
  const Items<std::uint64_t> count(multiplicity, "multiplicity");
  if (uid.span().size() != id.span().size() || id.span().size() != count.span().size()) {
    throw py::value_error("uids, ids and multiplicity must have one length");
  }
  return bytes_of(enter_core([&](const Poll&) {
    std::vector<RowCopies> rows;
    for (std::size_t i = 0; i < uid.span().size(); ++i) rows.push_back({uid.span()[i], id.span()[i], count.span()[i]});
    return dcfast::first_copies(std::move(rows));
  }));
}

/// Rows of (n,) u64 whose uid stands in the subset, and how often.
py::tuple select_rows(const py::object& uids, const py::object& rows, const py::object& subset) {
  const Items<Uid> uid(uids, "uids");
  const Items<std::uint64_t> row(rows, "rows");
  const Items<Uid> sorted(subset, "subset");
  if (uid.span().size() != row.span().size()) throw py::value_error("uids and rows must have one length");
  SelectedRows selected;
  selected.uid.assign(uid.span().begin(), uid.span().end());
  selected.row.assign(row.span().begin(), row.span().end());
  enter_core([&](const Poll& poll) { dcfast::select_rows(sorted.span(), selected, 0, poll); });
  return py::make_tuple(own(std::move(selected.row)), own(std::move(selected.multiplicity)));
}

py::tuple shuffled_places(const py::object& rows, std::uint64_t seed, std::uint64_t first, std::uint64_t count) {
  const Items<std::uint64_t> ids(rows, "rows");
  ShuffledPlaces places = enter_core([&](const Poll&) { return dcfast::shuffled_places(ids.span(), seed, first, count); });
  return py::make_tuple(own(std::move(places.row_id)), own(std::move(places.copy)), own(std::move(places.place)));
}

}  // namespace

void bind_reshard(py::module_& m) {
  py::class_<UidFile>(m, "UidFile", py::buffer_protocol())
      .def(py::init([](const std::string& path, bool check) {
             return enter_core([&](const Poll& poll) { return std::make_unique<UidFile>(path, check, poll); });
           }),
           py::arg("path"), py::arg("check"))
      .def("__len__", [](const UidFile& file) { return file.uids().size(); })
      .def_buffer([](UidFile& file) {
        const auto bytes = std::as_bytes(file.uids());
        return py::buffer_info(const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(bytes.data())),
                               static_cast<py::ssize_t>(bytes.size()), true);
      });
  m.def("plan_reshard", &plan_reshard, py::arg("segments"), py::arg("subset"), py::kw_only(), py::arg("shard_size"),
        py::arg("max_bytes"), py::arg("first_shard"), py::arg("num_shards"), py::arg("exclude"), py::arg("repeated"),
        py::arg("shuffled"), py::arg("rows_at_once"), py::arg("threads") = 0);
  py::class_<BoundShards>(m, "PlannedShards")
      .def(py::init<const py::list&, const py::object&, const py::object&, const py::object&, const py::object&, const py::object&,
                    std::optional<std::uint64_t>, std::vector<std::uint64_t>, std::string, std::uint64_t, std::optional<std::uint64_t>,
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
  py::class_<ShardCutter>(m, "ShardCutter")
      .def(py::init<std::uint64_t, std::uint64_t>(), py::arg("shard_size"), py::arg("max_bytes"))
      .def("add", [](ShardCutter& cutter, std::uint32_t segment, const py::object& rows, const py::object& multiplicity,
                     const py::object& payload, const py::object& members, const py::object& tar) {
        const Items<std::uint64_t> row(rows, "rows"), count(multiplicity, "multiplicity"), payload_bytes(payload, "payload"),
            member_count(members, "members"), tar_bytes(tar, "tar");
        for (const auto* column : {&count, &payload_bytes, &member_count, &tar_bytes}) {
          if (column->span().size() != row.span().size()) throw py::value_error("the columns must have one length");
        }
        for (std::size_t i = 0; i < row.span().size(); ++i) {
          cutter.add(segment, row.span()[i], count.span()[i], {member_count.span()[i], payload_bytes.span()[i], tar_bytes.span()[i]});
        }
      }, py::arg("segment"), py::arg("rows"), py::arg("multiplicity"), py::arg("payload"), py::arg("members"), py::arg("tar"))
      .def("finish", [](ShardCutter& cutter) { return bytes_of(std::move(cutter).finish()); });
  m.def("first_copies", &first_copies, py::arg("uids"), py::arg("ids"), py::arg("multiplicity"));
  m.def("select_rows", &select_rows, py::arg("uids"), py::arg("rows"), py::arg("subset"));
  m.def("repeated_uids", [](const py::object& records) {
    const Items<UidRecord> items(records, "records");
    return own(enter_core([&](const Poll&) { return dcfast::repeated_uids(items.span()); }));
  }, py::arg("records"));
  m.def("shuffled_places", &shuffled_places, py::arg("rows"), py::arg("seed"), py::arg("first"), py::arg("count"));
  m.def("write_shard", &write_shard, py::arg("out_path"), py::arg("sources"), py::arg("source_size"), py::arg("source_mtime_ns"),
        py::arg("source"), py::arg("offset"), py::arg("size"), py::arg("names"), py::arg("name_begin"), py::kw_only(),
        py::arg("hash_payloads") = false, py::arg("window_bytes") = WriteShardOptions{}.window_bytes,
        py::arg("max_open_sources") = WriteShardOptions{}.max_open_sources, py::arg("threads") = 1);
  m.def("sample_member_names", &sample_member_names, py::arg("uid"), py::arg("copy"), py::arg("member_sample"),
        py::arg("member_ext"), py::arg("exts"));
  m.def("tar_member_header", &tar_member_header, py::arg("name"), py::arg("size"));
}

}  // namespace dcfast::bindings
