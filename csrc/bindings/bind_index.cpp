// dcfast._core.index: write_segment, TarSegment (a mapped segment). dcfast.index is the public face.
#include <cstring>

#include "bindings/boundary.hpp"
#include "core/index/range_reader.hpp"
#include "core/index/tar_segment_format.hpp"
#include "core/index/wds2idx.hpp"
#include "core/uids/uid_set.hpp"

namespace dcfast::bindings {

namespace {

using Shared = std::shared_ptr<SegmentFile>;

/// A read-only view of a column; its base keeps the mapping alive.
template <typename T, Section section>
Array<T> column(const Shared& segment) {
  static_assert(segment_format::section_info[static_cast<std::size_t>(section)].item_size == sizeof(T));
  const auto values = segment->column<T>(section);
  py::capsule base(new Shared(segment), [](void* p) { delete static_cast<Shared*>(p); });
  py::array out(dtype_of<T>(), {static_cast<py::ssize_t>(values.size())}, {static_cast<py::ssize_t>(sizeof(T))},
                values.data(), base);
  py::detail::array_proxy(out.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return Array<T>(out);
}

void check_range(std::uint64_t first, std::uint64_t last, std::uint64_t size, const char* what) {
  if (first > last || last > size) {
    throw py::index_error(cat(what, " [", first, ", ", last, ") out of range: there are ", size));
  }
}

/// (offset, size, extension)
std::tuple<Array<std::uint64_t>, Array<std::uint64_t>, Array<std::uint32_t>> unpack(const Shared& segment, std::uint64_t first, std::uint64_t last) {
  check_range(first, last, segment->num_samples(), "samples");
  MemberColumns members;
  enter_core([&](const Poll&) { segment->unpack(first, last, members); });
  return {own(std::move(members.offset)), own(std::move(members.size)), own(std::move(members.ext))};
}

/// Strings [first, last) of a table as Arrow's offsets and UTF-8 text; bytes that are not UTF-8 become \xNN.
using ArrowStrings = std::tuple<Array<std::int64_t>, Array<std::uint8_t>>;

ArrowStrings strings(const Shared& segment, Section begin, Section text, std::uint64_t first, std::uint64_t last, std::uint64_t size) {
  check_range(first, last, size, "strings");
  std::vector<std::int64_t> offsets{0};
  std::string out;
  enter_core([&](const Poll&) {
    offsets.reserve(last - first + 1);
    for (std::uint64_t i = first; i < last; ++i) {
      append_utf8(out, segment->text(begin, text, i));
      offsets.push_back(static_cast<std::int64_t>(out.size()));
    }
  });
  return {own(std::move(offsets)), own_as<std::uint8_t>(std::move(out))};
}

/// Regular members of shards [first, last): shard numbers, Arrow string columns of names, offsets and sizes.
std::tuple<Array<std::int64_t>, Array<std::int64_t>, Array<std::uint8_t>, Array<std::uint64_t>, Array<std::uint64_t>> member_table(
    const Shared& segment, std::uint64_t first, std::uint64_t last) {
  check_range(first, last, segment->num_shards(), "shards");
  std::vector<std::int64_t> shard;
  std::vector<std::int64_t> name_begin{0};
  std::string names;
  std::vector<std::uint64_t> offset;
  std::vector<std::uint64_t> size;
  enter_core([&](const Poll& poll) {
    std::string raw;
    for (std::uint64_t s = first; s < last; ++s) {
      poll();
      for (const auto& row : segment->regular_members(s)) {
        raw.clear();
        segment->append_name(row, raw);
        append_utf8(names, raw);
        name_begin.push_back(static_cast<std::int64_t>(names.size()));
        shard.push_back(static_cast<std::int64_t>(s));
        offset.push_back(row.offset);
        size.push_back(row.size);
      }
    }
  });
  return {own(std::move(shard)), own(std::move(name_begin)), own_as<std::uint8_t>(std::move(names)), own(std::move(offset)),
          own(std::move(size))};
}

/// 32 hexadecimal digits a sample, end to end.
Array<std::uint8_t> uid_hex(const Shared& segment) {
  std::string out(32 * segment->num_samples(), '0');
  enter_core([&](const Poll& poll) { format_uids(segment->column<Uid>(Section::uid), out, 1, poll); });
  return own_as<std::uint8_t>(std::move(out));
}

/// A dcfast.storage.remote.RangeSource: open() -> (size, mtime_ns), read(offset, length) -> buffer or None (not the
/// object any more) and finish() -> str. Its methods are called from any thread, one at a time, with the GIL held.
class PythonRanges final : public RangeSource {
 public:
  explicit PythonRanges(py::handle object) : object_(object) {}

  FileVersion open() override {
    const py::gil_scoped_acquire gil;
    const auto [size, mtime_ns] = object_.attr("open")().cast<std::pair<std::uint64_t, std::int64_t>>();
    return {size, mtime_ns};
  }
  std::size_t fetch(std::span<std::byte> out, std::uint64_t offset) override {
    const py::gil_scoped_acquire gil;
    const py::object got = object_.attr("read")(offset, out.size());
    if (got.is_none()) return 0;
    const py::buffer_info bytes = py::buffer(got).request();
    const auto n = static_cast<std::size_t>(bytes.size * bytes.itemsize);
    if (n > out.size()) throw py::value_error("read: more bytes than were asked for");
    std::memcpy(out.data(), bytes.ptr, n);
    return n;
  }
  std::string finish() override {
    const py::gil_scoped_acquire gil;
    return object_.attr("finish")().cast<std::string>();
  }

 private:
  py::handle object_;  // the caller's list of sources keeps it
};

/// Any object, as a source of a shard: index_source looks what it is.
using ShardSource = Hinted<"bytes | tuple[dcfast._core.index.TarSegment, int] | dcfast.storage.remote.RangeSource">;

/// Where a shard's index comes from: a path, a shard of another segment, or ranges.
struct IndexSource {
  std::string path;
  Shared segment;
  std::uint64_t shard = 0;
  py::object ranges;  // touched with the GIL alone
};

IndexSource index_source(const py::handle& given) {
  if (py::isinstance<py::bytes>(given)) return {given.cast<std::string>(), nullptr, 0, {}};
  if (!py::isinstance<py::tuple>(given)) return {{}, nullptr, 0, py::reinterpret_borrow<py::object>(given)};
  const auto [segment, shard] = given.cast<std::pair<Shared, std::uint64_t>>();
  check_range(shard, shard + 1, segment->num_shards(), "shards");
  return {{}, segment, shard, {}};
}

UidFrom uid_rule(const std::string& name) {
  if (name == "json") return UidFrom::json;
  if (name == "url") return UidFrom::url;
  if (name == "key") return UidFrom::key;
  throw py::value_error(cat("uid_from must be json, url or key; got '", name, "'"));
}

SegmentStats write(const std::vector<std::pair<ShardSource, RawText>>& shards, const RawText& out_path, bool read_uid,
                   bool read_image_size, unsigned threads, std::size_t window_bytes, const std::string& uid_from) {
  std::vector<IndexSource> sources;
  std::vector<std::string> names;
  sources.reserve(shards.size());
  names.reserve(shards.size());
  for (const auto& [source, name] : shards) {
    sources.push_back(index_source(source));
    names.push_back(name);
  }
  const UidFrom rule = uid_rule(uid_from);
  const bool by_key = read_uid && rule == UidFrom::key;
  const IndexOptions options{read_uid && !by_key, read_image_size, rule};
  const auto index_shard = [&](std::size_t i) {
    const IndexSource& source = sources[i];
    if (source.segment) return source.segment->shard_index(source.shard);
    ShardIndex shard;
    if (!source.ranges) {
      shard = index_tar_file(source.path, options);
    } else {
      PythonRanges ranges(source.ranges);
      shard = index_tar_ranges(ranges, options, window_bytes);
    }
    if (by_key) set_key_uids(shard, names[i]);
    return shard;
  };
  return enter_core([&](const Poll& poll) { return write_segment(names, index_shard, out_path, threads, poll); });
}

/// (shard, offset, whether it is the archive, message) of what may hide samples: the one list for all who use them.
using Loss = std::tuple<std::uint64_t, std::uint64_t, bool, std::string>;

/// (shard, offset, whether it is damage, message)
using Report = std::tuple<std::uint64_t, std::uint64_t, bool, std::string>;

Report as_tuple(const ShardReport& r) { return {r.shard, r.report.offset, r.report.damage, r.report.message}; }

std::vector<Report> reports_of(const SegmentStats& stats) {
  std::vector<Report> out;
  for (const ShardReport& report : stats.reports) out.push_back(as_tuple(report));
  return out;
}

std::vector<Report> stored_reports(const Shared& segment) {
  std::vector<Report> out;
  for (std::uint64_t i = 0; i < segment->num_reports(); ++i) out.push_back(as_tuple(segment->report(i)));
  return out;
}

std::vector<Loss> losses_of(const Shared& segment) {
  std::vector<Loss> out;
  for (auto& [shard, offset, damage, message] : stored_reports(segment)) {
    const SampleLoss loss = sample_loss(damage, message);
    if (loss != SampleLoss::none) out.emplace_back(shard, offset, loss == SampleLoss::archive, std::move(message));
  }
  return out;
}

/// The `size` strings of a table, byte for byte.
py::typing::List<py::bytes> raw_strings(const Shared& segment, Section begin, Section text, std::uint64_t size) {
  py::typing::List<py::bytes> out;
  for (std::uint64_t i = 0; i < size; ++i) out.append(py::bytes(std::string(segment->text(begin, text, i))));
  return out;
}

}  // namespace

void bind_index(py::module_& m) {
  py::class_<SegmentStats>(m, "SegmentStats", "What write_segment did.")
      .def_readonly("num_shards", &SegmentStats::num_shards)
      .def_readonly("num_samples", &SegmentStats::num_samples)
      .def_readonly("num_members", &SegmentStats::num_members)
      .def_readonly("num_strays", &SegmentStats::num_strays)
      .def_readonly("tar_bytes", &SegmentStats::tar_bytes)
      .def_property_readonly("flag_counts", [](const SegmentStats& s) {
        return std::vector<std::uint64_t>(s.flag_counts.begin(), s.flag_counts.end());
      }, "Samples with bit i of their flags.")
      .def_property_readonly("reports", &reports_of, "(shard, offset, whether it is damage, message) of each.");
  py::class_<SegmentFile, Shared>(m, "TarSegment", "A mapped segment; its columns are read-only views of the map.")
      .def(py::init([](const RawText& path, bool verify) {
        return enter_core([&](const Poll&) { return std::make_shared<SegmentFile>(path, verify); });
      }), "path"_a, "verify"_a)
      .def_property_readonly("num_shards", &SegmentFile::num_shards)
      .def_property_readonly("num_samples", &SegmentFile::num_samples)
      .def_property_readonly("num_members", &SegmentFile::num_members)
      .def_property_readonly("num_strays", &SegmentFile::num_strays)
      .def_property_readonly("num_exts", &SegmentFile::num_exts)
      .def_property_readonly("shard_size", &column<std::uint64_t, Section::shard_size>)
      .def_property_readonly("shard_mtime_ns", &column<std::int64_t, Section::shard_mtime_ns>)
      .def_property_readonly("sample_begin", &column<std::uint64_t, Section::sample_begin>)
      .def_property_readonly("stray_begin", &column<std::uint64_t, Section::stray_begin>)
      .def_property_readonly("uid", &column<Uid, Section::uid>)
      .def_property_readonly("base", &column<std::uint64_t, Section::base>)
      .def_property_readonly("member_begin", &column<std::uint32_t, Section::member_begin>)
      .def_property_readonly("flags", &column<std::uint16_t, Section::flags>)
      .def_property_readonly("width", &column<std::uint32_t, Section::width>)
      .def_property_readonly("height", &column<std::uint32_t, Section::height>)
      .def_property_readonly("stray_offset", &column<std::uint64_t, Section::stray_offset>)
      .def_property_readonly("stray_size", &column<std::uint64_t, Section::stray_size>)
      .def_property_readonly("stray_kind", &column<std::uint8_t, Section::stray_kind>)
      .def("unpack", &unpack, "first"_a, "last"_a, "(offset, size, extension) of the samples' members.")
      .def("image_members", [](const Shared& s) {
        return own(enter_core([&](const Poll&) { return s->image_members(); }));
      }, "Index of each sample's image among the members, or -1.")
      .def("wds2idx", [](const Shared& s, std::uint64_t shard) {
        check_range(shard, shard + 1, s->num_shards(), "shards");
        return py::bytes(enter_core([&](const Poll&) { return wds2idx_text(*s, shard); }));
      }, "shard"_a, "DALI's index of a shard.")
      .def("uid_hex", &uid_hex, "32 hexadecimal digits a sample, end to end.")
      .def("member_table", &member_table, "first_shard"_a, "last_shard"_a, "(shard, begin of name, names, offset, size) of the regular members.")
      .def("keys", [](const Shared& s, std::uint64_t first, std::uint64_t last) {
        return strings(s, Section::key_begin, Section::keys, first, last, s->num_samples());
      }, "first"_a, "last"_a, "(begin, text) of the samples' keys.")
      .def("stray_names", [](const Shared& s) {
        return strings(s, Section::stray_name_begin, Section::stray_names, 0, s->num_strays(), s->num_strays());
      }, "(begin, text) of the strays' names.")
      .def("exts", [](const Shared& s) { return raw_strings(s, Section::ext_begin, Section::exts, s->num_exts()); })
      .def("shard_names", [](const Shared& s) { return raw_strings(s, Section::shard_name_begin, Section::shard_names, s->num_shards()); })
      .def("reports", &stored_reports, "(shard, offset, whether it is damage, message) of each.")
      .def("losses", &losses_of, "(shard, offset, whether a part of the archive was not read, message) of each report that may hide samples.");
  m.def("image_exts", [] {
    const std::vector<std::string_view> exts = image_exts();
    return std::vector<std::string>(exts.begin(), exts.end());
  }, "The last dotted parts, in lower case, of the extensions that images have.");
  m.def("write_segment", &write, "shards"_a, "out_path"_a, "read_uid"_a, "read_image_size"_a, "threads"_a, "window_bytes"_a,
        "uid_from"_a = "json", "Indexes (source, name) of each shard. A source is a path, a shard of another segment, or ranges.");
}

}  // namespace dcfast::bindings
