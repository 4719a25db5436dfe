// Writing a segment: shards are indexed in parallel, then their columns are streamed out section by section.
#include <xxhash.h>

#include <cstring>

#include "core/index/tar_segment_format.hpp"

namespace dcfast {

namespace {

using namespace segment_format;

/// Writes sections one after the other through a buffer, and the header at last.
class SegmentWriter {
 public:
  explicit SegmentWriter(const std::string& path) : file_(File::open_write(path)), state_(XXH3_createState()) {
    if (state_ == nullptr) throw Error(Code::io, "out of memory", path, std::nullopt, ENOMEM);
    buffer_.reserve(buffer_size);
    zeros(head_size);
  }
  ~SegmentWriter() { XXH3_freeState(state_); }
  SegmentWriter& operator=(SegmentWriter&&) = delete;

  /// The section of what is put from here on; ends the one before.
  void begin(Section section) {
    end();
    zeros(round_up(position_, alignment) - position_);
    current_ = &entries_[static_cast<std::size_t>(section)];
    std::strncpy(current_->name, info_of(section).name, sizeof(current_->name) - 1);
    current_->offset = position_;
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
  void put_text(std::string_view text) { put(std::as_bytes(std::span(text))); }
  void finish(const SegmentStats& stats) {
    end();
    flush();
    Header header{{}, version, section_count, position_, stats.num_shards, stats.num_samples, stats.num_members,
                  stats.num_strays, 0};
    std::memcpy(header.magic, magic, sizeof(magic));
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

  void end() {
    if (current_ == nullptr) return;
    current_->size = position_ - current_->offset;
    current_->checksum = XXH3_64bits_digest(state_);
  }

  void append(std::span<const std::byte> bytes) {
    position_ += bytes.size();
    if (buffer_.size() + bytes.size() > buffer_size) flush();
    if (bytes.size() > buffer_size) file_.write_all(bytes);
    else buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void zeros(std::uint64_t count) { append(std::vector<std::byte>(count)); }
  void flush() {
    file_.write_all(buffer_);
    buffer_.clear();
  }

  File file_;
  XXH3_state_t* state_;
  std::vector<std::byte> buffer_;
  std::uint64_t position_ = 0;
  SectionEntry* current_ = nullptr;
  std::array<SectionEntry, section_count> entries_{};
};

using Shards = std::vector<ShardIndex>;

void write_table(SegmentWriter& out, const StringTable& strings, Section begin, Section text) {
  out.begin(begin);
  out.put_all(strings.begin);
  out.begin(text);
  out.put_text(strings.text);
}

void write_strings(SegmentWriter& out, const Shards& shards, StringTable ShardIndex::*table, Section begin, Section text) {
  out.begin(begin);
  std::uint64_t total = 0;
  out.put_one(total);
  for (const ShardIndex& shard : shards) {
    const StringTable& strings = shard.*table;
    for (std::size_t i = 1; i < strings.begin.size(); ++i) out.put_one(total + strings.begin[i]);
    total += strings.text.size();
  }
  out.begin(text);
  for (const ShardIndex& shard : shards) out.put_text((shard.*table).text);
}

template <typename T>
void write_column(SegmentWriter& out, const Shards& shards, std::vector<T> ShardIndex::*column, Section section) {
  out.begin(section);
  for (const ShardIndex& shard : shards) out.put_all(shard.*column);
}

/// A value of each row.
template <typename Row, typename Value>
void write_each(SegmentWriter& out, const std::vector<Row>& rows, Section section, const Value& value) {
  out.begin(section);
  for (const Row& row : rows) out.put_one(value(row));
}

/// 0, and the sum of the counts up to and with each shard's.
template <typename Count>
void write_prefix(SegmentWriter& out, const Shards& shards, Section section, const Count& count) {
  std::uint64_t total = 0;
  out.begin(section);
  out.put_one(total);
  for (const ShardIndex& shard : shards) out.put_one(total += count(shard));
}

/// Packed members with the segment's numbers of extensions and escapes in place of the shard's.
void write_members(SegmentWriter& out, const Shards& shards) {
  using namespace packed_member;
  StringTable exts;
  StringIds<> ids(exts);
  std::vector<MemberEscape> escapes;
  std::vector<std::uint32_t> ids_of_shard;
  out.begin(Section::members);
  for (const ShardIndex& shard : shards) {
    ids_of_shard.clear();
    for (std::size_t i = 0; i < shard.exts.size(); ++i) {
      std::uint32_t id = ids.find(shard.exts[i]);
      if (id == ids.none) {
        id = static_cast<std::uint32_t>(exts.size());
        exts.add(shard.exts[i]);
        ids.add(id);
      }
      ids_of_shard.push_back(id);
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
          packed = (packed & ~(largest_ext << 32)) | std::uint64_t{ext} << 32;
        }
        out.put_one(packed);
      }
    }
  }
  out.begin(Section::escapes);
  out.put_all(escapes);
  write_table(out, exts, Section::ext_begin, Section::exts);
}

void write_reports(SegmentWriter& out, const std::vector<ShardReport>& reports) {
  write_each(out, reports, Section::report_shard, [](const ShardReport& r) { return r.shard; });
  write_each(out, reports, Section::report_offset, [](const ShardReport& r) { return r.report.offset; });
  write_each(out, reports, Section::report_damage, [](const ShardReport& r) { return std::uint8_t{r.report.damage}; });
  StringTable texts;
  for (const ShardReport& r : reports) texts.add(r.report.message);
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
  const auto shrink_all = [](auto&... columns) { (columns.shrink_to_fit(), ...); };
  shrink_all(shard.uid, shard.base, shard.member_count, shard.flags, shard.width, shard.height, shard.keys,
             shard.members, shard.escapes, shard.exts, shard.stray_names, shard.stray_offset, shard.stray_size,
             shard.stray_kind);
}

}  // namespace

SegmentStats write_segment(std::span<const std::string> shard_names, const IndexShard& index_shard, const std::string& out_path,
                           unsigned threads, const Poll& poll) {
  Shards shards(shard_names.size());
  parallel_for(shard_names.size(), threads, [&](std::size_t i) {
    shards[i] = index_shard(i);
    shrink(shards[i]);
  }, poll);
  SegmentStats stats = count(shards);
  if (stats.num_members > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Code::invalid_argument, cat("a segment holds at most 4294967295 members, these shards have ", stats.num_members,
                ": write more segments of fewer shards"), out_path);
  }

  SegmentWriter out(out_path);
  StringTable names;
  for (const std::string& name : shard_names) names.add(name);
  write_table(out, names, Section::shard_name_begin, Section::shard_names);
  write_each(out, shards, Section::shard_size, [](const ShardIndex& s) { return s.tar_size; });
  write_each(out, shards, Section::shard_mtime_ns, [](const ShardIndex& s) { return s.mtime_ns; });
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
  out.finish(stats);
  return stats;
}

}  // namespace dcfast
