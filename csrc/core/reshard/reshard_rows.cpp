#include "core/reshard/reshard_rows.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <system_error>

#include "core/index/printable_name.hpp"
#include "core/uids/uid_set.hpp"

namespace dcfast {

std::uint64_t shard_number(std::string_view name, std::uint64_t ordinal) {
  name = name.substr(name.rfind('/') + 1);  // npos + 1 is 0
  const std::string_view stem = name.substr(0, name.find('.'));
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(stem.data(), stem.data() + stem.size(), number);
  if (stem.empty() || end != stem.data() + stem.size()) return ordinal;
  return error == std::errc::result_out_of_range ? std::numeric_limits<std::uint64_t>::max() : number;
}

void select_rows(std::span<const Uid> subset, SelectedRows& rows, unsigned threads, const Poll& poll) {
  const std::size_t n = rows.row.size();
  rows.first.resize(n);
  rows.count.assign(n, 0);
  if (n > 0 && !subset.empty()) lookup(subset, std::span<const Uid>(rows.uid), rows.first, rows.count, threads, poll);
  rows.multiplicity.clear();
  std::size_t kept = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (rows.count[i] == 0) continue;
    rows.row[kept] = rows.row[i];
    rows.uid[kept++] = rows.uid[i];
    rows.multiplicity.push_back(static_cast<std::uint64_t>(rows.count[i]));
  }
  rows.row.resize(kept);
  rows.uid.resize(kept);
}

SegmentRows::SegmentRows(const SegmentFile& segment, std::uint64_t first_ordinal, const ReshardSelection& selection)
    : segment_(segment), first_ordinal_(first_ordinal), selection_(selection), num_asked_(segment.num_shards()) {
  if (first_ordinal > max_pool_shards || segment.num_shards() > max_pool_shards - first_ordinal) {
    throw Error(Code::invalid_argument, "a pool can have at most 2^32 shards");
  }
  if (selection.first_shard != 0 || selection.num_shards) {
    num_asked_ = 0;
    lowest_ = std::numeric_limits<std::uint64_t>::max();
    for (std::uint64_t s = 0; s < segment.num_shards(); ++s) {
      const std::uint64_t number = shard_number(segment.text(Section::shard_name_begin, Section::shard_names, s), first_ordinal + s);
      const bool asked = number >= selection.first_shard &&
                         (!selection.num_shards || number - selection.first_shard < *selection.num_shards);
      asked_.push_back(asked);
      num_asked_ += asked ? 1 : 0;
      lowest_ = std::min(lowest_, number);
      highest_ = std::max(highest_, number);
    }
  }
  const auto begin = segment.column<std::uint64_t>(Section::sample_begin);
  const auto exclude = selection.exclude;
  auto at = std::lower_bound(exclude.begin(), exclude.end(), pool_row_id(first_ordinal, 0));
  for (; at != exclude.end() && *at >> 32 < first_ordinal + segment.num_shards(); ++at) {
    const auto shard = static_cast<std::size_t>((*at >> 32) - first_ordinal);
    const std::uint64_t row = *at & 0xffffffff;
    if (row < begin[shard + 1] - begin[shard]) continue;
    std::string name;
    append_utf8(name, segment.text(Section::shard_name_begin, Section::shard_names, shard));
    throw Error(Code::invalid_argument, "exclude: row " + std::to_string(row) + " is not in shard " + name);
  }
}

std::uint64_t SegmentRows::shard_of(std::uint64_t row) const {
  const auto begin = segment_.column<std::uint64_t>(Section::sample_begin);
  return static_cast<std::uint64_t>(std::upper_bound(begin.begin(), begin.end(), row) - begin.begin()) - 1;
}

std::uint64_t SegmentRows::row_id(std::uint64_t row) const {
  const std::uint64_t shard = shard_of(row);
  return pool_row_id(first_ordinal_ + shard, row - segment_.column<std::uint64_t>(Section::sample_begin)[static_cast<std::size_t>(shard)]);
}

void SegmentRows::select(std::uint64_t first, std::uint64_t last, SelectedRows& out, RowCounts* counts, unsigned threads,
                         const Poll& poll) const {
  const auto begin = segment_.column<std::uint64_t>(Section::sample_begin);
  const auto flags = segment_.column<std::uint16_t>(Section::flags);
  const auto uids = segment_.column<Uid>(Section::uid);
  RowCounts found;
  out.row.clear();
  out.uid.clear();
  for (std::uint64_t s = first < last ? shard_of(first) : segment_.num_shards(); s < segment_.num_shards(); ++s) {
    const auto shard = static_cast<std::size_t>(s);
    if (begin[shard] >= last) break;
    if (!is_asked(s)) continue;
    const std::uint64_t from = std::max(first, begin[shard]);
    const std::uint64_t end = std::min(last, begin[shard + 1]);
    const std::uint64_t id = pool_row_id(first_ordinal_ + s, 0);  // of the shard's first row
    const auto exclude = selection_.exclude;
    auto excluded = std::lower_bound(exclude.begin(), exclude.end(), id + (from - begin[shard]));
    for (std::uint64_t row = from; row < end; ++row) {
      const auto i = static_cast<std::size_t>(row);
      while (excluded != exclude.end() && *excluded < id + (row - begin[shard])) ++excluded;
      if ((flags[i] & sample_flag::without_uid) != 0) {
        ++found.no_uid;
      } else if ((flags[i] & sample_flag::cut) != 0) {
        ++found.cut;
      } else if (excluded != exclude.end() && *excluded == id + (row - begin[shard])) {
        ++found.excluded;
      } else {
        out.row.push_back(row);
        out.uid.push_back(uids[i]);
      }
    }
    found.samples += end - from;
  }
  if (counts != nullptr) {
    counts->samples += found.samples;
    counts->no_uid += found.no_uid;
    counts->cut += found.cut;
    counts->excluded += found.excluded;
    counts->processed_count += out.row.size();
  }
  select_rows(selection_.subset, out, threads, poll);
}

std::string written_ext(std::string_view raw) {
  std::string folded(raw);
  for (char& c : folded) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  std::string out;
  append_utf8(out, folded);
  return out;
}

std::vector<std::string> written_exts(const SegmentFile& segment) {
  std::vector<std::string> exts;
  for (std::uint64_t e = 0; e < segment.num_exts(); ++e) exts.push_back(written_ext(segment.text(Section::ext_begin, Section::exts, e)));
  return exts;
}

}  // namespace dcfast
