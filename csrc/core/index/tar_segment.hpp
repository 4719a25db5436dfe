// Segment: one file with the index of a range of shards, as columns. Little endian, sections at multiples of
// 64 bytes, each with an XXH3-64 checksum; made to be mapped. The bytes: docs/formats.md, "Index segment".
#pragma once

#include <array>

#include "core/index/tar_index.hpp"
#include "core/system/mapped_file.hpp"
#include "core/system/parallel.hpp"

namespace dcfast {

/// What is to be said about a shard, by its number in the segment.
struct ShardReport {
  std::uint64_t shard;
  TarReport report;
};

struct SegmentStats {
  std::uint64_t num_shards = 0, num_samples = 0, num_members = 0, num_strays = 0, tar_bytes = 0;
  std::array<std::uint64_t, 16> flag_counts{};  // samples with bit i
  std::vector<ShardReport> reports;             // of all shards, in their order
};

/// Gives the index of shard i.
using IndexShard = std::function<ShardIndex(std::size_t)>;

/// Writes the segment of the shards index_shard(i), to store as names[i], to out_path, which the caller renames when whole.
/// index_shard is called from `threads` threads; what it throws is passed on. The bytes do not depend on `threads`.
/// Throws Error{io} where the output fails. Memory: per thread what index_shard takes (see index_tar), and the columns of
/// the whole segment once, about 60 bytes a sample, 8 a member, and the keys.
SegmentStats write_segment(std::span<const std::string> names, const IndexShard& index_shard, const std::string& out_path,
                           unsigned threads, const Poll& poll = {});

/// What a section is and where it lies.
enum class Section : std::uint32_t {
  shard_name_begin, shard_names, shard_size, shard_mtime_ns, sample_begin, stray_begin,
  uid, base, member_begin, flags, width, height, key_begin, keys,
  members, escapes, ext_begin, exts,
  stray_name_begin, stray_names, stray_offset, stray_size, stray_kind,
  report_shard, report_offset, report_damage, report_begin, report_text,
  count
};

/// Members of samples, one after the other.
struct MemberColumns {
  std::vector<std::uint64_t> offset;  // in the shard
  std::vector<std::uint64_t> size;
  std::vector<std::uint32_t> ext;  // extension number

  void resize(std::size_t n) {
    offset.resize(n);
    size.resize(n);
    ext.resize(n);
  }
};

/// A mapped segment. Opening checks the header and that every section lies in the file and has the size the
/// counts demand; `verify` also reads everything: checksums, order of the prefix columns, packed members.
/// Throws Error{corrupt_data} with path, offset and the section's name.
class SegmentFile {
 public:
  SegmentFile(const std::string& path, bool verify);

  std::uint64_t num_shards() const noexcept { return num_shards_; }
  std::uint64_t num_samples() const noexcept { return num_samples_; }
  std::uint64_t num_members() const noexcept { return num_members_; }
  std::uint64_t num_strays() const noexcept { return num_strays_; }
  std::uint64_t num_exts() const noexcept { return num_exts_; }
  const std::string& path() const noexcept { return file_.path(); }
  std::span<const std::byte> bytes(Section section) const noexcept {
    const auto& kept = kept_[static_cast<std::size_t>(section)];
    return kept.empty() ? sections_[static_cast<std::size_t>(section)] : kept;
  }
  template <typename T>
  std::span<const T> column(Section section) const noexcept {
    const auto b = bytes(section);
    return {reinterpret_cast<const T*>(b.data()), b.size() / sizeof(T)};
  }
  /// String i of a pair of sections (begin column, text). Throws corrupt_data where the column is out of order.
  std::string_view text(Section begin, Section text, std::uint64_t i) const;
  std::string_view shard_name(std::uint64_t i) const { return text(Section::shard_name_begin, Section::shard_names, i); }
  std::string_view key(std::uint64_t i) const { return text(Section::key_begin, Section::keys, i); }
  std::string_view ext(std::uint64_t i) const { return text(Section::ext_begin, Section::exts, i); }
  std::string_view stray_name(std::uint64_t i) const { return text(Section::stray_name_begin, Section::stray_names, i); }
  std::uint64_t num_reports() const noexcept { return column<std::uint64_t>(Section::report_shard).size(); }
  ShardReport report(std::uint64_t i) const;
  /// The first of a shard's samples, and the first behind them.
  std::pair<std::uint64_t, std::uint64_t> samples_of(std::uint64_t shard) const;

  /// Members of samples [first, last), first <= last <= num_samples() (here and below: checked by the caller).
  std::uint64_t num_members_of(std::uint64_t first, std::uint64_t last) const;
  /// Unpacks the members of samples [first, last): spans have room for exactly their members.
  /// Empty spans are skipped.
  void unpack(std::uint64_t first, std::uint64_t last, std::span<std::uint64_t> offset, std::span<std::uint64_t> size,
              std::span<std::uint32_t> ext) const;
  void unpack(std::uint64_t first, std::uint64_t last, MemberColumns& out) const;
  /// The same, and where each sample's members begin among them, and the last one's end: numbers that ascend from 0.
  std::vector<std::uint32_t> unpack_samples(std::uint64_t first, std::uint64_t last, MemberColumns& out) const;
  /// The columns of one shard as index_tar made them: what a new segment needs to take it over unread.
  ShardIndex shard_index(std::uint64_t shard) const;
  /// Index of the first image of each sample in the segment's members, or -1.
  std::vector<std::int64_t> image_members() const;

  /// Every regular member of one shard in tar order, strays included.
  struct MemberRow {
    std::uint64_t offset;
    std::uint64_t size;
    std::uint64_t sample;  // or no_sample
    std::uint64_t index;   // the member's extension, or the stray
  };
  static constexpr std::uint64_t no_sample = ~std::uint64_t{0};
  std::vector<MemberRow> regular_members(std::uint64_t shard) const;
  /// Appends the exact raw name of a row.
  void append_name(const MemberRow& row, std::string& out) const;

 private:
  [[noreturn]] void corrupt(Section section, const std::string& what) const;
  template <typename T>
  void check_prefix(Section section, std::span<const T> values, std::uint64_t end) const;
  void keep(Section section, std::uint64_t end, std::vector<std::uint64_t>& values);
  void verify_all() const;
  std::vector<std::uint32_t> member_begins(std::uint64_t first, std::uint64_t last) const;

  MappedFile file_;
  std::uint64_t num_shards_ = 0, num_samples_ = 0, num_members_ = 0, num_strays_ = 0, num_exts_ = 0;
  std::array<std::span<const std::byte>, static_cast<std::size_t>(Section::count)> sections_{};
  std::array<std::span<const std::byte>, static_cast<std::size_t>(Section::count)> kept_{};  // in memory, not in the map
  std::array<std::uint64_t, static_cast<std::size_t>(Section::count)> checksums_{};
  std::vector<std::uint64_t> sample_begin_, stray_begin_;
};

}  // namespace dcfast
