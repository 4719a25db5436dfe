// dcfast._core.reshard: the plan of a reshard, output shards, and the keyed permutation. dcfast.resharding is the public
// face.
#include <variant>

#include "bindings/boundary.hpp"
#include "core/reshard/permutation.hpp"
#include "core/reshard/reshard_contents.hpp"
#include "core/uids/npy.hpp"

namespace dcfast::bindings {
namespace {

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

}  // namespace pybind11::detail

namespace dcfast::bindings {
namespace {

using Shared = std::shared_ptr<SegmentFile>;
/// The bytes of a path, or an open segment.
using SegmentItem = std::variant<py::bytes, Shared>;
using Subset = Buffer<Uid, "subset">;
using Rows = Buffer<std::uint64_t, "rows">;

/// The bytes of the tar.
std::uint64_t write_shard(
    const RawText& out_path, const std::vector<RawText>& sources,
    const Input<std::uint64_t, "source_size">& source_size,
    const Input<std::int64_t, "source_mtime_ns">& source_mtime_ns, const Input<std::uint32_t, "source">& source,
    const Input<std::uint64_t, "offset">& offset, const Input<std::uint64_t, "size">& size,
    const Input<std::uint8_t, "names">& names, const Input<std::uint64_t, "name_begin">& name_begin,
    std::size_t window_bytes, std::size_t max_open_sources, unsigned threads) {
  const auto sizes = source_size.view;
  const auto mtimes = source_mtime_ns.view;
  if (!sizes.empty() && sizes.size() != sources.size()) throw py::value_error("source_size must be empty or one entry per source");
  if (!mtimes.empty() && mtimes.size() != sources.size()) throw py::value_error("source_mtime_ns must be empty or one entry per source");
  std::vector<CopySource> files;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    files.push_back({sources[i], sizes.empty() ? std::nullopt : std::optional(sizes[i]),
                     mtimes.empty() ? std::nullopt : std::optional(mtimes[i])});
  }
  const ShardMembers members{source.view, offset.view, size.view, names.view, name_begin.view};
  const WriteShardOptions options{window_bytes, max_open_sources, threads};
  return enter_core([&](const Poll& poll) { return dcfast::write_shard(out_path, files, members, options, poll); });
}

Array<std::uint64_t> permuted(std::uint64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t count, std::uint64_t stride) {
  if (stride == 0) throw py::value_error("stride must be at least 1");
  if (count > 0 && (first >= n || (n - 1 - first) / stride < count - 1)) throw py::value_error("places must be below n");
  std::vector<std::uint64_t> out(count);
  enter_core([&](const Poll&) {
    const Permutation permutation(n, seed);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = permutation(first + i * stride);
  });
  return own(std::move(out));
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
    uids_ = {reinterpret_cast<const Uid*>(bytes.data() + info.data_offset), info.count};
    if (check && first_unsorted(uids_, 0, poll) < uids_.size()) throw Error(Code::corrupt_data, "the uids are not sorted", path);
  }
  std::span<const Uid> uids() const noexcept { return uids_; }

 private:
  MappedFile file_;
  std::span<const Uid> uids_;
};

/// Index segments, each a path or an open one.
class Segments {
 public:
  explicit Segments(const std::vector<SegmentItem>& items) {
    for (const SegmentItem& item : items) {
      const auto* const path = std::get_if<py::bytes>(&item);
      paths_.push_back(path != nullptr ? std::string(*path) : std::string());
      open_.push_back(path != nullptr ? nullptr : std::get<Shared>(item));
    }
  }
  std::size_t size() const noexcept { return paths_.size(); }
  std::shared_ptr<const SegmentFile> open(std::size_t i, bool verify) const {
    return open_.at(i) ? open_[i] : std::make_shared<SegmentFile>(paths_[i], verify);
  }

 private:
  std::vector<std::string> paths_;
  std::vector<Shared> open_;
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

/// The options that plan and contents share. Excluded rows are looked up by halves.
ReshardSelection selection_of(const Subset& subset, const Buffer<std::uint64_t, "exclude">& exclude, std::uint64_t first_shard,
                              std::optional<std::uint64_t> num_shards) {
  if (!std::ranges::is_sorted(exclude.view)) throw py::value_error("exclude must be sorted");
  return {subset.view, exclude.view, first_shard, num_shards};
}

/// `shuffled` writes the row ids somewhere.
ReshardPlan plan_reshard(const std::vector<SegmentItem>& segments, const Subset& subset, std::uint64_t shard_size,
                         std::uint64_t max_bytes, std::uint64_t first_shard, std::optional<std::uint64_t> num_shards,
                         const Buffer<std::uint64_t, "exclude">& exclude, const Buffer<Uid, "repeated">& repeated,
                         const std::optional<Write>& shuffled, std::uint64_t rows_at_once, unsigned threads) {
  const Segments opened(segments);
  ReshardPlanner::Options options;
  options.shard_size = shard_size;
  options.max_bytes = max_bytes;
  options.selection = selection_of(subset, exclude, first_shard, num_shards);
  if (repeated.held) options.repeated = repeated.view;
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
  for (const auto& [shard, offset, archive, message] : plan.damage) out.emplace_back(py::bytes(shard), offset, archive, message);
  return out;
}

/// PlannedShards and what it borrows.
class BoundShards {
 public:
  BoundShards(const std::vector<SegmentItem>& segments, const Subset& subset, const Buffer<ReshardCut, "cuts">& cuts,
              const Buffer<RowRepeat, "repeats">& repeats, const Buffer<std::uint64_t, "exclude">& exclude, const Rows& rows,
              std::optional<std::uint64_t> shuffle_seed, std::vector<std::uint64_t> segment_first, RawText shards_dir,
              std::uint64_t first_shard, std::optional<std::uint64_t> num_shards, std::size_t keep, std::uint64_t rows_at_once)
      : segments_(segments), borrowed_(subset, cuts, repeats, exclude, rows),
        shards_({cuts.view, repeats.view, rows.view, shuffle_seed, std::move(segment_first), std::move(shards_dir),
                 selection_of(subset, exclude, first_shard, num_shards), rows_at_once},
                [this](std::size_t i) { return segments_.open(i, false); }, keep) {}

  const PlannedShards& at(std::size_t k) const {
    if (k >= shards_.size()) throw py::index_error("no such output shard");
    return shards_;
  }

 private:
  Segments segments_;
  std::tuple<Subset, Buffer<ReshardCut, "cuts">, Buffer<RowRepeat, "repeats">, Buffer<std::uint64_t, "exclude">, Rows> borrowed_;
  PlannedShards shards_;
};

/// The fields of ShardContents, in order.
using Contents = std::tuple<Array<Uid>, Array<std::uint64_t>, Array<std::uint32_t>, std::vector<py::str>, Array<std::uint64_t>,
                            Array<std::int64_t>, Array<std::uint32_t>, Array<std::uint64_t>, Array<std::uint64_t>, Array<std::uint8_t>,
                            Array<std::uint64_t>>;

Contents contents_of(const BoundShards& bound, std::size_t k, bool check) {
  const PlannedShards& shards = bound.at(k);
  ShardContents shard = enter_core([&](const Poll& poll) {
    ShardContents contents = shards.contents(k, poll);
    if (check) shards.check_planned(k, contents);
    return contents;
  });
  std::vector<py::str> sources;
  for (const std::string& path : shard.sources) {
    PyObject* const decoded = PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<py::ssize_t>(path.size()));
    if (decoded == nullptr) throw py::error_already_set();
    sources.push_back(py::reinterpret_steal<py::str>(decoded));
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
      }), "path"_a, "check"_a)
      .def("__len__", [](const UidFile& file) { return file.uids().size(); })
      .def("view", [](const py::object& file) { return py::memoryview(file); })
      .def_buffer([](UidFile& file) { return buffer_of(std::as_bytes(file.uids())); });
  py::class_<ReshardPlan>(m, "ReshardPlan")
      .def_property_readonly("cuts", [](const ReshardPlan& plan) { return bytes_of(plan.cuts); })
      .def_property_readonly("repeats", [](const ReshardPlan& plan) { return bytes_of(plan.repeats); })
      .def_property_readonly("counts", &counts_of)
      .def_property_readonly("segment_first", [](const ReshardPlan& plan) { return plan.segment_first; })
      .def_property_readonly("chosen_shards", [](const ReshardPlan& plan) { return plan.chosen_shards; })
      .def_property_readonly("numbers", [](const ReshardPlan& plan) { return std::pair(plan.lowest_number, plan.highest_number); })
      .def_property_readonly("damage", &damage_of)
      .def_property_readonly("inputs", [](const ReshardPlan& plan) { return std::pair(plan.inputs.hi, plan.inputs.lo); });
  m.def("plan_reshard", &plan_reshard, "segments"_a, "subset"_a, py::kw_only(), "shard_size"_a, "max_bytes"_a, "first_shard"_a,
        "num_shards"_a, "exclude"_a, "repeated"_a, "shuffled"_a, "rows_at_once"_a, "threads"_a = 0);
  py::class_<BoundShards>(m, "PlannedShards")
      .def(py::init<const std::vector<SegmentItem>&, const Subset&, const Buffer<ReshardCut, "cuts">&,
                    const Buffer<RowRepeat, "repeats">&, const Buffer<std::uint64_t, "exclude">&, const Rows&,
                    std::optional<std::uint64_t>, std::vector<std::uint64_t>, RawText, std::uint64_t,
                    std::optional<std::uint64_t>, std::size_t, std::uint64_t>(),
           "segments"_a, "subset"_a, py::kw_only(), "cuts"_a, "repeats"_a, "exclude"_a, "rows"_a, "shuffle_seed"_a,
           "segment_first"_a, "shards_dir"_a, "first_shard"_a, "num_shards"_a, "keep"_a, "rows_at_once"_a)
      .def("contents", &contents_of, "k"_a, py::kw_only(), "check"_a = false)
      .def("row_ids", [](const BoundShards& bound, std::size_t k) {
        const PlannedShards& shards = bound.at(k);
        return own(enter_core([&](const Poll& poll) { return shards.row_ids(k, poll); }));
      }, "k"_a)
      .def("write", &write_planned, "k"_a, "out_path"_a, py::kw_only(), "threads"_a, "check_mtime"_a);
  m.def("repeated_uids", [](const Buffer<UidRecord, "records">& records) {
    return own(enter_core([&](const Poll&) { return dcfast::repeated_uids(records.view); }));
  }, "records"_a);
  m.def("permuted", &permuted, "n"_a, "seed"_a, "first"_a, "count"_a, "stride"_a = 1);
  m.def("write_shard", &write_shard, "out_path"_a, "sources"_a, "source_size"_a, "source_mtime_ns"_a, "source"_a, "offset"_a, "size"_a,
        "names"_a, "name_begin"_a, py::kw_only(), "window_bytes"_a = WriteShardOptions{}.window_bytes,
        "max_open_sources"_a = WriteShardOptions{}.max_open_sources, "threads"_a = 1);
  m.def("tar_member_header", [](const RawText& name, std::uint64_t size) { return bytes_of(tar_member_header(name, size)); }, "name"_a,
        "size"_a);
}

}  // namespace dcfast::bindings
