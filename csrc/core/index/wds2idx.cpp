#include "core/index/wds2idx.hpp"

#include <algorithm>

namespace dcfast {

std::string wds2idx_text(const SegmentFile& segment, std::uint64_t shard) {
  const auto [first, last] = segment.samples_of(shard);
  const std::string shard_name(segment.shard_name(shard));
  if (first == last) throw Error(Code::invalid_argument, "a shard without samples has no index that DALI reads", shard_name);
  MemberColumns members;
  const auto begins = segment.unpack_samples(first, last, members);
  const auto has_space = [](std::string_view text) {
    return std::ranges::any_of(text, [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); });
  };
  std::string out = cat("v1.2 ", last - first, "\n");
  for (std::uint64_t i = 0; i < last - first; ++i) {
    const std::string_view key = segment.key(first + i);
    for (std::size_t m = begins[i]; m < begins[i + 1]; ++m) {
      const std::string_view ext = segment.ext(members.ext[m]);
      if (ext.empty() || has_space(key) || has_space(ext)) {
        throw Error(Code::invalid_argument, cat("member ", printable_name(cat(key, ".", ext)),
                    " cannot stand in DALI's index: its name has white space, or no extension"), shard_name, members.offset[m]);
      }
      if (m > begins[i]) out += ' ';
      append(out, ext, " ", members.offset[m], " ", members.size[m], " ", key, ".", ext);
    }
    out += '\n';
  }
  return out;
}

}  // namespace dcfast
