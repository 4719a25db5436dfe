#include "core/index/wds2idx.hpp"

#include <algorithm>
#include <vector>

#include "core/system/error.hpp"

namespace dcfast {

namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

std::string wds2idx_text(const SegmentFile& segment, std::uint64_t shard) {
  const auto s = static_cast<std::size_t>(shard);
  const auto samples = segment.column<std::uint64_t>(Section::sample_begin);
  const std::uint64_t first = samples[s];
  const std::uint64_t last = samples[s + 1];
  const std::string shard_name(segment.text(Section::shard_name_begin, Section::shard_names, shard));
  if (first == last) throw Error(Code::invalid_argument, "a shard without samples has no index that DALI reads", shard_name);
  const auto ends = segment.member_ends(first, last);
  const std::size_t count = ends.back() - ends.front();
  std::vector<std::uint64_t> offset(count);
  std::vector<std::uint64_t> size(count);
  std::vector<std::uint32_t> ext(count);
  segment.unpack(first, last, offset, size, ext);
  std::string out = "v1.2 " + std::to_string(last - first) + "\n";
  for (auto i = static_cast<std::size_t>(first); i < last; ++i) {
    const std::string_view key = segment.text(Section::key_begin, Section::keys, i);
    const std::size_t begin = ends[i - static_cast<std::size_t>(first)] - ends.front();
    const std::size_t end = ends[i - static_cast<std::size_t>(first) + 1] - ends.front();
    for (std::size_t m = begin; m < end; ++m) {
      const std::string_view name = segment.text(Section::ext_begin, Section::exts, ext[m]);
      if (name.empty() || std::any_of(key.begin(), key.end(), is_space) || std::any_of(name.begin(), name.end(), is_space)) {
        throw Error(Code::invalid_argument,
                    "member " + printable_name(std::string(key) + "." + std::string(name)) +
                        " cannot stand in DALI's index: its name has white space, or no extension",
                    shard_name, offset[m]);
      }
      if (m > begin) out += ' ';
      out.append(name).append(" ").append(std::to_string(offset[m])).append(" ").append(std::to_string(size[m]));
      out.append(" ").append(key).append(".").append(name);
    }
    out += '\n';
  }
  return out;
}

}  // namespace dcfast
