// Reading a segment: nothing in the file is trusted before it was checked.
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "core/index/tar_segment_format.hpp"

namespace dcfast {

using namespace segment_format;

SegmentFile::SegmentFile(const std::string& path, bool verify) : file_(path) {
  const auto bytes = file_.bytes();
  const auto bad = [&path](const std::string& what, std::uint64_t offset) {
    throw Error(Code::corrupt_data, "index segment: " + what, path, offset);
  };
  Header header{};
  if (bytes.size() < sizeof(header)) bad(cat("header: the file has ", bytes.size(), " bytes, too few for one"), bytes.size());
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, magic, sizeof(magic)) != 0) bad("header: not an index segment (wrong magic)", 0);
  if (header.version != version) {
    bad(cat("header: version ", header.version, ", expected ", version, "; index the shards again"), 8);
  }
  if (header.num_sections != section_count || bytes.size() < head_size) bad("header: wrong number of sections or file cut off", 12);
  std::array<std::byte, head_size> head;
  std::memcpy(head.data(), bytes.data(), head.size());
  std::memset(head.data() + offsetof(Header, checksum), 0, sizeof(header.checksum));
  if (XXH3_64bits(head.data(), head.size()) != header.checksum) bad("header: checksum mismatch; index the shards again", 0);
  if (bytes.size() != header.file_size) {
    bad(cat("file has ", bytes.size(), " bytes, its header says ", header.file_size, "; truncated? index the shards again"),
        std::min(bytes.size(), header.file_size));
  }
  std::array<SectionEntry, section_count> entries;
  std::memcpy(entries.data(), bytes.data() + sizeof(header), sizeof(entries));
  for (std::size_t i = 0; i < section_count; ++i) {
    const SectionEntry& entry = entries[i];
    if (std::strncmp(entry.name, section_info[i].name, sizeof(entry.name)) != 0 || entry.offset % alignment != 0 ||
        entry.offset > bytes.size() || entry.size > bytes.size() - entry.offset || entry.size % section_info[i].item_size != 0) {
      bad(cat("section ", section_info[i].name, ": misplaced"), sizeof(header) + i * sizeof(SectionEntry));
    }
    sections_[i] = bytes.subspan(entry.offset, entry.size);
    checksums_[i] = entry.checksum;
  }
  num_shards_ = header.num_shards;
  num_samples_ = header.num_samples;
  num_members_ = header.num_members;
  num_strays_ = header.num_strays;
  const auto items = [this](Section s) { return this->bytes(s).size() / info_of(s).item_size; };
  const std::uint64_t num_reports = items(Section::report_shard);
  const std::uint64_t ext_ends = items(Section::ext_begin);
  num_exts_ = ext_ends == 0 ? 0 : ext_ends - 1;
  const std::array<std::pair<Section, std::uint64_t>, 21> demands{{
      {Section::shard_size, num_shards_}, {Section::shard_mtime_ns, num_shards_}, {Section::uid, num_samples_},
      {Section::base, num_samples_}, {Section::flags, num_samples_}, {Section::width, num_samples_},
      {Section::height, num_samples_}, {Section::members, num_members_}, {Section::stray_offset, num_strays_},
      {Section::stray_size, num_strays_}, {Section::stray_kind, num_strays_}, {Section::report_offset, num_reports},
      {Section::report_damage, num_reports}, {Section::ext_begin, num_exts_ + 1},
      // prefix columns: one more
      {Section::shard_name_begin, num_shards_ + 1}, {Section::sample_begin, num_shards_ + 1},
      {Section::stray_begin, num_shards_ + 1}, {Section::member_begin, num_samples_ + 1},
      {Section::key_begin, num_samples_ + 1}, {Section::stray_name_begin, num_strays_ + 1},
      {Section::report_begin, num_reports + 1},
  }};
  for (const auto& [section, count] : demands) {
    if (items(section) != count) corrupt(section, cat("has ", items(section), " items, expected ", count));
  }
  // The columns of the shards are few: always checked, so that ranges of a shard's samples can be trusted, and kept:
  // they stay what they are, also where the file is cut while it is mapped.
  keep(Section::sample_begin, num_samples_, sample_begin_);
  keep(Section::stray_begin, num_strays_, stray_begin_);
  if (verify) verify_all();
}

void SegmentFile::corrupt(Section section, const std::string& what) const {
  const auto at = static_cast<std::uint64_t>(sections_[static_cast<std::size_t>(section)].data() - file_.bytes().data());
  throw Error(Code::corrupt_data, cat("index segment: section ", info_of(section).name, ": ", what), path(), at);
}

template <typename T>
void SegmentFile::check_prefix(Section section, std::span<const T> values, std::uint64_t end) const {
  if (!values.empty() && values.front() == 0 && values.back() == end && std::ranges::is_sorted(values)) return;
  corrupt(section, cat("does not ascend from 0 to ", end));
}

void SegmentFile::keep(Section section, std::uint64_t end, std::vector<std::uint64_t>& values) {
  const auto mapped = column<std::uint64_t>(section);
  values.assign(mapped.begin(), mapped.end());
  check_prefix(section, std::span<const std::uint64_t>(values), end);
  kept_[static_cast<std::size_t>(section)] = std::as_bytes(std::span(values));
}

// Where the members of samples [first, last) begin, and where those of the last end, counted from the first. A copy, and
// checked: what is mapped may change between two looks.
std::vector<std::uint32_t> SegmentFile::member_begins(std::uint64_t first, std::uint64_t last) const {
  const auto mapped = column<std::uint32_t>(Section::member_begin).subspan(first, last - first + 1);
  std::vector<std::uint32_t> out(mapped.begin(), mapped.end());
  if (out.back() > num_members_ || !std::ranges::is_sorted(out)) corrupt(Section::member_begin, "is out of order");
  const std::uint32_t first_member = out.front();
  for (std::uint32_t& begin : out) begin -= first_member;
  return out;
}

void SegmentFile::verify_all() const {
  for (std::size_t i = 0; i < section_count; ++i) {
    if (XXH3_64bits(sections_[i].data(), sections_[i].size()) != checksums_[i]) {
      corrupt(static_cast<Section>(i), "checksum mismatch; index the shards again");
    }
  }
  const auto all = file_.bytes();
  std::size_t end = head_size;
  for (std::size_t i = 0; i < section_count; ++i) {
    const std::size_t begin = static_cast<std::size_t>(sections_[i].data() - all.data());
    if (begin < end) corrupt(static_cast<Section>(i), "overlaps the one before");
    const auto gap = all.subspan(end, begin - end);
    if (gap.size() >= alignment || std::ranges::any_of(gap, [](std::byte b) { return b != std::byte{0}; })) {
      corrupt(static_cast<Section>(i), "the padding before it is not zero");
    }
    end = begin + sections_[i].size();
  }
  if (end != all.size()) corrupt(Section::report_text, "bytes follow the last section");
  for (const auto& [begin, text] : {std::pair{Section::shard_name_begin, Section::shard_names}, {Section::key_begin, Section::keys},
                                    {Section::ext_begin, Section::exts}, {Section::stray_name_begin, Section::stray_names},
                                    {Section::report_begin, Section::report_text}}) {
    check_prefix(begin, column<std::uint64_t>(begin), bytes(text).size());
  }
  check_prefix(Section::member_begin, column<std::uint32_t>(Section::member_begin), num_members_);
  unpack(0, num_samples_, {}, {}, {});
  for (const std::uint8_t kind : column<std::uint8_t>(Section::stray_kind)) {
    if (kind > static_cast<std::uint8_t>(MemberKind::other)) corrupt(Section::stray_kind, "has a kind that is not known");
  }
  for (const std::uint64_t shard : column<std::uint64_t>(Section::report_shard)) {
    if (shard >= num_shards_) corrupt(Section::report_shard, "names a shard that is not there");
  }
}

std::string_view SegmentFile::text(Section begin, Section text, std::uint64_t i) const {
  const auto ends = column<std::uint64_t>(begin);
  const auto all = bytes(text);
  const std::uint64_t first = ends[i];
  const std::uint64_t last = ends[i + 1];
  if (first > last || last > all.size()) corrupt(begin, "is out of order");
  return {reinterpret_cast<const char*>(all.data()) + first, last - first};
}

ShardReport SegmentFile::report(std::uint64_t i) const {
  const bool damage = column<std::uint8_t>(Section::report_damage)[i] != 0;
  return {column<std::uint64_t>(Section::report_shard)[i], {column<std::uint64_t>(Section::report_offset)[i], damage,
          std::string(text(Section::report_begin, Section::report_text, i)), {}}};
}

std::pair<std::uint64_t, std::uint64_t> SegmentFile::samples_of(std::uint64_t shard) const {
  return {sample_begin_[shard], sample_begin_[shard + 1]};
}

std::uint64_t SegmentFile::num_members_of(std::uint64_t first, std::uint64_t last) const {
  const auto member_begin = column<std::uint32_t>(Section::member_begin);
  const std::uint64_t begin = member_begin[first];
  const std::uint64_t end = member_begin[last];
  if (begin > end || end > num_members_) corrupt(Section::member_begin, "is out of order");
  return end - begin;
}

void SegmentFile::unpack(std::uint64_t first, std::uint64_t last, std::span<std::uint64_t> offset, std::span<std::uint64_t> size,
                         std::span<std::uint32_t> ext) const {
  const auto member_begin = column<std::uint32_t>(Section::member_begin);
  const auto base = column<std::uint64_t>(Section::base);
  const auto packed = column<std::uint64_t>(Section::members);
  const auto escapes = column<MemberEscape>(Section::escapes);
  const std::uint64_t skipped = member_begin[first];
  const std::uint64_t count = num_members_of(first, last);
  for (const std::size_t room : {offset.size(), size.size(), ext.size()}) {
    if (room != 0 && room != count) throw Error(Code::invalid_argument, "unpack: wrong size of an output", path());
  }
  for (std::uint64_t i = first; i < last; ++i) {
    std::uint64_t end = base[i];
    const std::uint64_t stop = member_begin[i + 1];
    std::uint64_t m = member_begin[i];
    if (m < skipped || stop > num_members_ || stop - skipped > count) corrupt(Section::member_begin, "is out of order");
    for (; m < stop; ++m) {
      Unpacked member{};
      if (!unpack_member(packed[m], end, escapes, member)) corrupt(Section::members, "escape out of range");
      if (member.ext >= num_exts_) corrupt(Section::members, "extension out of range");
      end = padded_end(member);
      const std::size_t at = m - skipped;
      if (!offset.empty()) offset[at] = member.offset;
      if (!size.empty()) size[at] = member.size;
      if (!ext.empty()) ext[at] = member.ext;
    }
  }
}

void SegmentFile::unpack(std::uint64_t first, std::uint64_t last, MemberColumns& out) const {
  out.resize(num_members_of(first, last));
  unpack(first, last, out.offset, out.size, out.ext);
}

std::vector<std::uint32_t> SegmentFile::unpack_samples(std::uint64_t first, std::uint64_t last, MemberColumns& out) const {
  std::vector<std::uint32_t> begins = member_begins(first, last);
  out.resize(begins.back());
  unpack(first, last, out.offset, out.size, out.ext);
  return begins;
}

ShardIndex SegmentFile::shard_index(std::uint64_t shard) const {
  const auto [first, last] = samples_of(shard);
  const auto slice = [&]<typename T>(std::vector<T>& to, Section section, std::uint64_t from, std::uint64_t end) {
    const auto values = column<T>(section).subspan(from, end - from);
    to.assign(values.begin(), values.end());
  };
  ShardIndex out;
  out.tar_size = column<std::uint64_t>(Section::shard_size)[shard];
  out.mtime_ns = column<std::int64_t>(Section::shard_mtime_ns)[shard];
  slice(out.uid, Section::uid, first, last);
  slice(out.base, Section::base, first, last);
  slice(out.flags, Section::flags, first, last);
  slice(out.width, Section::width, first, last);
  slice(out.height, Section::height, first, last);

  MemberColumns members;
  const auto begins = unpack_samples(first, last, members);
  // Extensions are numbered anew, in the order in which the shard has them.
  std::unordered_map<std::uint32_t, std::uint32_t> ids;
  for (std::uint64_t i = 0; i < last - first; ++i) {
    out.keys.add(key(first + i));
    out.member_count.push_back(0);
    std::uint64_t end = out.base[i];
    for (std::size_t m = begins[i]; m < begins[i + 1]; ++m) {
      const auto [id, fresh] = ids.emplace(members.ext[m], static_cast<std::uint32_t>(ids.size()));
      if (fresh) out.exts.add(ext(members.ext[m]));
      append_member(out, members.offset[m], members.size[m], id->second, end);
    }
  }
  const std::uint64_t stray_first = stray_begin_[shard];
  const std::uint64_t stray_last = stray_begin_[shard + 1];
  for (std::uint64_t t = stray_first; t < stray_last; ++t) out.stray_names.add(stray_name(t));
  slice(out.stray_offset, Section::stray_offset, stray_first, stray_last);
  slice(out.stray_size, Section::stray_size, stray_first, stray_last);
  slice(out.stray_kind, Section::stray_kind, stray_first, stray_last);
  const auto report_shard = column<std::uint64_t>(Section::report_shard);
  for (std::uint64_t r = 0; r < num_reports(); ++r) {
    if (report_shard[r] == shard) out.reports.push_back(report(r).report);
  }
  return out;
}

std::vector<std::int64_t> SegmentFile::image_members() const {
  const auto begins = member_begins(0, num_samples_);
  std::vector<bool> is_image;
  for (std::uint64_t e = 0; e < num_exts_; ++e) is_image.push_back(is_image_ext(ext(e)));
  std::vector<std::uint32_t> exts(begins.back());
  unpack(0, num_samples_, {}, {}, exts);
  std::vector<std::int64_t> out(num_samples_, -1);
  for (std::uint64_t i = 0; i < num_samples_; ++i) {
    std::uint32_t m = begins[i];
    while (m < begins[i + 1] && !is_image[exts[m]]) ++m;
    if (m < begins[i + 1]) out[i] = m;
  }
  return out;
}

std::vector<SegmentFile::MemberRow> SegmentFile::regular_members(std::uint64_t shard) const {
  const auto [first, last] = samples_of(shard);
  MemberColumns members;
  const auto begins = unpack_samples(first, last, members);
  std::vector<MemberRow> rows;
  rows.reserve(members.ext.size());
  for (std::uint64_t i = 0; i < last - first; ++i) {
    for (std::size_t m = begins[i]; m < begins[i + 1]; ++m) {
      rows.push_back({members.offset[m], members.size[m], first + i, members.ext[m]});
    }
  }
  const auto kinds = column<std::uint8_t>(Section::stray_kind);
  for (std::uint64_t t = stray_begin_[shard]; t < stray_begin_[shard + 1]; ++t) {
    if (kinds[t] != static_cast<std::uint8_t>(MemberKind::regular)) continue;
    rows.push_back({column<std::uint64_t>(Section::stray_offset)[t], column<std::uint64_t>(Section::stray_size)[t], no_sample, t});
  }
  const auto by_offset = [](const MemberRow& a, const MemberRow& b) { return a.offset < b.offset; };
  if (!std::ranges::is_sorted(rows, by_offset)) std::ranges::stable_sort(rows, by_offset);
  return rows;
}

void SegmentFile::append_name(const MemberRow& row, std::string& out) const {
  if (row.sample == no_sample) {
    out.append(stray_name(row.index));
    return;
  }
  out.append(key(row.sample)).append(".").append(ext(row.index));
}

}  // namespace dcfast
