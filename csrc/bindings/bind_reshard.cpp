// dcfast._core.reshard: shards of selected samples and the keyed permutation. dcfast.resharding is the public face.
#include "bindings/boundary.hpp"
#include "core/reshard/permutation.hpp"
#include "core/reshard/reshard.hpp"
#include "core/reshard/reshard_pool.hpp"

namespace dcfast::bindings {
namespace {

/// (bytes of the tar, a hash of each payload where they were asked for)
std::tuple<std::uint64_t, Array<Uid>> write_shard(
    const RawText& out_path, const std::vector<RawText>& sources, const Array<std::uint64_t>& source_size,
    const Array<std::int64_t>& source_mtime_ns, const Array<std::uint32_t>& source, const Array<std::uint64_t>& offset,
    const Array<std::uint64_t>& size, const Array<std::uint8_t>& names, const Array<std::uint64_t>& name_begin, bool hash_payloads,
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
  const WriteShardOptions options{window_bytes, max_open_sources, hash_payloads, threads};
  WrittenShard written = enter_core([&](const Poll& poll) { return dcfast::write_shard(out_path, files, members, options, poll); });
  return {written.bytes, own(std::move(written.hashes))};
}

/// (names end to end, where each begins)
std::tuple<Array<std::uint8_t>, Array<std::uint64_t>> sample_member_names(const Array<Uid>& uid, const Array<std::uint64_t>& copy,
                                                                          const Array<std::uint32_t>& member_sample,
                                                                          const Array<std::uint16_t>& member_ext,
                                                                          std::vector<RawText> ext_names) {
  const auto uids = borrow(uid, "uid");
  const auto copies = borrow(copy, "copy");
  const auto samples = borrow(member_sample, "member_sample");
  const auto ext_ids = borrow(member_ext, "member_ext");
  const std::vector<std::string> exts = strings_of(std::move(ext_names));
  std::vector<std::uint8_t> names;
  std::vector<std::uint64_t> name_begin;
  enter_core([&](const Poll&) { dcfast::sample_member_names(uids, copies, samples, ext_ids, exts, names, name_begin); });
  return {own(std::move(names)), own(std::move(name_begin))};
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

py::typing::Dict<py::str, py::int_> counts_of(const PoolReshard& pool) {
  const PoolReshardCounts& counts = pool.counts();
  py::typing::Dict<py::str, py::int_> out;
  out["samples"] = counts.samples;
  out["no_uid"] = counts.no_uid;
  out["cut"] = counts.cut;
  out["excluded"] = 0;
  out["processed_count"] = counts.processed_count;
  out["selected_rows"] = counts.selected_rows;
  out["output_count"] = counts.output_count;
  out["subset_count"] = counts.subset_count;
  out["missing_count"] = counts.missing_count;
  out["repeated_rows"] = counts.repeated_rows;
  out["output_shard_count"] = pool.num_output_shards();
  out["member_count"] = counts.member_count;
  out["payload_bytes"] = counts.payload_bytes;
  out["tar_bytes"] = counts.tar_bytes;
  return out;
}

/// (input shard, offset, message) of each damage.
std::vector<std::tuple<std::uint64_t, std::uint64_t, std::string>> damage_of(const PoolReshard& pool) {
  std::vector<std::tuple<std::uint64_t, std::uint64_t, std::string>> out;
  for (std::size_t shard = 0; shard < pool.num_input_shards(); ++shard) {
    for (const TarReport& report : pool.reports(shard)) {
      if (report.damage) out.emplace_back(shard, report.offset, report.message);
    }
  }
  return out;
}

}  // namespace

void bind_reshard(py::module_& m) {
  py::class_<PoolReshard>(m, "PoolReshard")
      .def(py::init([](std::vector<RawText> shards, const RawText& subset, std::uint64_t shard_size, std::uint64_t max_bytes,
                       unsigned threads) {
             return enter_core([&](const Poll& poll) {
               return std::make_unique<PoolReshard>(strings_of(std::move(shards)), subset, PoolReshard::Options{shard_size, max_bytes, threads}, poll);
             });
           }),
           py::arg("shards"), py::arg("subset"), py::kw_only(), py::arg("shard_size"), py::arg("max_bytes"), py::arg("threads"))
      .def_property_readonly("counts", &counts_of)
      .def_property_readonly("damage", &damage_of)
      .def("samples", [](const PoolReshard& pool, std::size_t k) {
        if (k >= pool.num_output_shards()) throw py::index_error("no such output shard");
        return pool.samples(k);
      }, py::arg("k"))
      .def("write", [](const PoolReshard& pool, std::size_t k, const RawText& out_path, unsigned threads, bool check_mtime) {
        if (k >= pool.num_output_shards()) throw py::index_error("no such output shard");
        return enter_core([&](const Poll& poll) { return pool.write(k, out_path, threads, check_mtime, poll).bytes; });
      }, py::arg("k"), py::arg("out_path"), py::kw_only(), py::arg("threads"), py::arg("check_mtime"));
  m.def("write_shard", &write_shard, py::arg("out_path"), py::arg("sources"), py::arg("source_size"), py::arg("source_mtime_ns"),
        py::arg("source"), py::arg("offset"), py::arg("size"), py::arg("names"), py::arg("name_begin"), py::kw_only(),
        py::arg("hash_payloads") = false, py::arg("window_bytes") = WriteShardOptions{}.window_bytes,
        py::arg("max_open_sources") = WriteShardOptions{}.max_open_sources, py::arg("threads") = 1);
  m.def("sample_member_names", &sample_member_names, py::arg("uid"), py::arg("copy"), py::arg("member_sample"),
        py::arg("member_ext"), py::arg("exts"));
  m.def("tar_member_header", &tar_member_header, py::arg("name"), py::arg("size"));
  m.def("permuted", &permuted, py::arg("n"), py::arg("seed"), py::arg("first"), py::arg("count"), py::arg("stride") = 1);
}

}  // namespace dcfast::bindings
