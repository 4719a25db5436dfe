#include "core/reshard/reshard_pool.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <utility>

#include "core/index/tar_segment_format.hpp"
#include "core/uids/npy.hpp"
#include "core/uids/uid_set.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast {
namespace {

constexpr std::uint64_t block = 512;
constexpr std::uint64_t record = 10'240;
constexpr std::uint64_t longest_stem = 32 + 1 + 20 + 1;  // of "UID-COPY."
constexpr std::uint64_t max_samples = std::uint64_t{1} << 24;
constexpr std::uint64_t pax_overhead = 64;               // of a path record: its length, keyword and hdrcharset

std::uint64_t padded(std::uint64_t size) { return (size + block - 1) / block * block; }

std::vector<Uid> read_subset(const std::string& path) {
  const File file = File::open_read(path);
  const npy::Info info = npy::read_header(file);
  if (info.item_size != sizeof(Uid)) throw Error(Code::corrupt_data, "expected a subset of uids; got uid records", path, 0);
  std::vector<Uid> subset(static_cast<std::size_t>(info.count));
  file.pread_all(std::as_writable_bytes(std::span(subset)), info.data_offset);
  const std::size_t at = first_unsorted(subset, 1);
  if (at < subset.size()) throw Error(Code::corrupt_data, "the subset is not sorted", path, info.data_offset + at * sizeof(Uid));
  return subset;
}

// As names are written: lower-case ASCII letters, and what is not UTF-8 as \xNN.
std::string written_ext(std::string_view raw) {
  std::string folded(raw);
  for (char& c : folded) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  std::string out;
  append_utf8(out, folded);
  return out;
}

}  // namespace

PoolReshard::PoolReshard(std::vector<std::string> shards, const std::string& subset_path, const Options& options, const Poll& poll)
    : paths_(std::move(shards)), shards_(paths_.size()) {
  if (options.shard_size == 0 || options.max_bytes == 0) {
    throw Error(Code::invalid_argument, "shard_size and max_bytes must be at least 1");
  }
  if (paths_.size() > std::numeric_limits<std::uint32_t>::max()) throw Error(Code::invalid_argument, "too many input shards");
  const std::vector<Uid> subset = read_subset(subset_path);
  IndexOptions index;
  index.read_image_size = false;
  parallel_for(paths_.size(), options.threads, [&](std::size_t i) { shards_[i] = index_tar_file(paths_[i], index); }, poll);
  for (const ShardIndex& shard : shards_) {
    std::vector<std::uint64_t>& begin = member_begin_.emplace_back(1, 0);
    for (const std::uint32_t count : shard.member_count) begin.push_back(begin.back() + count);
    std::vector<std::string>& exts = exts_.emplace_back();
    std::vector<std::uint64_t>& headers = header_bytes_.emplace_back();
    for (std::size_t e = 0; e < shard.exts.size(); ++e) {
      const std::string& ext = exts.emplace_back(written_ext(shard.exts[e]));
      const bool ascii = std::all_of(ext.begin(), ext.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
      const bool plain = ascii && longest_stem + ext.size() <= 100;
      headers.push_back(block + (plain ? 0 : block + padded(longest_stem + ext.size() + pax_overhead)));
    }
  }
  select(subset);
  number_copies();
  if (counts_.output_count > max_samples) {
    throw Error(Code::invalid_argument, "more samples would be written than can be planned one by one: " +
                                            std::to_string(counts_.output_count), subset_path);
  }
  cut(options);
}

void PoolReshard::select(const std::vector<Uid>& subset) {
  counts_.subset_count = subset.size();
  std::vector<Uid> uids;
  std::vector<std::uint32_t> samples;
  std::vector<std::int64_t> first;
  std::vector<std::int64_t> count;
  for (std::size_t s = 0; s < shards_.size(); ++s) {
    const ShardIndex& shard = shards_[s];
    uids.clear();
    samples.clear();
    for (std::size_t i = 0; i < shard.flags.size(); ++i) {
      const bool no_uid = (shard.flags[i] & sample_flag::without_uid) != 0;
      const bool cut = (shard.flags[i] & sample_flag::cut) != 0;
      counts_.no_uid += no_uid ? 1 : 0;
      counts_.cut += !no_uid && cut ? 1 : 0;
      if (no_uid || cut) continue;
      uids.push_back(shard.uid[i]);
      samples.push_back(static_cast<std::uint32_t>(i));
    }
    counts_.samples += shard.flags.size();
    counts_.processed_count += uids.size();
    first.resize(uids.size());
    count.resize(uids.size());
    lookup(std::span<const Uid>(subset), uids, first, count, 1);
    for (std::size_t i = 0; i < uids.size(); ++i) {
      if (count[i] > 0) rows_.push_back({uids[i], static_cast<std::uint32_t>(s), samples[i], static_cast<std::uint64_t>(count[i]), 0});
    }
  }
  counts_.selected_rows = rows_.size();
}

// Where a uid has several rows, the copies count on over them, so that no two keys are equal.
void PoolReshard::number_copies() {
  std::vector<std::size_t> order(rows_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) { return rows_[a].uid < rows_[b].uid; });
  std::uint64_t repeated = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    Row& row = rows_[order[i]];
    counts_.output_count += row.multiplicity;
    if (i == 0 || rows_[order[i - 1]].uid != row.uid) continue;
    const Row& before = rows_[order[i - 1]];
    row.first_copy = before.first_copy + before.multiplicity;
    repeated += row.multiplicity;
    ++counts_.repeated_rows;
  }
  counts_.missing_count = counts_.subset_count - (counts_.output_count - repeated);
}

PoolReshard::Weight PoolReshard::weigh(const Row& row) const {
  const ShardIndex& shard = shards_[row.shard];
  Weight weight{0, 0, 0};
  std::uint64_t end = shard.base[row.sample];
  for (std::uint64_t m = member_begin_[row.shard][row.sample]; m < member_begin_[row.shard][row.sample + 1]; ++m) {
    segment_format::Unpacked member{};
    segment_format::unpack_member(shard.members[static_cast<std::size_t>(m)], end, shard.escapes, member);
    end = segment_format::padded_end(member);
    ++weight.members;
    weight.payload += member.size;
    weight.tar += header_bytes_[row.shard][member.ext] + padded(member.size);
  }
  return weight;
}

void PoolReshard::cut(const Options& options) {
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    const Weight weight = weigh(rows_[r]);
    for (std::uint64_t copy = 0; copy < rows_[r].multiplicity; ++copy) {
      if (cuts_.empty() || cuts_.back().samples >= options.shard_size || cuts_.back().payload_bytes >= options.max_bytes) {
        cuts_.push_back({r, copy, 0, 0, 0});
      }
      Cut& open = cuts_.back();
      ++open.samples;
      open.payload_bytes += weight.payload;
      open.tar_bytes += weight.tar;
      counts_.member_count += weight.members;
    }
  }
  for (Cut& one : cuts_) {
    one.tar_bytes = (one.tar_bytes + 2 * block + record - 1) / record * record;
    counts_.payload_bytes += one.payload_bytes;
    counts_.tar_bytes += one.tar_bytes;
  }
}

WrittenShard PoolReshard::write(std::size_t k, const std::string& out_path, unsigned threads, bool check_mtime, const Poll& poll) const {
  const Cut& cut = cuts_.at(k);
  std::vector<CopySource> sources;
  for (std::size_t s = 0; s < paths_.size(); ++s) {
    sources.push_back({paths_[s], shards_[s].tar_size, std::nullopt});
    if (check_mtime) sources.back().mtime_ns = shards_[s].mtime_ns;
  }
  std::vector<std::uint32_t> source;
  std::vector<std::uint64_t> offset, size, name_begin{0};
  std::vector<std::uint8_t> names;
  std::vector<segment_format::Unpacked> members;
  std::size_t r = cut.row;
  std::uint64_t copy = cut.copy;
  for (std::uint64_t n = 0; n < cut.samples; ++n, ++copy) {
    while (copy == rows_[r].multiplicity) {
      ++r;
      copy = 0;
    }
    const Row& row = rows_[r];
    const ShardIndex& shard = shards_[row.shard];
    if (n == 0 || copy == 0) {
      members.clear();
      std::uint64_t end = shard.base[row.sample];
      for (std::uint64_t m = member_begin_[row.shard][row.sample]; m < member_begin_[row.shard][row.sample + 1]; ++m) {
        segment_format::unpack_member(shard.members[static_cast<std::size_t>(m)], end, shard.escapes, members.emplace_back());
        end = segment_format::padded_end(members.back());
      }
      const std::vector<std::string>& exts = exts_[row.shard];
      const auto before = [&exts](const auto& a, const auto& b) { return exts[a.ext] < exts[b.ext]; };
      std::stable_sort(members.begin(), members.end(), before);
    }
    std::array<char, kUidTextSize + 1 + 20 + 1> stem;
    format_uid_32(row.uid, stem.data());
    stem[kUidTextSize] = '-';
    char* at = std::to_chars(stem.data() + kUidTextSize + 1, stem.data() + stem.size(), row.first_copy + copy).ptr;
    *at++ = '.';
    for (const segment_format::Unpacked& member : members) {
      const std::string& ext = exts_[row.shard][member.ext];
      source.push_back(row.shard);
      offset.push_back(member.offset);
      size.push_back(member.size);
      names.insert(names.end(), stem.data(), at);
      names.insert(names.end(), ext.begin(), ext.end());
      name_begin.push_back(names.size());
    }
  }
  WriteShardOptions options;
  options.threads = threads;
  return write_shard(out_path, sources, {source, offset, size, names, name_begin}, options, poll);
}

}  // namespace dcfast
