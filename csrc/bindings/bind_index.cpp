// dcfast._core: write_segment, TarSegment (a mapped segment), image_size. dcfast.index.build is the public face.
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/boundary.hpp"
#include "core/images/image_header.hpp"
#include "core/index/range_reader.hpp"
#include "core/index/tar_segment.hpp"
#include "core/index/wds2idx.hpp"

namespace dcfast::bindings {

namespace {

using Shared = std::shared_ptr<SegmentFile>;

constexpr auto num_sections = static_cast<std::uint32_t>(Section::count);

py::array own_text(std::string&& text) {
  auto holder = std::make_unique<std::string>(std::move(text));
  auto* data = reinterpret_cast<std::uint8_t*>(holder->data());
  const auto size = static_cast<py::ssize_t>(holder->size());
  py::capsule base(holder.get(), [](void* p) { delete static_cast<std::string*>(p); });
  holder.release();
  return py::array(py::dtype::of<std::uint8_t>(), {size}, {py::ssize_t{1}}, data, base);
}

/// A read-only view of a column; its base keeps the mapping alive.
template <typename T>
py::array view(const Shared& segment, Section section) {
  const auto values = segment->column<T>(section);
  py::capsule base(new Shared(segment), [](void* p) { delete static_cast<Shared*>(p); });
  py::array out(dtype_of<T>(), {static_cast<py::ssize_t>(values.size())}, {static_cast<py::ssize_t>(sizeof(T))},
                values.data(), base);
  py::detail::array_proxy(out.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return out;
}

py::array column(const Shared& segment, const std::string& name) {
  for (std::uint32_t i = 0; i < num_sections; ++i) {
    const auto section = static_cast<Section>(i);
    if (name != section_name(section)) continue;
    if (section == Section::uid) return view<Uid>(segment, section);
    if (section == Section::shard_mtime_ns) return view<std::int64_t>(segment, section);
    switch (section_item_size(section)) {
      case 2: return view<std::uint16_t>(segment, section);
      case 4: return view<std::uint32_t>(segment, section);
      case 8: return view<std::uint64_t>(segment, section);
      default: return view<std::uint8_t>(segment, section);
    }
  }
  throw py::value_error("a segment has no section '" + name + "'");
}

void check_range(std::uint64_t first, std::uint64_t last, std::uint64_t size, const char* what) {
  if (first > last || last > size) {
    throw py::index_error(std::string(what) + " [" + std::to_string(first) + ", " + std::to_string(last) + ") out of range: there are " +
                          std::to_string(size));
  }
}

py::tuple unpack(const Shared& segment, std::uint64_t first, std::uint64_t last) {
  check_range(first, last, segment->num_samples(), "samples");
  std::vector<std::uint64_t> offset;
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> ext;
  enter_core([&](const Poll&) {
    const auto n = static_cast<std::size_t>(segment->num_members_of(first, last));
    offset.resize(n);
    size.resize(n);
    ext.resize(n);
    segment->unpack(first, last, offset, size, ext);
  });
  return py::make_tuple(own(std::move(offset)), own(std::move(size)), own(std::move(ext)));
}

py::array image_members(const Shared& segment) {
  return own(enter_core([&](const Poll&) { return segment->image_members(0, segment->num_samples()); }));
}

/// Strings [first, last) of a table as Arrow's offsets and UTF-8 text; bytes that are not UTF-8 become \xNN.
py::tuple strings(const Shared& segment, Section begin, Section text, std::uint64_t first, std::uint64_t last, std::uint64_t size) {
  check_range(first, last, size, "strings");
  std::vector<std::int64_t> offsets{0};
  std::string out;
  enter_core([&](const Poll&) {
    offsets.reserve(static_cast<std::size_t>(last - first) + 1);
    for (std::uint64_t i = first; i < last; ++i) {
      append_utf8(out, segment->text(begin, text, i));
      offsets.push_back(static_cast<std::int64_t>(out.size()));
    }
  });
  return py::make_tuple(own(std::move(offsets)), own_text(std::move(out)));
}

/// Regular members of shards [first, last): shard numbers, Arrow string columns of names, offsets and sizes.
py::tuple member_table(const Shared& segment, std::uint64_t first, std::uint64_t last) {
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
  return py::make_tuple(own(std::move(shard)), own(std::move(name_begin)), own_text(std::move(names)), own(std::move(offset)),
                        own(std::move(size)));
}

/// 32 hexadecimal digits a sample, end to end.
py::array uid_hex(const Shared& segment) {
  std::string out;
  enter_core([&](const Poll&) {
    const auto uids = segment->column<Uid>(Section::uid);
    out.resize(32 * uids.size());
    char* at = out.data();
    for (const Uid& uid : uids) {
      for (const std::uint64_t half : {uid.hi, uid.lo}) {
        for (int shift = 60; shift >= 0; shift -= 4) *at++ = "0123456789abcdef"[half >> shift & 15];
      }
    }
  });
  return own_text(std::move(out));
}

/// A Python object with open() -> (size, mtime_ns), read(offset, length) -> buffer or None (not the object any more)
/// and finish() -> str. Its methods are called from any thread, one at a time, with the GIL held.
class PythonRanges final : public RangeSource {
 public:
  explicit PythonRanges(py::handle object) : object_(object) {}

  State open() override {
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

py::dict write(const py::list& shards, const std::string& out_path, bool read_uid, bool read_image_size, unsigned threads,
               std::size_t window_bytes) {
  std::vector<IndexSource> sources;
  std::vector<std::string> names;
  sources.reserve(shards.size());
  names.reserve(shards.size());
  for (const py::handle& item : shards) {
    const auto pair = item.cast<std::pair<py::object, std::string>>();
    sources.push_back(index_source(pair.first));
    names.push_back(pair.second);
  }
  const IndexOptions options{read_uid, read_image_size};
  const auto index_shard = [&](std::size_t i) {
    const IndexSource& source = sources[i];
    if (source.segment) return source.segment->shard_index(source.shard);
    if (!source.ranges) return index_tar_file(source.path, options);
    PythonRanges ranges(source.ranges);
    return index_tar_ranges(ranges, options, window_bytes);
  };
  const SegmentStats stats =
      enter_core([&](const Poll& poll) { return write_segment(names, index_shard, out_path, threads, poll); });
  py::list reports;
  for (const auto& r : stats.reports) reports.append(py::make_tuple(r.shard, r.report.offset, r.report.damage, r.report.message));
  py::dict out;
  out["num_shards"] = stats.num_shards;
  out["num_samples"] = stats.num_samples;
  out["num_members"] = stats.num_members;
  out["num_strays"] = stats.num_strays;
  out["tar_bytes"] = stats.tar_bytes;
  out["flag_counts"] = stats.flag_counts;
  out["reports"] = reports;
  return out;
}

}  // namespace

void bind_tar_index(py::module_& m) {
  m.def("write_segment", &write, py::arg("shards"), py::arg("out_path"), py::arg("read_uid"), py::arg("read_image_size"),
        py::arg("threads"), py::arg("window_bytes"));
  m.def(
      "image_size",
      [](const py::bytes& data) {
        const std::string_view text(data);
        const ImageSize size = read_image_size(std::as_bytes(std::span(text.data(), text.size())));
        return py::make_tuple(size.width, size.height);
      },
      py::arg("data"));
  py::class_<SegmentFile, Shared>(m, "TarSegment")
      .def(py::init([](const std::string& path, bool verify) {
             return enter_core([&](const Poll&) { return std::make_shared<SegmentFile>(path, verify); });
           }),
           py::arg("path"), py::arg("verify"))
      .def_property_readonly("num_shards", &SegmentFile::num_shards)
      .def_property_readonly("num_samples", &SegmentFile::num_samples)
      .def_property_readonly("num_members", &SegmentFile::num_members)
      .def_property_readonly("num_strays", &SegmentFile::num_strays)
      .def_property_readonly("num_exts", &SegmentFile::num_exts)
      .def("column", &column, py::arg("name"))
      .def("unpack", &unpack, py::arg("first"), py::arg("last"))
      .def("picture_members", &image_members)
      .def(
          "wds2idx",
          [](const Shared& s, std::uint64_t shard) {
            check_range(shard, shard + 1, s->num_shards(), "shards");
            return py::bytes(enter_core([&](const Poll&) { return wds2idx_text(*s, shard); }));
          },
          py::arg("shard"))
      .def("uid_hex", &uid_hex)
      .def("member_table", &member_table, py::arg("first_shard"), py::arg("last_shard"))
      .def(
          "keys",
          [](const Shared& s, std::uint64_t first, std::uint64_t last) {
            return strings(s, Section::key_begin, Section::keys, first, last, s->num_samples());
          },
          py::arg("first"), py::arg("last"))
      .def("stray_names",
           [](const Shared& s) { return strings(s, Section::stray_name_begin, Section::stray_names, 0, s->num_strays(), s->num_strays()); })
      .def("exts", [](const Shared& s) {
        py::list out;
        for (std::uint64_t i = 0; i < s->num_exts(); ++i) out.append(py::bytes(std::string(s->text(Section::ext_begin, Section::exts, i))));
        return out;
      })
      .def("shard_names", [](const Shared& s) {
        py::list out;
        for (std::uint64_t i = 0; i < s->num_shards(); ++i) {
          out.append(py::bytes(std::string(s->text(Section::shard_name_begin, Section::shard_names, i))));
        }
        return out;
      })
      .def("reports", [](const Shared& s) {
        py::list out;
        const auto shard = s->column<std::uint64_t>(Section::report_shard);
        for (std::size_t i = 0; i < shard.size(); ++i) {
          out.append(py::make_tuple(shard[i], s->column<std::uint64_t>(Section::report_offset)[i],
                                    s->column<std::uint8_t>(Section::report_damage)[i] != 0,
                                    std::string(s->text(Section::report_begin, Section::report_text, i))));
        }
        return out;
      });
}

}  // namespace dcfast::bindings
