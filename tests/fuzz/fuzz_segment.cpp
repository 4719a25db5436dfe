// The index segment's reader on any bytes. The checksums would keep a fuzzer out: half of the inputs get right ones,
// so that what a hostile writer could have made is read as well. The last byte of the input chooses.
#include <xxhash.h>

#include <array>
#include <cstring>
#include <vector>

#include "core/index/tar_segment.hpp"
#include "core/index/tar_segment_format.hpp"
#include "fuzz_check.hpp"

using namespace dcfast;
using namespace dcfast::segment_format;

namespace {

enum Repair : std::uint8_t { repair_checksums = 1, repair_size = 2, verify_all = 4 };

void repair(std::vector<std::byte>& bytes, std::uint8_t choice) {
  if (bytes.size() < head_size) return;
  Header header{};
  std::memcpy(&header, bytes.data(), sizeof(header));
  if ((choice & repair_size) != 0) header.file_size = bytes.size();
  if ((choice & repair_checksums) == 0) return;
  std::array<SectionEntry, section_count> entries;
  std::memcpy(entries.data(), bytes.data() + sizeof(header), sizeof(entries));
  for (SectionEntry& entry : entries) {
    if (entry.offset > bytes.size() || entry.size > bytes.size() - entry.offset) continue;
    entry.checksum = XXH3_64bits(bytes.data() + entry.offset, static_cast<std::size_t>(entry.size));
  }
  header.checksum = 0;
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), entries.data(), sizeof(entries));
  header.checksum = XXH3_64bits(bytes.data(), head_size);
  std::memcpy(bytes.data(), &header, sizeof(header));
}

// Everything that a reader of the file can ask for.
std::size_t read_all(const SegmentFile& segment) {
  std::size_t seen = 0;
  std::string name;
  for (std::uint64_t shard = 0; shard < segment.num_shards(); ++shard) {
    seen += segment.text(Section::shard_name_begin, Section::shard_names, shard).size();
    for (const SegmentFile::MemberRow& row : segment.regular_members(shard)) {
      name.clear();
      segment.append_name(row, name);
      seen += name.size() + row.size;
    }
  }
  for (std::uint64_t i = 0; i < segment.num_samples(); ++i) {
    seen += segment.text(Section::key_begin, Section::keys, i).size();
    MemberColumns members;
    segment.unpack(i, i + 1, members);
    for (const std::uint32_t e : members.ext) MUST(e < segment.num_exts());
  }
  for (const std::int64_t m : segment.image_members()) {
    MUST(m >= -1 && m < static_cast<std::int64_t>(segment.num_members()));
  }
  for (std::uint64_t i = 0; i < segment.num_strays(); ++i) {
    seen += segment.text(Section::stray_name_begin, Section::stray_names, i).size();
  }
  for (std::uint64_t i = 0; i < segment.num_reports(); ++i) {
    seen += segment.report(i).report.message.size();
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static MemoryFile file;
  const auto* const first = reinterpret_cast<const std::byte*>(data);
  std::vector<std::byte> bytes(first, first + size - 1);
  const std::uint8_t choice = data[size - 1];
  repair(bytes, choice);
  const std::string& path = file.fill(bytes);
  bool verified = false;
  try {
    const SegmentFile segment(path, (choice & verify_all) != 0);
    verified = (choice & verify_all) != 0;
    MUST(segment.num_samples() <= size && segment.num_members() <= size && segment.num_shards() <= size);
    (void)read_all(segment);
  } catch (const Error& error) {
    MUST(error.code() == Code::corrupt_data && error.path() == path && error.offset().has_value());
    MUST(!verified);  // a file that passed verification answers everything
  }
  return 0;
}
