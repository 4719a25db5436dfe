// dcfast._core.access: MemberReader (members of a pool's shards by range), look-ups of samples.
// dcfast.access is the public face.
#include "bindings/boundary.hpp"
#include "core/access/member_read.hpp"

namespace dcfast::bindings {

namespace {

/// Memory that is not touched before the core writes to it.
class UntouchedBytes {
 public:
  explicit UntouchedBytes(std::size_t size) : bytes_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}
  std::byte* data() noexcept { return bytes_.get(); }
  std::size_t size() const noexcept { return size_; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_;
};

std::shared_ptr<ShardFiles> open_reader(std::vector<RawText> roots, const std::vector<RawText>& names,
                                        const Input<std::uint32_t, "root">& root,
                                        const Input<std::uint64_t, "size">& size,
                                        const Input<std::int64_t, "mtime_ns">& mtime_ns, std::size_t max_open,
                                        bool follow_links, bool check_mtime) {
  if (root.view.size() != names.size() || size.view.size() != names.size() || mtime_ns.view.size() != names.size()) {
    throw py::value_error("names, root, size and mtime_ns must have one length");
  }
  std::vector<PoolShard> shards;
  shards.reserve(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) shards.push_back({names[i], root.view[i], size.view[i], mtime_ns.view[i]});
  return std::make_shared<ShardFiles>(strings_of(std::move(roots)), std::move(shards), ShardFilesOptions{max_open, follow_links, check_mtime});
}

/// The ranges one after the other: (buffer, (k + 1,) where each begins).
std::tuple<Array<std::uint8_t>, Array<std::uint64_t>> read(const std::shared_ptr<ShardFiles>& files,
                                                           const Input<std::uint32_t, "shard">& shard,
                                                           const Input<std::uint64_t, "offset">& offset,
                                                           const Input<std::uint64_t, "size">& size, unsigned threads,
                                                           std::uint64_t max_gap) {
  std::vector<std::uint64_t> begin(size.view.size() + 1);
  UntouchedBytes bytes = enter_core([&](const Poll& poll) {
    for (std::size_t i = 0; i < size.view.size(); ++i) begin[i + 1] = checked_add(begin[i], size.view[i], "members");
    UntouchedBytes out(begin.back());
    const std::span<const std::uint64_t> place(begin.data(), size.view.size());
    read_members(*files, {shard.view, offset.view, size.view, place}, {out.data(), out.size()}, {threads, max_gap}, poll);
    return out;
  });
  auto buffer = own_as<std::uint8_t>(std::move(bytes));
  buffer.attr("setflags")("write"_a = false);
  return {buffer, own(std::move(begin))};
}

/// (members of each sample, and the offset, size and extension of each member)
using SampleMemberArrays = std::tuple<Array<std::uint32_t>, Array<std::uint64_t>, Array<std::uint64_t>, Array<std::uint32_t>>;

SampleMemberArrays sample_members(const std::shared_ptr<SegmentFile>& segment, const Input<std::uint64_t, "samples">& samples,
                                  const Input<std::uint32_t, "slot_of_ext">& slot_of_ext, std::uint32_t num_slots) {
  SampleMembers members = enter_core([&](const Poll&) { return members_of_samples(*segment, samples.view, slot_of_ext.view, num_slots); });
  return {own(std::move(members.count)), own(std::move(members.offset)), own(std::move(members.size)), own(std::move(members.ext))};
}

py::typing::List<py::str> sample_keys(const std::shared_ptr<SegmentFile>& segment, const Input<std::uint64_t, "samples">& samples) {
  py::typing::List<py::str> out;
  for (const std::uint64_t sample : samples.view) {
    if (sample >= segment->num_samples()) throw py::index_error(cat("sample ", sample, " is out of range"));
    out.append(escaped_text(segment->key(sample)));
  }
  return out;
}

}  // namespace

void bind_access(py::module_& m) {
  py::class_<ShardFiles, std::shared_ptr<ShardFiles>>(m, "MemberReader")
      .def(py::init(&open_reader), "roots"_a, "names"_a, "root"_a, "size"_a, "mtime_ns"_a, py::kw_only(), "max_open"_a, "follow_links"_a,
           "check_mtime"_a)
      .def("read", &read, "shard"_a, "offset"_a, "size"_a, py::kw_only(), "threads"_a = 1, "max_gap"_a = MemberReadOptions{}.max_gap)
      .def("path", [](const ShardFiles& files, std::uint32_t id) {
        if (id >= files.size()) throw py::index_error("shard out of range");
        return py::bytes(files.path(id));
      }, "shard"_a)
      .def_property_readonly("num_open", &ShardFiles::num_open)
      .def("close", &ShardFiles::close_all);
  m.def("sample_members", &sample_members, "segment"_a, "samples"_a, "slot_of_ext"_a, "num_slots"_a);
  m.def("sample_keys", &sample_keys, "segment"_a, "samples"_a);
}

}  // namespace dcfast::bindings
