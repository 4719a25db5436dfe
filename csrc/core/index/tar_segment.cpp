// Reading a segment: nothing in the file is trusted before it was checked.
#include "core/index/tar_segment.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "core/index/tar_segment_format.hpp"

namespace dcfast {

using namespace segment_format;

const char* section_name(Section section) { return section_info[static_cast<std::size_t>(section)].name; }
std::size_t section_item_size(Section section) { return section_info[static_cast<std::size_t>(section)].item_size; }

SegmentFile::SegmentFile(const std::string& path, bool verify) : file_(path) {
  const auto bytes = file_.bytes();
  const auto bad = [&path](const std::string& what, std::uint64_t offset) {
    throw Error(Code::corrupt_data, "index segment: " + what, path, offset);
  };
  Header header{};
  if (bytes.size() < sizeof(header)) bad("header: the file has " + std::to_string(bytes.size()) + " bytes, too few for one", bytes.size());
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, magic, sizeof(magic)) != 0) bad("header: not an index segment (wrong magic)", 0);
  if (header.version != version) {
    bad("header: version " + std::to_string(header.version) + ", expected " + std::to_string(version) + "; index the shards again", 8);
  }
  if (header.num_sections != section_count || bytes.size() < head_size) bad("header: wrong number of sections or file cut off", 12);
  std::array<std::byte, head_size> head;
  std::memcpy(head.data(), bytes.data(), head.size());
  std::memset(head.data() + offsetof(Header, checksum), 0, sizeof(header.checksum));
  if (XXH3_64bits(head.data(), head.size()) != header.checksum) bad("header: checksum mismatch; index the shards again", 0);
  if (bytes.size() != header.file_size) {
    bad("file has " + std::to_string(bytes.size()) + " bytes, its header says " + std::to_string(header.file_size) +
        "; truncated? index the shards again", std::min<std::uint64_t>(bytes.size(), header.file_size));
  }
  std::array<SectionEntry, section_count> entries;
  std::memcpy(entries.data(), bytes.data() + sizeof(header), sizeof(entries));
  for (std::size_t i = 0; i < section_count; ++i) {
    const SectionEntry& entry = entries[i];
    if (std::strncmp(entry.name, section_info[i].name, sizeof(entry.name)) != 0 || entry.offset % alignment != 0 ||
        entry.offset > bytes.size() || entry.size > bytes.size() - entry.offset || entry.size % section_info[i].item_size != 0) {
      bad(std::string("section ") + section_info[i].name + ": misplaced", sizeof(header) + i * sizeof(SectionEntry));
    }
    sections_[i] = bytes.subspan(static_cast<std::size_t>(entry.offset), static_cast<std::size_t>(entry.size));
    checksums_[i] = entry.checksum;
  }
  num_shards_ = header.num_shards;
  num_samples_ = header.num_samples;
  num_members_ = header.num_members;
  num_strays_ = header.num_strays;
  const auto items = [this](Section s) { return this->bytes(s).size() / section_item_size(s); };
  num_reports_ = items(Section::report_shard);
  const std::uint64_t ext_ends = items(Section::ext_begin);
  num_exts_ = ext_ends == 0 ? 0 : ext_ends - 1;
  const std::array<std::pair<Section, std::uint64_t>, 20> demands{{
      {Section::shard_size, num_shards_}, {Section::shard_mtime_ns, num_shards_}, {Section::uid, num_samples_},
      {Section::base, num_samples_}, {Section::flags, num_samples_}, {Section::width, num_samples_},
      {Section::height, num_samples_}, {Section::members, num_members_}, {Section::stray_offset, num_strays_},
      {Section::stray_size, num_strays_}, {Section::stray_kind, num_strays_}, {Section::report_offset, num_reports_},
      {Section::report_damage, num_reports_}, {Section::ext_begin, num_exts_ + 1},
      // prefix columns: one more
      {Section::shard_name_begin, num_shards_ + 1}, {Section::sample_begin, num_shards_ + 1},
      {Section::stray_begin, num_shards_ + 1}, {Section::member_begin, num_samples_ + 1},
      {Section::key_begin, num_samples_ + 1}, {Section::stray_name_begin, num_strays_ + 1},
  }};
  for (const auto& [section, want] : demands) {
    if (items(section) != want) corrupt(section, "has " + std::to_string(items(section)) + " items, expected " + std::to_string(want));
  }
  if (items(Section::report_begin) != num_reports_ + 1) corrupt(Section::report_begin, "has the wrong number of items");
  // The columns of the shards are few: always checked, so that ranges of a shard's samples can be trusted.
  check_prefix(Section::sample_begin, num_samples_);
  check_prefix(Section::stray_begin, num_strays_);
  // They are kept: ranges stay what they are, also where the file is cut while it is mapped.
  keep(Section::sample_begin, num_samples_, sample_begin_);
  keep(Section::stray_begin, num_strays_, stray_begin_);
  if (verify) verify_all();
}

void SegmentFile::corrupt(Section section, const std::string& what) const {
  const auto at = static_cast<std::uint64_t>(sections_[static_cast<std::size_t>(section)].data() - file_.bytes().data());
  throw Error(Code::corrupt_data, std::string("index segment: section ") + section_name(section) + ": " + what, path(), at);
}

void SegmentFile::check_prefix(Section section, std::uint64_t end) const {
  const auto values = column<std::uint64_t>(section);
  if (values.empty() || values.front() != 0 || values.back() != end || !std::is_sorted(values.begin(), values.end())) {
    corrupt(section, "does not ascend from 0 to " + std::to_string(end));
  }
}

void SegmentFile::keep(Section section, std::uint64_t end, std::vector<std::uint64_t>& values) {
  const auto mapped = column<std::uint64_t>(section);
  values.assign(mapped.begin(), mapped.end());
  if (values.front() != 0 || values.back() != end || !std::is_sorted(values.begin(), values.end())) corrupt(section, "changed while it was read");
  kept_[static_cast<std::size_t>(section)] = std::as_bytes(std::span(values));
}

std::vector<std::uint32_t> SegmentFile::member_ends(std::uint64_t first, std::uint64_t last) const {
  const auto mapped = column<std::uint32_t>(Section::member_begin).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first) + 1);
  std::vector<std::uint32_t> out(mapped.begin(), mapped.end());
  if (out.back() > num_members_ || !std::is_sorted(out.begin(), out.end())) corrupt(Section::member_begin, "is out of order");
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
    if (gap.size() >= alignment || std::any_of(gap.begin(), gap.end(), [](std::byte b) { return b != std::byte{0}; })) {
      corrupt(static_cast<Section>(i), "the padding before it is not zero");
    }
    end = begin + sections_[i].size();
  }
  if (end != all.size()) corrupt(Section::report_text, "bytes follow the last section");
  for (const auto& [begin, text] : {std::pair{Section::shard_name_begin, Section::shard_names}, {Section::key_begin, Section::keys},
                                    {Section::ext_begin, Section::exts}, {Section::stray_name_begin, Section::stray_names},
                                    {Section::report_begin, Section::report_text}}) {
    check_prefix(begin, bytes(text).size());
  }
  const auto members = column<std::uint32_t>(Section::member_begin);
  if (members.front() != 0 || members.back() != num_members_ || !std::is_sorted(members.begin(), members.end())) {
    corrupt(Section::member_begin, "does not ascend from 0 to the number of members");
  }
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
  const std::uint64_t first = ends[static_cast<std::size_t>(i)];
  const std::uint64_t last = ends[static_cast<std::size_t>(i) + 1];
  if (first > last || last > all.size()) corrupt(begin, "is out of order");
  return {reinterpret_cast<const char*>(all.data()) + first, static_cast<std::size_t>(last - first)};
}

std::uint64_t SegmentFile::num_members_of(std::uint64_t first, std::uint64_t last) const {
  const auto member_begin = column<std::uint32_t>(Section::member_begin);
  const std::uint64_t begin = member_begin[static_cast<std::size_t>(first)];
  const std::uint64_t end = member_begin[static_cast<std::size_t>(last)];
  if (begin > end || end > num_members_) corrupt(Section::member_begin, "is out of order");
  return end - begin;
}

void SegmentFile::unpack(std::uint64_t first, std::uint64_t last, std::span<std::uint64_t> offset, std::span<std::uint64_t> size,
                         std::span<std::uint32_t> ext) const {
  const auto member_begin = column<std::uint32_t>(Section::member_begin);
  const auto base = column<std::uint64_t>(Section::base);
  const auto packed = column<std::uint64_t>(Section::members);
  const auto escapes = column<MemberEscape>(Section::escapes);
  const std::uint64_t skipped = member_begin[static_cast<std::size_t>(first)];
  const std::uint64_t wanted = num_members_of(first, last);
  for (const std::size_t room : {offset.size(), size.size(), ext.size()}) {
    if (room != 0 && room != wanted) throw Error(Code::invalid_argument, "unpack: wrong size of an output", path());
  }
  for (std::uint64_t i = first; i < last; ++i) {
    std::uint64_t end = base[static_cast<std::size_t>(i)];
    const std::uint64_t stop = member_begin[static_cast<std::size_t>(i) + 1];
    std::uint64_t m = member_begin[static_cast<std::size_t>(i)];
    if (m < skipped || stop > num_members_ || stop - skipped > wanted) corrupt(Section::member_begin, "is out of order");
    for (; m < stop; ++m) {
      Unpacked member{};
      if (!unpack_member(packed[static_cast<std::size_t>(m)], end, escapes, member)) corrupt(Section::members, "escape out of range");
      if (member.ext >= num_exts_) corrupt(Section::members, "extension out of range");
      end = padded_end(member);
      const std::size_t at = static_cast<std::size_t>(m - skipped);
      if (!offset.empty()) offset[at] = member.offset;
      if (!size.empty()) size[at] = member.size;
      if (!ext.empty()) ext[at] = member.ext;
    }
  }
}

ShardIndex SegmentFile::shard_index(std::uint64_t shard) const {
  const auto s = static_cast<std::size_t>(shard);
  const auto first = static_cast<std::size_t>(column<std::uint64_t>(Section::sample_begin)[s]);
  const auto last = static_cast<std::size_t>(column<std::uint64_t>(Section::sample_begin)[s + 1]);
  const auto slice = [&]<typename T>(std::vector<T>& to, Section section, std::size_t from, std::size_t end) {
    const auto values = column<T>(section).subspan(from, end - from);
    to.assign(values.begin(), values.end());
  };
  ShardIndex out;
  out.tar_size = column<std::uint64_t>(Section::shard_size)[s];
  out.mtime_ns = column<std::int64_t>(Section::shard_mtime_ns)[s];
  slice(out.uid, Section::uid, first, last);
  slice(out.base, Section::base, first, last);
  slice(out.flags, Section::flags, first, last);
  slice(out.width, Section::width, first, last);
  slice(out.height, Section::height, first, last);

  const auto ends = member_ends(first, last);
  const std::size_t members = ends.back() - ends.front();
  std::vector<std::uint64_t> offset(members);
  std::vector<std::uint64_t> size(members);
  std::vector<std::uint32_t> ext(members);
  unpack(first, last, offset, size, ext);
  // Extensions are numbered anew, in the order in which the shard has them.
  std::unordered_map<std::uint32_t, std::uint32_t> ids;
  for (std::size_t i = first; i < last; ++i) {
    out.keys.add(text(Section::key_begin, Section::keys, i));
    out.member_count.push_back(0);
    std::uint64_t end = out.base[i - first];
    for (std::size_t m = ends[i - first] - ends.front(); m < ends[i - first + 1] - ends.front(); ++m) {
      const auto [at, fresh] = ids.emplace(ext[m], static_cast<std::uint32_t>(ids.size()));
      if (fresh) out.exts.add(text(Section::ext_begin, Section::exts, ext[m]));
      append_member(out, offset[m], size[m], at->second, end);
    }
  }
  const auto stray_first = static_cast<std::size_t>(column<std::uint64_t>(Section::stray_begin)[s]);
  const auto stray_last = static_cast<std::size_t>(column<std::uint64_t>(Section::stray_begin)[s + 1]);
  for (std::size_t t = stray_first; t < stray_last; ++t) out.stray_names.add(text(Section::stray_name_begin, Section::stray_names, t));
  slice(out.stray_offset, Section::stray_offset, stray_first, stray_last);
  slice(out.stray_size, Section::stray_size, stray_first, stray_last);
  slice(out.stray_kind, Section::stray_kind, stray_first, stray_last);
  const auto report_shard = column<std::uint64_t>(Section::report_shard);
  for (std::size_t r = 0; r < report_shard.size(); ++r) {
    if (report_shard[r] != shard) continue;
    out.reports.push_back({column<std::uint64_t>(Section::report_offset)[r], column<std::uint8_t>(Section::report_damage)[r] != 0,
                           std::string(text(Section::report_begin, Section::report_text, r)), {}});
  }
  return out;
}

std::vector<std::int64_t> SegmentFile::image_members(std::uint64_t first, std::uint64_t last) const {
  const auto ends = member_ends(first, last);
  std::vector<bool> is_image(static_cast<std::size_t>(num_exts_));
  for (std::uint64_t e = 0; e < num_exts_; ++e) {
    is_image[static_cast<std::size_t>(e)] = is_image_ext(text(Section::ext_begin, Section::exts, e));
  }
  std::vector<std::uint32_t> ext(ends.back() - ends.front());
  unpack(first, last, {}, {}, ext);
  std::vector<std::int64_t> out(static_cast<std::size_t>(last - first), -1);
  for (std::uint64_t i = first; i < last; ++i) {
    const auto k = static_cast<std::size_t>(i - first);
    for (std::uint32_t m = ends[k]; m < ends[k + 1]; ++m) {
      if (!is_image[ext[m - ends.front()]]) continue;
      out[k] = static_cast<std::int64_t>(m);
      break;
    }
  }
  return out;
}

std::vector<SegmentFile::MemberRow> SegmentFile::regular_members(std::uint64_t shard) const {
  const std::uint64_t first = column<std::uint64_t>(Section::sample_begin)[static_cast<std::size_t>(shard)];
  const std::uint64_t last = column<std::uint64_t>(Section::sample_begin)[static_cast<std::size_t>(shard) + 1];
  const auto ends = member_ends(first, last);
  const std::size_t n = ends.back() - ends.front();
  std::vector<std::uint64_t> offset(n);
  std::vector<std::uint64_t> size(n);
  std::vector<std::uint32_t> ext(n);
  unpack(first, last, offset, size, ext);
  std::vector<MemberRow> rows;
  rows.reserve(n);
  for (std::uint64_t i = first; i < last; ++i) {
    const auto k = static_cast<std::size_t>(i - first);
    for (std::size_t at = ends[k] - ends.front(); at < ends[k + 1] - ends.front(); ++at) {
      rows.push_back({offset[at], size[at], i, ext[at]});
    }
  }
  const auto kinds = column<std::uint8_t>(Section::stray_kind);
  const auto strays = column<std::uint64_t>(Section::stray_begin);
  for (std::uint64_t t = strays[static_cast<std::size_t>(shard)]; t < strays[static_cast<std::size_t>(shard) + 1]; ++t) {
    const auto i = static_cast<std::size_t>(t);
    if (kinds[i] != static_cast<std::uint8_t>(MemberKind::regular)) continue;
    rows.push_back({column<std::uint64_t>(Section::stray_offset)[i], column<std::uint64_t>(Section::stray_size)[i], no_sample, t});
  }
  const auto by_offset = [](const MemberRow& a, const MemberRow& b) { return a.offset < b.offset; };
  if (!std::is_sorted(rows.begin(), rows.end(), by_offset)) std::stable_sort(rows.begin(), rows.end(), by_offset);
  return rows;
}

void SegmentFile::append_name(const MemberRow& row, std::string& out) const {
  if (row.sample == no_sample) {
    out.append(text(Section::stray_name_begin, Section::stray_names, row.index));
    return;
  }
  out.append(text(Section::key_begin, Section::keys, row.sample)).push_back('.');
  out.append(text(Section::ext_begin, Section::exts, row.index));
}

}  // namespace dcfast
