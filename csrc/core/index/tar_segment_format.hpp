// The bytes of a segment, for its writer and its reader: docs/formats.md, "Index segment".
#pragma once

#include "core/index/tar_segment.hpp"

namespace dcfast::segment_format {

inline constexpr char magic[8] = {'D', 'C', 'F', 'A', 'S', 'T', 'I', 'X'};
inline constexpr std::uint32_t version = 1;
inline constexpr std::uint64_t alignment = 64;
inline constexpr std::size_t section_count = static_cast<std::size_t>(Section::count);

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
inline constexpr std::array<SectionInfo, section_count> section_info{{
    {"shard_name_begin", 8}, {"shard_names", 1}, {"shard_size", 8}, {"shard_mtime_ns", 8}, {"sample_begin", 8},
    {"stray_begin", 8}, {"uid", 16}, {"base", 8}, {"member_begin", 4}, {"flags", 2}, {"width", 4}, {"height", 4},
    {"key_begin", 8}, {"keys", 1}, {"members", 8}, {"escapes", 24}, {"ext_begin", 8}, {"exts", 1},
    {"stray_name_begin", 8}, {"stray_names", 1}, {"stray_offset", 8}, {"stray_size", 8}, {"stray_kind", 1},
    {"report_shard", 8}, {"report_offset", 8}, {"report_damage", 1}, {"report_begin", 8}, {"report_text", 1},
}};

constexpr const SectionInfo& info_of(Section section) { return section_info[static_cast<std::size_t>(section)]; }

inline constexpr std::uint64_t head_size = sizeof(Header) + section_count * sizeof(SectionEntry);

inline std::uint64_t round_up(std::uint64_t n, std::uint64_t to) { return (n + (to - 1)) / to * to; }

struct Unpacked {
  std::uint64_t offset, size;
  std::uint32_t ext;
};

/// One packed member whose predecessor (or sample base) ends at `end`; false where the escape is out of range.
inline bool unpack_member(std::uint64_t packed, std::uint64_t end, std::span<const MemberEscape> escapes, Unpacked& out) {
  using namespace packed_member;
  const std::uint64_t gap = packed >> 48;
  if (gap == gap_escape) {
    const std::uint64_t index = packed & largest_size;
    if (index >= escapes.size()) return false;
    const MemberEscape& escape = escapes[index];
    out = {escape.data_offset, escape.size, escape.ext};
    return true;
  }
  out = {end + gap * block_size, packed & largest_size, static_cast<std::uint32_t>(packed >> 32 & largest_ext)};
  return true;
}

inline std::uint64_t padded_end(const Unpacked& member) {
  return member.offset + round_up(member.size, packed_member::block_size);
}

}  // namespace dcfast::segment_format
