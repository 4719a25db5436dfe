#include "core/tar_segment.hpp"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <utility>

namespace dcfast {

static_assert(std::endian::native == std::endian::little, "segments are mapped as they lie on disk");

namespace {

constexpr char magic[8] = {'D', 'C', 'F', 'A', 'S', 'T', 'I', 'X'};
constexpr std::uint32_t version = 1;
constexpr std::uint64_t alignment = 64;
constexpr std::size_t section_count = static_cast<std::size_t>(Section::count);

struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t num_sections;
  std::uint64_t file_size;
  std::uint64_t num_shards;
  std::uint64_t num_samples;
  std::uint64_t num_members;
  std::uint64_t num_strays;
  std::uint64_t checksum;  // XXH3-64 of the header, with 0 here, and the section table
};
static_assert(sizeof(Header) == 64);

struct SectionEntry {
  char name[24];  // padded with NUL
  std::uint64_t offset;
  std::uint64_t size;
  std::uint64_t checksum;  // XXH3-64 of the section's bytes
};
static_assert(sizeof(SectionEntry) == 48);

struct SectionInfo {
  const char* name;
  std::size_t item_size;
};
// In the order of Section.
constexpr std::array<SectionInfo, section_count> section_info{{
    {"shard_name_begin", 8}, {"shard_names", 1}, {"shard_size", 8}, {"shard_mtime_ns", 8}, {"sample_begin", 8},
    {"stray_begin", 8}, {"uid", 16}, {"base", 8}, {"member_begin", 4}, {"flags", 2}, {"width", 4}, {"height", 4},
    {"key_begin", 8}, {"keys", 1}, {"members", 8}, {"escapes", 24}, {"ext_begin", 8}, {"exts", 1},
    {"stray_name_begin", 8}, {"stray_names", 1}, {"stray_offset", 8}, {"stray_size", 8}, {"stray_kind", 1},
    {"report_shard", 8}, {"report_offset", 8}, {"report_damage", 1}, {"report_begin", 8}, {"report_text", 1},
}};

constexpr std::uint64_t head_size = sizeof(Header) + section_count * sizeof(SectionEntry);

std::uint64_t round_up(std::uint64_t n, std::uint64_t to) { return (n + (to - 1)) / to * to; }

struct Unpacked {
  std::uint64_t offset, size;
  std::uint32_t ext;
};

/// One packed member whose predecessor (or sample base) ends at `end`; false where the escape is out of range.
bool unpack_member(std::uint64_t packed, std::uint64_t end, std::span<const MemberEscape> escapes, Unpacked& out) {
  using namespace packed_member;
  const std::uint64_t gap = packed >> 48;
  if (gap == gap_escape) {
    const std::uint64_t index = packed & largest_size;
    if (index >= escapes.size()) return false;
    const MemberEscape& escape = escapes[static_cast<std::size_t>(index)];
    out = {escape.data_offset, escape.size, escape.ext};
    return true;
  }
  out = {end + gap * block_size, packed & largest_size, static_cast<std::uint32_t>(packed >> 32 & largest_ext)};
  return true;
}

std::uint64_t padded_end(const Unpacked& member) {
  return member.offset + round_up(member.size, packed_member::block_size);
}

/// Writes sections one after the other through a buffer, and the header at last.
class SegmentWriter {
 public:
  explicit SegmentWriter(const std::string& path) : file_(File::open_write(path)), state_(XXH3_createState()) {
    if (state_ == nullptr) throw Error(Code::io, "out of memory", path, std::nullopt, ENOMEM);
    buffer_.reserve(buffer_size);
    zeros(round_up(head_size, alignment));
  }
  ~SegmentWriter() { XXH3_freeState(state_); }
  SegmentWriter(const SegmentWriter&) = delete;
  SegmentWriter& operator=(const SegmentWriter&) = delete;

  void begin(Section section) {
    zeros(round_up(position_, alignment) - position_);
    current_ = static_cast<std::size_t>(section);
    SectionEntry& entry = entries_[current_];
    std::strncpy(entry.name, section_info[current_].name, sizeof(entry.name) - 1);
    entry.offset = position_;
    XXH3_64bits_reset(state_);
  }
  void put(std::span<const std::byte> bytes) {
    XXH3_64bits_update(state_, bytes.data(), bytes.size());
    append(bytes);
  }
  template <typename T>
  void put_all(const std::vector<T>& values) {
    put(std::as_bytes(std::span(values)));
  }
  template <typename T>
  void put_one(const T& value) {
    put(std::as_bytes(std::span(&value, 1)));
  }
  void put_text(std::string_view text) { put(std::as_bytes(std::span(text.data(), text.size()))); }
  void end() {
    entries_[current_].size = position_ - entries_[current_].offset;
    entries_[current_].checksum = XXH3_64bits_digest(state_);
  }
  void finish(Header header) {
    flush();
    std::memcpy(header.magic, magic, sizeof(magic));
    header.version = version;
    header.num_sections = section_count;
    header.file_size = position_;
    header.checksum = 0;
    std::array<std::byte, head_size> head;
    std::memcpy(head.data(), &header, sizeof(header));
    std::memcpy(head.data() + sizeof(header), entries_.data(), sizeof(entries_));
    header.checksum = XXH3_64bits(head.data(), head.size());
    std::memcpy(head.data(), &header, sizeof(header));
    file_.pwrite_all(head, 0);
    file_.close();
  }

 private:
  static constexpr std::size_t buffer_size = 1 << 20;

  void append(std::span<const std::byte> bytes) {
    position_ += bytes.size();
    if (buffer_.size() + bytes.size() > buffer_size) flush();
    if (bytes.size() > buffer_size) file_.write_all(bytes);
    else buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void zeros(std::uint64_t count) {
    const std::vector<std::byte> none(static_cast<std::size_t>(count), std::byte{0});
    append(none);
  }
  void flush() {
    file_.write_all(buffer_);
    buffer_.clear();
  }

  File file_;
  XXH3_state_t* state_;
  std::vector<std::byte> buffer_;
  std::uint64_t position_ = 0;
  std::size_t current_ = 0;
  std::array<SectionEntry, section_count> entries_{};
};

using Shards = std::vector<ShardIndex>;

void write_strings(SegmentWriter& out, const Shards& shards, StringTable ShardIndex::*table, Section begin, Section text) {
  out.begin(begin);
  std::uint64_t total = 0;
  out.put_one(total);
  for (const ShardIndex& shard : shards) {
    const StringTable& strings = shard.*table;
    for (std::size_t i = 1; i < strings.begin.size(); ++i) out.put_one(total + strings.begin[i]);
    total += strings.text.size();
  }
  out.end();
  out.begin(text);
  for (const ShardIndex& shard : shards) out.put_text((shard.*table).text);
  out.end();
}

void write_table(SegmentWriter& out, const StringTable& strings, Section begin, Section text) {
  out.begin(begin);
  out.put_all(strings.begin);
  out.end();
  out.begin(text);
  out.put_text(strings.text);
  out.end();
}

template <typename T>
void write_column(SegmentWriter& out, const Shards& shards, std::vector<T> ShardIndex::*column, Section section) {
  out.begin(section);
  for (const ShardIndex& shard : shards) out.put_all(shard.*column);
  out.end();
}

template <typename T, typename Value>
void write_each(SegmentWriter& out, const Shards& shards, Section section, const Value& value) {
  out.begin(section);
  for (const ShardIndex& shard : shards) out.put_one(static_cast<T>(value(shard)));
  out.end();
}

template <typename Count>
void write_prefix(SegmentWriter& out, const Shards& shards, Section section, const Count& count) {
  out.begin(section);
  std::uint64_t total = 0;
  out.put_one(total);
  for (const ShardIndex& shard : shards) {
    total += count(shard);
    out.put_one(total);
  }
  out.end();
}

/// Packed members with the segment's numbers of extensions and escapes in place of the shard's.
void write_members(SegmentWriter& out, const Shards& shards) {
  using namespace packed_member;
  std::unordered_map<std::string, std::uint32_t> ids;
  StringTable exts;
  std::vector<MemberEscape> escapes;
  std::vector<std::uint32_t> ids_of_shard;
  out.begin(Section::members);
  for (const ShardIndex& shard : shards) {
    ids_of_shard.clear();
    for (std::size_t i = 0; i < shard.exts.size(); ++i) {
      const auto [at, fresh] = ids.emplace(std::string(shard.exts[i]), static_cast<std::uint32_t>(exts.size()));
      if (fresh) exts.add(shard.exts[i]);
      ids_of_shard.push_back(at->second);
    }
    std::size_t m = 0;
    for (std::size_t i = 0; i < shard.base.size(); ++i) {
      std::uint64_t end = shard.base[i];
      for (std::uint32_t k = 0; k < shard.member_count[i]; ++k, ++m) {
        Unpacked member{};
        unpack_member(shard.members[m], end, shard.escapes, member);
        end = padded_end(member);
        const std::uint32_t ext = ids_of_shard[member.ext];
        std::uint64_t packed = shard.members[m];
        if (packed >> 48 == gap_escape || ext > largest_ext) {
          packed = gap_escape << 48 | escapes.size();
          escapes.push_back({member.offset, member.size, ext, 0});
        } else {
          packed = (packed & ~(largest_ext << 32)) | static_cast<std::uint64_t>(ext) << 32;
        }
        out.put_one(packed);
      }
    }
  }
  out.end();
  out.begin(Section::escapes);
  out.put_all(escapes);
  out.end();
  write_table(out, exts, Section::ext_begin, Section::exts);
}

void write_reports(SegmentWriter& out, const std::vector<SegmentStats::Report>& reports) {
  StringTable texts;
  out.begin(Section::report_shard);
  for (const auto& r : reports) out.put_one(r.shard);
  out.end();
  out.begin(Section::report_offset);
  for (const auto& r : reports) out.put_one(r.report.offset);
  out.end();
  out.begin(Section::report_damage);
  for (const auto& r : reports) out.put_one(static_cast<std::uint8_t>(r.report.damage ? 1 : 0));
  out.end();
  for (const auto& r : reports) texts.add(r.report.message);
  write_table(out, texts, Section::report_begin, Section::report_text);
}

SegmentStats count(const Shards& shards) {
  SegmentStats stats;
  stats.num_shards = shards.size();
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const ShardIndex& shard = shards[s];
    stats.num_samples += shard.flags.size();
    stats.num_members += shard.members.size();
    stats.num_strays += shard.stray_kind.size();
    stats.tar_bytes += shard.tar_size;
    for (const std::uint16_t flags : shard.flags) {
      for (unsigned bit = 0; bit < 16; ++bit) stats.flag_counts[bit] += flags >> bit & 1U;
    }
    for (const TarReport& report : shard.reports) stats.reports.push_back({s, report});
  }
  return stats;
}

void shrink(ShardIndex& shard) {
  shard.uid.shrink_to_fit();
  shard.base.shrink_to_fit();
  shard.member_count.shrink_to_fit();
  shard.flags.shrink_to_fit();
  shard.width.shrink_to_fit();
  shard.height.shrink_to_fit();
  shard.keys.begin.shrink_to_fit();
  shard.keys.text.shrink_to_fit();
  shard.members.shrink_to_fit();
}

}  // namespace

const char* section_name(Section section) { return section_info[static_cast<std::size_t>(section)].name; }
std::size_t section_item_size(Section section) { return section_info[static_cast<std::size_t>(section)].item_size; }

SegmentStats write_segment(std::span<const ShardSource> sources, const std::string& out_path, const IndexOptions& options,
                           unsigned threads, const Poll& poll) {
  Shards shards(sources.size());
  parallel_for(
      sources.size(), threads,
      [&](std::size_t i) {
        shards[i] = index_tar_file(sources[i].path, options);
        shrink(shards[i]);
      },
      poll);
  SegmentStats stats = count(shards);
  if (stats.num_members > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Code::invalid_argument, "a segment holds at most 4294967295 members, these shards have " +
                                            std::to_string(stats.num_members) + ": write more segments of fewer shards",
                out_path);
  }

  SegmentWriter out(out_path);
  StringTable names;
  for (const ShardSource& source : sources) names.add(source.name);
  write_table(out, names, Section::shard_name_begin, Section::shard_names);
  write_each<std::uint64_t>(out, shards, Section::shard_size, [](const ShardIndex& s) { return s.tar_size; });
  write_each<std::int64_t>(out, shards, Section::shard_mtime_ns, [](const ShardIndex& s) { return s.mtime_ns; });
  write_prefix(out, shards, Section::sample_begin, [](const ShardIndex& s) { return s.flags.size(); });
  write_prefix(out, shards, Section::stray_begin, [](const ShardIndex& s) { return s.stray_kind.size(); });
  write_column(out, shards, &ShardIndex::uid, Section::uid);
  write_column(out, shards, &ShardIndex::base, Section::base);
  out.begin(Section::member_begin);
  std::uint32_t total = 0;
  out.put_one(total);
  for (const ShardIndex& shard : shards) {
    for (const std::uint32_t n : shard.member_count) out.put_one(total += n);
  }
  out.end();
  write_column(out, shards, &ShardIndex::flags, Section::flags);
  write_column(out, shards, &ShardIndex::width, Section::width);
  write_column(out, shards, &ShardIndex::height, Section::height);
  write_strings(out, shards, &ShardIndex::keys, Section::key_begin, Section::keys);
  write_members(out, shards);
  write_strings(out, shards, &ShardIndex::stray_names, Section::stray_name_begin, Section::stray_names);
  write_column(out, shards, &ShardIndex::stray_offset, Section::stray_offset);
  write_column(out, shards, &ShardIndex::stray_size, Section::stray_size);
  write_column(out, shards, &ShardIndex::stray_kind, Section::stray_kind);
  write_reports(out, stats.reports);
  Header header{};
  header.num_shards = stats.num_shards;
  header.num_samples = stats.num_samples;
  header.num_members = stats.num_members;
  header.num_strays = stats.num_strays;
  out.finish(header);
  return stats;
}

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
  if (verify) verify_all();
}

void SegmentFile::corrupt(Section section, const std::string& what) const {
  const auto at = static_cast<std::uint64_t>(bytes(section).data() - file_.bytes().data());
  throw Error(Code::corrupt_data, std::string("index segment: section ") + section_name(section) + ": " + what, path(), at);
}

void SegmentFile::check_prefix(Section section, std::uint64_t end) const {
  const auto values = column<std::uint64_t>(section);
  if (values.empty() || values.front() != 0 || values.back() != end || !std::is_sorted(values.begin(), values.end())) {
    corrupt(section, "does not ascend from 0 to " + std::to_string(end));
  }
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

std::vector<std::int64_t> SegmentFile::picture_members(std::uint64_t first, std::uint64_t last) const {
  const auto member_begin = column<std::uint32_t>(Section::member_begin);
  std::vector<bool> is_picture(static_cast<std::size_t>(num_exts_));
  for (std::uint64_t e = 0; e < num_exts_; ++e) {
    is_picture[static_cast<std::size_t>(e)] = is_picture_ext(text(Section::ext_begin, Section::exts, e));
  }
  const std::uint64_t skipped = member_begin[static_cast<std::size_t>(first)];
  std::vector<std::uint32_t> ext(static_cast<std::size_t>(num_members_of(first, last)));
  unpack(first, last, {}, {}, ext);
  std::vector<std::int64_t> out(static_cast<std::size_t>(last - first), -1);
  for (std::uint64_t i = first; i < last; ++i) {
    for (std::uint64_t m = member_begin[static_cast<std::size_t>(i)]; m < member_begin[static_cast<std::size_t>(i) + 1]; ++m) {
      if (!is_picture[ext[static_cast<std::size_t>(m - skipped)]]) continue;
      out[static_cast<std::size_t>(i - first)] = static_cast<std::int64_t>(m);
      break;
    }
  }
  return out;
}

std::vector<SegmentFile::MemberRow> SegmentFile::regular_members(std::uint64_t shard) const {
  const auto member_begin = column<std::uint32_t>(Section::member_begin);
  const std::uint64_t first = column<std::uint64_t>(Section::sample_begin)[static_cast<std::size_t>(shard)];
  const std::uint64_t last = column<std::uint64_t>(Section::sample_begin)[static_cast<std::size_t>(shard) + 1];
  const std::uint64_t skipped = member_begin[static_cast<std::size_t>(first)];
  const std::size_t n = static_cast<std::size_t>(num_members_of(first, last));
  std::vector<std::uint64_t> offset(n);
  std::vector<std::uint64_t> size(n);
  std::vector<std::uint32_t> ext(n);
  unpack(first, last, offset, size, ext);
  std::vector<MemberRow> rows;
  rows.reserve(n);
  for (std::uint64_t i = first; i < last; ++i) {
    for (std::uint64_t m = member_begin[static_cast<std::size_t>(i)]; m < member_begin[static_cast<std::size_t>(i) + 1]; ++m) {
      const std::size_t at = static_cast<std::size_t>(m - skipped);
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
