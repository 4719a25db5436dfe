#include "core/reshard/reshard_plan.hpp"

#include <algorithm>
#include <memory>
#include <tuple>

#include "core/hashing/hashing.hpp"

namespace dcfast {
namespace {

constexpr std::uint64_t block = 512;
constexpr std::uint64_t record = 10'240;
constexpr std::uint64_t longest_stem = 32 + 1 + 20 + 1;  // of "UID-COPY."
constexpr std::uint64_t pax_overhead = 64;               // of a path record: its length, keyword and hdrcharset
constexpr std::uint64_t mean_end = 2 * block + record;   // of a tar, padding included, at most
constexpr std::size_t most_spooled = std::size_t{1} << 16;
constexpr const char* totals = "totals of the plan";

std::uint64_t padded(std::uint64_t size) { return checked_mul((checked_add(size, block - 1, totals)) / block, block, totals); }

std::uint64_t times(std::uint64_t a, std::uint64_t b) { return checked_mul(a, b, totals); }
void grow(std::uint64_t& total, std::uint64_t more) { total = checked_add(total, more, totals); }

// Adds `count` of it.
template <typename Total, typename Weight>
void grow_by(Total& total, std::uint64_t count, const Weight& weight) {
  grow(total.members, times(count, weight.members));
  grow(total.payload_bytes, times(count, weight.payload_bytes));
  grow(total.tar_bytes, times(count, weight.tar_bytes));
}

// The headers of a member with that extension, at most: a pax header where the name may be long, or is not ASCII.
std::uint64_t header_bytes(const std::string& ext) {
  const bool ascii = std::ranges::all_of(ext, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  const bool plain = ascii && longest_stem + ext.size() <= 100;
  return block + (plain ? 0 : block + padded(longest_stem + ext.size() + pax_overhead));
}

}  // namespace

ShardCutter::ShardCutter(std::uint64_t shard_size, std::uint64_t max_bytes) : shard_size_(shard_size), max_bytes_(max_bytes) {
  if (shard_size >= 1 && max_bytes >= 1) return;
  refuse_argument("shard_size and max_bytes must be at least 1; got ", shard_size, " and ", max_bytes);
}

void ShardCutter::add(std::uint32_t segment, std::uint64_t row, std::uint64_t multiplicity, const RowWeight& weight) {
  for (std::uint64_t copy = 0; copy < multiplicity;) {
    if (cuts_.empty() || cuts_.back().samples >= shard_size_ || cuts_.back().payload_bytes >= max_bytes_) {
      cuts_.push_back({segment, 0, row, copy, 0, 0, 0, 0});
    }
    ReshardCut& open = cuts_.back();
    std::uint64_t count = std::min(multiplicity - copy, shard_size_ - open.samples);
    if (weight.payload_bytes > 0) {
      const std::uint64_t room = max_bytes_ - open.payload_bytes;
      count = std::min(count, room / weight.payload_bytes + (room % weight.payload_bytes != 0 ? 1 : 0));
    }
    open.samples += count;
    grow_by(open, count, weight);
    copy += count;
  }
}

std::vector<ReshardCut> ShardCutter::finish() && {
  // two zero blocks, and padding to whole records
  for (ReshardCut& cut : cuts_) {
    cut.tar_bytes = times(checked_add(cut.tar_bytes, 2 * block + record - 1, totals) / record, record);
  }
  return std::move(cuts_);
}

std::vector<RowRepeat> first_copies(std::vector<RowCopies>&& rows, std::uint64_t* extra) {
  std::ranges::sort(rows, {}, [](const RowCopies& row) { return std::tie(row.uid, row.row_id); });
  std::vector<RowRepeat> repeats;
  std::uint64_t before = 0;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i == 0 || rows[i - 1].uid != rows[i].uid) {
      before = 0;
    } else {
      repeats.push_back({rows[i].row_id, before});
      grow(sum, rows[i].multiplicity);
    }
    grow(before, rows[i].multiplicity);
  }
  std::ranges::sort(repeats, {}, &RowRepeat::row_id);
  if (extra != nullptr) *extra = sum;
  return repeats;
}

std::vector<Uid> repeated_uids(std::span<const UidRecord> records) {
  std::vector<Uid> repeated;
  for (std::size_t i = 1; i < records.size(); ++i) {
    const Uid uid{records[i].hi, records[i].lo};
    if (records[i - 1].hi != uid.hi || records[i - 1].lo != uid.lo) continue;
    if (repeated.empty() || repeated.back() != uid) repeated.push_back(uid);
  }
  return repeated;
}

ReshardPlanner::ReshardPlanner(Options options) : options_(std::move(options)), cutter_(options_.shard_size, options_.max_bytes) {
  if (options_.rows_at_once == 0) refuse_argument("rows_at_once must be at least 1");
}

void ReshardPlanner::add(const SegmentFile& segment, const Poll& poll) {
  const SegmentRows rows(segment, plan_.segment_first.back(), options_.selection);
  const std::size_t number = plan_.segment_first.size() - 1;
  if (number > std::numeric_limits<std::uint32_t>::max()) refuse_argument("too many index segments");
  note_shards(rows);
  header_bytes_.clear();
  for (const std::string& ext : written_exts(segment)) header_bytes_.push_back(header_bytes(ext));
  for (std::uint64_t first = 0; first < segment.num_samples();) {
    if (poll) poll();
    const std::uint64_t last = first + std::min(options_.rows_at_once, segment.num_samples() - first);
    rows.select(first, last, selected_, &plan_.counts.rows, options_.threads, poll);
    add_rows(rows, static_cast<std::uint32_t>(number));
    note_repeats(rows);
    if (options_.shuffled) spool(rows);
    first = last;
  }
  plan_.segment_first.push_back(plan_.segment_first.back() + segment.num_shards());
}

void ReshardPlanner::note_shards(const SegmentRows& rows) {
  const SegmentFile& segment = rows.segment();
  if (segment.num_shards() == 0) return;
  const bool first = plan_.segment_first.back() == 0;
  plan_.lowest_number = first ? rows.lowest() : std::min(plan_.lowest_number, rows.lowest());
  plan_.highest_number = std::max(plan_.highest_number, rows.highest());
  plan_.chosen_shards += rows.num_chosen();
  std::string bytes;
  const auto add_raw = [&bytes](const auto& value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  for (std::uint64_t s = 0; s < segment.num_shards(); ++s) {
    bytes.clear();
    add_raw(plan_.inputs);  // shard after shard: the same hash however they are cut into segments
    add_raw(segment.column<std::uint64_t>(Section::shard_size)[s]);
    add_raw(segment.column<std::int64_t>(Section::shard_mtime_ns)[s]);
    bytes.append(segment.shard_name(s));
    plan_.inputs = xxh3_128(std::as_bytes(std::span(bytes)));
  }
  for (std::uint64_t i = 0; i < segment.num_reports(); ++i) {
    const auto [shard, report] = segment.report(i);
    const SampleLoss loss = sample_loss(report.damage, report.message);
    if (loss == SampleLoss::none) continue;
    if (shard >= segment.num_shards()) throw Error(Code::corrupt_data, "a report names a shard that is not there", segment.path());
    if (!rows.is_chosen(shard)) continue;
    plan_.damage.push_back({std::string(segment.shard_name(shard)), report.offset, loss == SampleLoss::archive, report.message});
  }
}

void ReshardPlanner::add_rows(const SegmentRows& rows, std::uint32_t number) {
  const SegmentFile& segment = rows.segment();
  for (std::size_t i = 0; i < selected_.row.size(); ++i) {
    const std::uint64_t row = selected_.row[i];
    const std::uint64_t members = segment.num_members_of(row, row + 1);
    size_.resize(members);
    ext_.resize(members);
    segment.unpack(row, row + 1, {}, size_, ext_);
    RowWeight weight{members, 0, 0};
    for (std::size_t m = 0; m < members; ++m) {
      grow(weight.payload_bytes, size_[m]);
      grow(weight.tar_bytes, checked_add(header_bytes_[ext_[m]], padded(size_[m]), totals));
    }
    const std::uint64_t count = selected_.multiplicity[i];
    grow(plan_.counts.output_count, count);
    if (!options_.shuffled) {
      cutter_.add(number, row, count, weight);
      continue;
    }
    grow_by(total_, count, weight);
  }
  plan_.counts.selected_rows += selected_.row.size();
}

void ReshardPlanner::note_repeats(const SegmentRows& rows) {
  const std::size_t n = selected_.row.size();
  if (n == 0 || (options_.repeated && options_.repeated->empty())) return;
  std::unique_ptr<bool[]> among;
  if (options_.repeated) {
    among = std::make_unique<bool[]>(n);
    contains(*options_.repeated, selected_.uid, std::span(among.get(), n), options_.threads);
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (among && !among[i]) continue;
    maybe_repeated_.push_back({selected_.uid[i], rows.row_id(selected_.row[i]), selected_.multiplicity[i]});
  }
}

void ReshardPlanner::spool(const SegmentRows& rows) {
  for (std::size_t i = 0; i < selected_.row.size(); ++i) {
    const std::uint64_t id = rows.row_id(selected_.row[i]);
    for (std::uint64_t left = selected_.multiplicity[i]; left > 0;) {
      const std::uint64_t count = std::min(left, most_spooled - spooled_.size());
      spooled_.insert(spooled_.end(), count, id);
      left -= count;
      if (spooled_.size() < most_spooled) continue;
      options_.shuffled(spooled_);
      spooled_.clear();
    }
  }
}

// Output shards of one number of samples each, the last with the rest: shard_size, or what makes the mean shard max_bytes
// of payload. Which samples meet in a shard is chance, so a shard may be somewhat larger.
std::vector<ReshardCut> ReshardPlanner::shuffled_cuts() {
  const std::uint64_t samples = plan_.counts.output_count;
  std::vector<ReshardCut> cuts;
  if (samples == 0) return cuts;
  std::uint64_t each = options_.shard_size;
  if (total_.payload_bytes > 0) {
    const auto fitting = static_cast<unsigned __int128>(samples) * options_.max_bytes / total_.payload_bytes;
    if (fitting < each) each = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(fitting));
  }
  const std::uint64_t mean = total_.tar_bytes / samples + (total_.tar_bytes % samples != 0 ? 1 : 0);
  for (std::uint64_t first = 0; first < samples;) {
    const std::uint64_t count = std::min(each, samples - first);
    cuts.push_back({0, 0, first, 0, count, 0, 0, checked_add(times(count, mean), mean_end, totals)});
    first += count;
  }
  return cuts;
}

ReshardPlan ReshardPlanner::finish() && {
  ReshardCounts& counts = plan_.counts;
  if (options_.shuffled) {
    if (!spooled_.empty()) options_.shuffled(spooled_);
    plan_.cuts = shuffled_cuts();
    counts.tar_bytes = checked_add(total_.tar_bytes, times(plan_.cuts.size(), mean_end), totals);
  } else {
    plan_.cuts = std::move(cutter_).finish();
    for (const ReshardCut& cut : plan_.cuts) grow_by(total_, 1, cut);
    counts.tar_bytes = total_.tar_bytes;
  }
  counts.member_count = total_.members;
  counts.payload_bytes = total_.payload_bytes;
  std::uint64_t extra = 0;
  plan_.repeats = first_copies(std::move(maybe_repeated_), &extra);
  counts.repeated_rows = plan_.repeats.size();
  counts.subset_count = options_.selection.subset.size();
  // each uid's entries are found once; what its later rows add was counted beyond that
  counts.missing_count = counts.subset_count - (counts.output_count - extra);
  return std::move(plan_);
}

}  // namespace dcfast
