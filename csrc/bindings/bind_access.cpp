// dcfast._core.access: MemberReader (members of a pool's shards by range), look-ups of samples.
// dcfast.access is the public face.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/boundary.hpp"
#include "core/access/member_read.hpp"

namespace dcfast::bindings {

namespace {

/// An array over memory that is not touched before the core writes to it.
struct Buffer {
  std::unique_ptr<std::byte[]> bytes;
  std::size_t size;
};

Array<std::uint8_t> own_buffer(Buffer&& buffer) {
  auto holder = std::make_unique<Buffer>(std::move(buffer));
  std::byte* data = holder->bytes.get();
  const auto size = static_cast<py::ssize_t>(holder->size);
  py::capsule base(holder.get(), [](void* p) { delete static_cast<Buffer*>(p); });
  holder.release();
  py::array out(py::dtype::of<std::uint8_t>(), {size}, {py::ssize_t{1}}, data, base);
  out.attr("setflags")(py::arg("write") = false);
  return Array<std::uint8_t>(out);
}

std::shared_ptr<ShardFiles> open_reader(std::vector<RawText> roots, const std::vector<RawText>& names, const Array<std::uint32_t>& root,
                                        const Array<std::uint64_t>& size, const Array<std::int64_t>& mtime_ns, std::size_t max_open,
                                        bool follow_links, bool check_mtime) {
  const auto root_of = borrow(root, "root");
  const auto sizes = borrow(size, "size");
  const auto times = borrow(mtime_ns, "mtime_ns");
  if (root_of.size() != names.size() || sizes.size() != names.size() || times.size() != names.size()) {
    throw py::value_error("names, root, size and mtime_ns must have one length");
  }
  std::vector<PoolShard> shards;
  shards.reserve(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) shards.push_back({names[i], root_of[i], sizes[i], times[i]});
  return std::make_shared<ShardFiles>(strings_of(std::move(roots)), std::move(shards), ShardFilesOptions{max_open, follow_links, check_mtime});
}

/// The ranges one after the other: (buffer, (k + 1,) where each begins).
std::tuple<Array<std::uint8_t>, Array<std::uint64_t>> read(const std::shared_ptr<ShardFiles>& files, const Array<std::uint32_t>& shard,
                                                           const Array<std::uint64_t>& offset, const Array<std::uint64_t>& size,
                                                           unsigned threads, std::uint64_t max_gap) {
  const auto shards = borrow(shard, "shard");
  const auto offsets = borrow(offset, "offset");
  const auto sizes = borrow(size, "size");
  std::vector<std::uint64_t> begin(sizes.size() + 1);
  Buffer buffer{nullptr, 0};
  enter_core([&](const Poll& poll) {
    for (std::size_t i = 0; i < sizes.size(); ++i) begin[i + 1] = checked_add(begin[i], sizes[i], "members");
    buffer.size = static_cast<std::size_t>(begin.back());
    buffer.bytes = std::make_unique_for_overwrite<std::byte[]>(buffer.size);
    const std::span<const std::uint64_t> place(begin.data(), sizes.size());
    read_members(*files, {shards, offsets, sizes, place}, {buffer.bytes.get(), buffer.size}, {threads, max_gap}, poll);
  });
  return {own_buffer(std::move(buffer)), own(std::move(begin))};
}

/// (members of each sample, and the offset, size and extension of each member)
using SampleMemberArrays = std::tuple<Array<std::uint32_t>, Array<std::uint64_t>, Array<std::uint64_t>, Array<std::uint32_t>>;

SampleMemberArrays sample_members(const std::shared_ptr<SegmentFile>& segment, const Array<std::uint64_t>& samples,
                                  const Array<std::uint32_t>& slot_of_ext, std::uint32_t num_slots) {
  const auto numbers = borrow(samples, "samples");
  const auto slots = borrow(slot_of_ext, "slot_of_ext");
  SampleMembers found = enter_core([&](const Poll&) { return members_of_samples(*segment, numbers, slots, num_slots); });
  return {own(std::move(found.count)), own(std::move(found.offset)), own(std::move(found.size)), own(std::move(found.ext))};
}

py::typing::List<py::str> sample_keys(const std::shared_ptr<SegmentFile>& segment, const Array<std::uint64_t>& samples) {
  const auto numbers = borrow(samples, "samples");
  py::typing::List<py::str> out;
  for (const std::uint64_t sample : numbers) {
    if (sample >= segment->num_samples()) throw py::index_error("sample " + std::to_string(sample) + " is out of range");
    const std::string_view key = segment->text(Section::key_begin, Section::keys, sample);
    PyObject* text = PyUnicode_DecodeUTF8(key.data(), static_cast<py::ssize_t>(key.size()), "backslashreplace");
    if (text == nullptr) throw py::error_already_set();
    out.append(py::reinterpret_steal<py::object>(text));
  }
  return out;
}

}  // namespace

void bind_access(py::module_& m) {
  py::class_<ShardFiles, std::shared_ptr<ShardFiles>>(m, "MemberReader")
      .def(py::init(&open_reader), py::arg("roots"), py::arg("names"), py::arg("root"), py::arg("size"), py::arg("mtime_ns"),
           py::kw_only(), py::arg("max_open"), py::arg("follow_links"), py::arg("check_mtime"))
      .def("read", &read, py::arg("shard"), py::arg("offset"), py::arg("size"), py::kw_only(), py::arg("threads") = 1,
           py::arg("max_gap") = MemberReadOptions{}.max_gap)
      .def("path", [](const ShardFiles& files, std::uint32_t id) {
        if (id >= files.size()) throw py::index_error("shard out of range");
        return py::bytes(files.path(id));
      }, py::arg("shard"))
      .def_property_readonly("num_open", &ShardFiles::num_open)
      .def("close", &ShardFiles::close_all);
  m.def("sample_members", &sample_members, py::arg("segment"), py::arg("samples"), py::arg("slot_of_ext"), py::arg("num_slots"));
  m.def("sample_keys", &sample_keys, py::arg("segment"), py::arg("samples"));
}

}  // namespace dcfast::bindings
