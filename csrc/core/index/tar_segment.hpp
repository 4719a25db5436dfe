// Segment: one file with the index of a range of shards, as columns. Little endian, sections at multiples of
// 64 bytes, each with an XXH3-64 checksum; made to be mapped. The bytes: docs/formats.md, "Index segment".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/index/tar_index.hpp"
#include "core/system/mapped_file.hpp"
#include "core/system/parallel.hpp"

namespace dcfast {

struct ShardSource {
  std::string path;  // to open
  std::string name;  // to store
};

struct SegmentStats {
  std::uint64_t num_shards = 0, num_samples = 0, num_members = 0, num_strays = 0, tar_bytes = 0;
  std::array<std::uint64_t, 16> flag_counts{};  // samples with bit i
  struct Report {
    std::uint64_t shard;
    TarReport report;
  };
  std::vector<Report> reports;  // of all shards, in their order
};

/// Indexes shards, `threads` at a time, and writes the segment to out_path, which the caller renames when whole.
/// The bytes do not depend on `threads`. Throws Error{io} where a shard or the output fails; damaged shards do
/// not throw. Memory: per thread what index_tar states, and the columns of the whole segment once, about 60
/// bytes a sample, 8 a member, and the keys. Cost: the reads of the headers, json members and image headers.
SegmentStats write_segment(std::span<const ShardSource> shards, const std::string& out_path, const IndexOptions& options,
                           unsigned threads, const Poll& poll = {});

/// The same with the shards' indexes from anywhere: index_shard(i) gives that of the shard to store as names[i].
/// It is called from several threads; what it throws is passed on.
using IndexShard = std::function<ShardIndex(std::size_t)>;
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
const char* section_name(Section section);
std::size_t section_item_size(Section section);

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
  std::uint64_t num_reports() const noexcept { return num_reports_; }
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

  /// Members of samples [first, last), first <= last <= num_samples() (here and below: checked by the caller).
  std::uint64_t num_members_of(std::uint64_t first, std::uint64_t last) const;
  /// Unpacks the members of samples [first, last): spans have room for exactly their members.
  /// Empty spans are skipped.
  void unpack(std::uint64_t first, std::uint64_t last, std::span<std::uint64_t> offset, std::span<std::uint64_t> size,
              std::span<std::uint32_t> ext) const;
  /// The columns of one shard as index_tar made them: what a new segment needs to take it over unread.
  ShardIndex shard_index(std::uint64_t shard) const;
  /// Where the members of samples [first, last) begin, and where those of the last end: a copy that ascends, to the
  /// number of members at most.
  std::vector<std::uint32_t> member_ends(std::uint64_t first, std::uint64_t last) const;
  /// Index of the first image of each sample of [first, last) in the segment's members, or -1.
  std::vector<std::int64_t> image_members(std::uint64_t first, std::uint64_t last) const;

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
  void check_prefix(Section section, std::uint64_t end) const;
  void keep(Section section, std::uint64_t end, std::vector<std::uint64_t>& values);
  void verify_all() const;

  MappedFile file_;
  std::uint64_t num_shards_ = 0, num_samples_ = 0, num_members_ = 0, num_strays_ = 0, num_reports_ = 0, num_exts_ = 0;
  std::array<std::span<const std::byte>, static_cast<std::size_t>(Section::count)> sections_{};
  std::array<std::span<const std::byte>, static_cast<std::size_t>(Section::count)> kept_{};  // in memory, not in the map
  std::array<std::uint64_t, static_cast<std::size_t>(Section::count)> checksums_{};
  std::vector<std::uint64_t> sample_begin_, stray_begin_;
};

}  // namespace dcfast
