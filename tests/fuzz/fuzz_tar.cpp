// The tar walker and indexer on any bytes. Besides memory safety: every member lies in the file, members come in
// order, the columns fit each other, and the answer does not depend on what is read beside them.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/index/tar_index.hpp"
#include "../cpp/index/memory_reader.hpp"
#include "core/index/tar_limits.hpp"
#include "fuzz_check.hpp"

using namespace dcfast;

namespace {

void walk(std::span<const std::byte> bytes, std::size_t& members) {
  MemoryReader reader(bytes);
  TarWalker walker(reader);
  TarMember member;
  std::uint64_t end = 0;
  while (walker.next(member)) {
    ++members;
    MUST(member.header_offset >= end);
    MUST(member.data_offset > member.header_offset);
    MUST(member.data_offset <= bytes.size() && member.size <= bytes.size() - member.data_offset);
    MUST(member.name.size() <= bytes.size() + tar_limits::max_global_name);
    end = member.data_offset + member.size;
  }
  MUST(!walker.next(member));
  bool damaged = false;
  for (const TarReport& report : walker.reports()) {
    MUST(report.offset <= bytes.size());
    MUST(!report.message.empty());
    damaged = damaged || report.damage;
    std::string shown;
    append_utf8(shown, report.message);
    MUST(shown == report.message);  // it is UTF-8 already
  }
  MUST(bytes.size() >= 512 || damaged);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  std::size_t members = 0;
  walk(bytes, members);

  MemoryReader reader(bytes);
  const ShardIndex index = index_tar(reader, {});
  const std::size_t samples = index.flags.size();
  MUST(index.uid.size() == samples && index.base.size() == samples && index.member_count.size() == samples);
  MUST(index.width.size() == samples && index.height.size() == samples && index.keys.size() == samples);
  std::size_t grouped = 0;
  for (std::size_t i = 0; i < samples; ++i) {
    MUST(index.member_count[i] > 0);
    grouped += index.member_count[i];
    MUST((index.width[i] == 0) == (index.height[i] == 0));
    if ((index.flags[i] & sample_flag::without_uid) != 0) MUST((index.uid[i] == Uid{}));
  }
  MUST(grouped == index.members.size());
  MUST(index.members.size() + index.stray_kind.size() == members);

  IndexOptions names_only;
  names_only.read_uid = names_only.read_image_size = false;
  MemoryReader again(bytes);
  const ShardIndex bare = index_tar(again, names_only);
  MUST(bare.members == index.members && bare.keys.text == index.keys.text && bare.base == index.base);
  MUST(bare.reports.size() == index.reports.size());
  return 0;
}
