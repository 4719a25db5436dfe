#include "core/reshard/reshard_rows.hpp"

#include <algorithm>
#include <charconv>

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
  if (n > 0 && !subset.empty()) lookup(subset, rows.uid, rows.first, rows.count, threads, poll);
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
    : segment_(segment), first_ordinal_(first_ordinal), selection_(selection), num_chosen_(segment.num_shards()) {
  if (first_ordinal > max_pool_shards || segment.num_shards() > max_pool_shards - first_ordinal) {
    refuse_argument("a pool can have at most 2^32 shards");
  }
  if (selection.first_shard != 0 || selection.num_shards) {
    num_chosen_ = 0;
    lowest_ = std::numeric_limits<std::uint64_t>::max();
    for (std::uint64_t s = 0; s < segment.num_shards(); ++s) {
      const std::uint64_t number = shard_number(segment.shard_name(s), first_ordinal + s);
      const bool is_chosen = number >= selection.first_shard &&
                         (!selection.num_shards || number - selection.first_shard < *selection.num_shards);
      is_chosen_.push_back(is_chosen);
      num_chosen_ += is_chosen ? 1 : 0;
      lowest_ = std::min(lowest_, number);
      highest_ = std::max(highest_, number);
    }
  }
  const auto begin = segment.column<std::uint64_t>(Section::sample_begin);
  const auto exclude = selection.exclude;
  auto at = std::ranges::lower_bound(exclude, pool_row_id(first_ordinal, 0));
  for (; at != exclude.end() && *at >> 32 < first_ordinal + segment.num_shards(); ++at) {
    const std::uint64_t shard = (*at >> 32) - first_ordinal;
    const std::uint64_t row = *at & 0xffffffff;
    if (row < begin[shard + 1] - begin[shard]) continue;
    refuse_argument("exclude: row ", row, " is not in shard ", as_utf8(segment.shard_name(shard)));
  }
}

std::uint64_t SegmentRows::shard_of(std::uint64_t row) const {
  const auto begin = segment_.column<std::uint64_t>(Section::sample_begin);
  return static_cast<std::uint64_t>(std::ranges::upper_bound(begin, row) - begin.begin()) - 1;
}

std::uint64_t SegmentRows::row_id(std::uint64_t row) const {
  const std::uint64_t shard = shard_of(row);
  return pool_row_id(first_ordinal_ + shard, row - segment_.samples_of(shard).first);
}

void SegmentRows::select(std::uint64_t first, std::uint64_t last, SelectedRows& out, RowCounts* counts, unsigned threads,
                         const Poll& poll) const {
  const auto begin = segment_.column<std::uint64_t>(Section::sample_begin);
  const auto flags = segment_.column<std::uint16_t>(Section::flags);
  const auto uids = segment_.column<Uid>(Section::uid);
  RowCounts block;
  out.row.clear();
  out.uid.clear();
  for (std::uint64_t shard = first < last ? shard_of(first) : segment_.num_shards(); shard < segment_.num_shards(); ++shard) {
    if (begin[shard] >= last) break;
    if (!is_chosen(shard)) continue;
    const std::uint64_t from = std::max(first, begin[shard]);
    const std::uint64_t end = std::min(last, begin[shard + 1]);
    const std::uint64_t id = pool_row_id(first_ordinal_ + shard, 0);  // of the shard's first row
    const auto exclude = selection_.exclude;
    auto excluded = std::ranges::lower_bound(exclude, id + (from - begin[shard]));
    for (std::uint64_t row = from; row < end; ++row) {
      while (excluded != exclude.end() && *excluded < id + (row - begin[shard])) ++excluded;
      if ((flags[row] & sample_flag::without_uid) != 0) {
        ++block.no_uid;
      } else if ((flags[row] & sample_flag::cut) != 0) {
        ++block.cut;
      } else if (excluded != exclude.end() && *excluded == id + (row - begin[shard])) {
        ++block.excluded;
      } else {
        out.row.push_back(row);
        out.uid.push_back(uids[row]);
      }
    }
    block.samples += end - from;
  }
  if (counts != nullptr) {
    counts->samples += block.samples;
    counts->no_uid += block.no_uid;
    counts->cut += block.cut;
    counts->excluded += block.excluded;
    counts->processed_count += out.row.size();
  }
  select_rows(selection_.subset, out, threads, poll);
}

std::string written_ext(std::string_view raw) { return as_utf8(folded(raw)); }

std::vector<std::string> written_exts(const SegmentFile& segment) {
  std::vector<std::string> exts;
  for (std::uint64_t e = 0; e < segment.num_exts(); ++e) exts.push_back(written_ext(segment.ext(e)));
  return exts;
}

}  // namespace dcfast
