#include "core/reshard/reshard_contents.hpp"

#include <algorithm>
#include <numeric>

#include "core/reshard/permutation.hpp"

namespace dcfast {
namespace {

template <typename... More>
[[noreturn]] void not_planned(std::size_t k, const More&... more) {
  refuse_argument("output shard ", k, ": the subset or the index is not the one that was planned", more...);
}

}  // namespace

ShuffledPlaces shuffled_places(std::span<const std::uint64_t> rows, std::uint64_t seed, std::uint64_t first, std::uint64_t count) {
  if (first > rows.size() || count > rows.size() - first) refuse_argument("places must be below the number of rows");
  const Permutation permutation(rows.size(), seed);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> positions;  // in the plan's order, with their places
  positions.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) positions.emplace_back(permutation(first + i), i);
  std::ranges::sort(positions);
  ShuffledPlaces out;
  for (const auto& [position, place] : positions) {
    const std::uint64_t id = rows[position];
    // equal ids are neighbours: the first of them tells how many copies came before
    const auto before = rows.first(position);
    out.row_id.push_back(id);
    out.copy.push_back(static_cast<std::uint64_t>(before.end() - std::ranges::lower_bound(before, id)));
    out.place.push_back(place);
  }
  return out;
}

PlannedShards::PlannedShards(Plan plan, OpenSegment open, std::size_t keep)
    : plan_(std::move(plan)), open_(std::move(open)), keep_(std::max<std::size_t>(keep, 1)) {
  if (plan_.segment_first.empty() || plan_.rows_at_once == 0) refuse_argument("segment_first and rows_at_once must not be empty");
}

std::shared_ptr<const PlannedShards::Open> PlannedShards::get(std::size_t number) const {
  const std::lock_guard<std::mutex> lock(guard_);
  const auto found = std::ranges::find(in_use_, number, [](const auto& open) { return open->number; });
  if (found != in_use_.end()) {
    in_use_.splice(in_use_.end(), in_use_, found);
    return in_use_.back();
  }
  std::shared_ptr<const SegmentFile> segment = open_(number);
  const std::uint64_t first = plan_.segment_first[number];
  if (segment->num_shards() != plan_.segment_first[number + 1] - first) {
    throw Error(Code::invalid_argument,
                cat("index segment ", number, " has other shards than the one that was planned; plan again"),
                segment->path());
  }
  SegmentRows rows(*segment, first, plan_.selection);
  std::vector<std::string> exts = written_exts(*segment);
  in_use_.push_back(std::make_shared<const Open>(Open{number, std::move(segment), std::move(rows), std::move(exts)}));
  if (in_use_.size() > keep_) in_use_.pop_front();
  return in_use_.back();
}

const PlannedShards::Open* PlannedShards::use(std::size_t number, Picks& picks) const {
  if (picks.opened.empty() || picks.opened.back()->number != number) picks.opened.push_back(get(number));
  return picks.opened.back().get();
}

PlannedShards::Picks PlannedShards::pick(std::size_t k, const Poll& poll) const {
  if (plan_.shuffle_seed) return pick_shuffled(k);
  const ReshardCut& cut = plan_.cuts[k];
  const ReshardCut* stop = k + 1 < plan_.cuts.size() ? &plan_.cuts[k + 1] : nullptr;
  Picks out;
  SelectedRows selected;
  std::size_t number = cut.segment;
  std::uint64_t row = cut.row;
  std::uint64_t skip = cut.copy;  // the first copies of the first row went to the shard before
  while (out.picks.size() < cut.samples) {
    if (poll) poll();
    if (number + 1 >= plan_.segment_first.size()) not_planned(k);
    const Open* from = use(number, out);
    std::uint64_t limit = from->segment->num_samples();
    if (stop != nullptr && stop->segment == number) limit = std::min(limit, stop->row + 1);
    if (row >= limit) {
      ++number;
      row = 0;
      continue;
    }
    const std::uint64_t end = row + std::min(limit - row, plan_.rows_at_once);
    from->rows.select(row, end, selected, nullptr, 1, poll);
    for (std::size_t i = 0; i < selected.row.size() && out.picks.size() < cut.samples; ++i) {
      if (selected.multiplicity[i] <= skip) not_planned(k);
      const std::uint64_t count = std::min(selected.multiplicity[i] - skip, cut.samples - out.picks.size());
      for (std::uint64_t copy = skip; copy < skip + count; ++copy) out.picks.push_back({from, selected.row[i], copy, out.picks.size()});
      skip = 0;
    }
    row = end;
  }
  return out;
}

PlannedShards::Picks PlannedShards::pick_shuffled(std::size_t k) const {
  const ReshardCut& cut = plan_.cuts[k];
  const ShuffledPlaces places = shuffled_places(plan_.rows, *plan_.shuffle_seed, cut.row, cut.samples);
  Picks out;
  for (std::size_t i = 0; i < places.row_id.size(); ++i) {
    const std::uint64_t ordinal = places.row_id[i] >> 32;
    const auto after = std::ranges::upper_bound(plan_.segment_first, ordinal);
    if (after == plan_.segment_first.begin() || after == plan_.segment_first.end()) not_planned(k);
    const auto number = static_cast<std::size_t>(after - plan_.segment_first.begin()) - 1;
    const Open* from = use(number, out);
    const auto [first, last] = from->segment->samples_of(ordinal - plan_.segment_first[number]);
    const std::uint64_t row = first + (places.row_id[i] & 0xffffffff);
    if (row >= last) not_planned(k);
    out.picks.push_back({from, row, places.copy[i], places.place[i]});
  }
  return out;
}

std::uint64_t PlannedShards::first_copy(std::uint64_t row_id) const {
  const auto at = std::ranges::lower_bound(plan_.repeats, row_id, {}, &RowRepeat::row_id);
  return at != plan_.repeats.end() && at->row_id == row_id ? at->first_copy : 0;
}

std::string PlannedShards::source_path(const SegmentFile& segment, std::uint64_t shard) const {
  const std::string_view name = segment.shard_name(shard);
  if (!plan_.shards_dir.empty() && leads_out(name)) {
    throw Error(Code::corrupt_data, cat("the index names a shard '", as_utf8(name), "' outside of its pool ", plan_.shards_dir,
                ": names must be relative, without '..'"));
  }
  return joined(plan_.shards_dir, name);
}

void PlannedShards::add_members(const Picks& picks, std::vector<std::uint32_t>& member_ext, std::vector<std::string>& exts,
                                ShardContents& out) const {
  for (const auto& segment : picks.opened) exts.insert(exts.end(), segment->exts.begin(), segment->exts.end());
  std::ranges::sort(exts);
  exts.erase(std::unique(exts.begin(), exts.end()), exts.end());
  // where the members of each sample begin
  std::vector<std::uint64_t> begin(picks.picks.size() + 1);
  for (const Pick& sample : picks.picks) begin[sample.place + 1] = sample.from->segment->num_members_of(sample.row, sample.row + 1);
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  const auto resize_all = [&](auto&... columns) { (columns.resize(begin.back()), ...); };
  resize_all(member_ext, out.member_sample, out.source, out.offset, out.size);

  std::vector<std::uint32_t> rank;  // of the segment's extensions
  MemberColumns members;
  std::vector<std::size_t> order;
  const Pick* before = nullptr;
  std::uint64_t source_end = 0;  // the last source's rows end there
  for (const Pick& sample : picks.picks) {
    const SegmentFile& segment = *sample.from->segment;
    const bool other = before == nullptr || before->from != sample.from;
    if (other) {
      rank.clear();
      for (const std::string& ext : sample.from->exts) {
        rank.push_back(static_cast<std::uint32_t>(std::ranges::lower_bound(exts, ext) - exts.begin()));
      }
    }
    if (other || sample.row >= source_end) {
      const std::uint64_t shard = sample.from->rows.shard_of(sample.row);
      source_end = segment.samples_of(shard).second;
      out.sources.push_back(source_path(segment, shard));
      out.source_size.push_back(segment.column<std::uint64_t>(Section::shard_size)[shard]);
      out.source_mtime_ns.push_back(segment.column<std::int64_t>(Section::shard_mtime_ns)[shard]);
    }
    if (other || before->row != sample.row) {
      segment.unpack(sample.row, sample.row + 1, members);
      order.resize(members.ext.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      // the reference writes a sample's members sorted by lower-cased extension
      std::ranges::stable_sort(order, {}, [&](std::size_t m) { return rank[members.ext[m]]; });
    }
    std::uint64_t at = begin[sample.place];
    if (at + order.size() != begin[sample.place + 1]) {
      throw Error(Code::corrupt_data, "the segment changed while it was read", segment.path());
    }
    for (const std::size_t m : order) {
      out.member_sample[at] = static_cast<std::uint32_t>(sample.place);
      out.source[at] = static_cast<std::uint32_t>(out.sources.size() - 1);
      out.offset[at] = members.offset[m];
      out.size[at] = members.size[m];
      member_ext[at++] = rank[members.ext[m]];
    }
    before = &sample;
  }
}

ShardContents PlannedShards::contents(std::size_t k, const Poll& poll) const {
  const Picks picks = pick(k, poll);
  if (picks.picks.size() > std::numeric_limits<std::uint32_t>::max()) {
    refuse_argument("an output shard can hold at most 2^32 samples");
  }
  ShardContents out;
  out.uid.resize(picks.picks.size());
  out.copy.resize(picks.picks.size());
  for (const Pick& sample : picks.picks) {
    out.uid[sample.place] = sample.from->segment->column<Uid>(Section::uid)[sample.row];
    out.copy[sample.place] = sample.copy + (plan_.repeats.empty() ? 0 : first_copy(sample.from->rows.row_id(sample.row)));
  }
  std::vector<std::uint32_t> member_ext;
  std::vector<std::string> exts;
  add_members(picks, member_ext, exts, out);
  out.name_begin.clear();
  sample_member_names(out.uid, out.copy, out.member_sample, member_ext, exts, out.names, out.name_begin);
  return out;
}

void PlannedShards::check_planned(std::size_t k, const ShardContents& contents) const {
  const ReshardCut& cut = plan_.cuts[k];
  const std::uint64_t payload = std::accumulate(contents.size.begin(), contents.size.end(), std::uint64_t{0});
  const auto text = [&](std::uint64_t samples, std::uint64_t members, std::uint64_t bytes) {
    return plan_.shuffle_seed ? cat("(", samples, ",)") : cat("(", samples, ", ", members, ", ", bytes, ")");
  };
  const std::string expected = text(cut.samples, cut.members, cut.payload_bytes);
  const std::string actual = text(contents.uid.size(), contents.size.size(), payload);
  if (expected != actual) not_planned(k, ": expected (samples, members, bytes) ", expected, "; got ", actual, "; plan again");
}

std::vector<std::uint64_t> PlannedShards::row_ids(std::size_t k, const Poll& poll) const {
  const Picks picks = pick(k, poll);
  std::vector<std::uint64_t> ids(picks.picks.size());
  for (const Pick& sample : picks.picks) ids[sample.place] = sample.from->rows.row_id(sample.row);
  return ids;
}

PlannedShards::Written PlannedShards::write(std::size_t k, const std::string& out_path, unsigned threads, bool check_mtime,
                                            const Poll& poll) const {
  const ShardContents shard = contents(k, poll);
  check_planned(k, shard);
  std::vector<CopySource> sources;
  for (std::size_t i = 0; i < shard.sources.size(); ++i) {
    sources.push_back(
        {shard.sources[i], shard.source_size[i], check_mtime ? std::optional(shard.source_mtime_ns[i]) : std::nullopt});
  }
  WriteShardOptions options;
  options.threads = threads;
  const ShardMembers members{shard.source, shard.offset, shard.size, shard.names, shard.name_begin};
  const std::uint64_t tar_bytes = write_shard(out_path, sources, members, options, poll);
  const std::uint64_t payload = std::accumulate(shard.size.begin(), shard.size.end(), std::uint64_t{0});
  return {shard.uid.size(), shard.size.size(), payload, tar_bytes};
}

}  // namespace dcfast
