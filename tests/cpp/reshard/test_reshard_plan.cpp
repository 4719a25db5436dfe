// The reshard plan over hand-made segments: cuts against a loop over every copy, repeats, slices, exclusions, contents
// of each output shard against the plain order, whatever the blocks of rows and the segments.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/reshard/permutation.hpp"
#include "core/reshard/reshard_contents.hpp"
#include "core/reshard/reshard_plan.hpp"

namespace {

using namespace dcfast;

std::string scratch() {
  std::string path = "/tmp/dcfast-plan-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) std::abort();
  return path;
}

struct Member {
  std::string ext;
  std::uint64_t size;
};
struct Sample {
  std::uint64_t uid;  // the low half; 0: none
  std::vector<Member> members;
  std::uint16_t flags = 0;
};
using Shard = std::vector<Sample>;

/// The columns of a shard whose members lie one after the other, each behind a header.
ShardIndex index_of(const Shard& samples) {
  ShardIndex out;
  std::uint64_t at = 0;
  std::map<std::string, std::uint32_t> exts;
  for (const Sample& sample : samples) {
    out.uid.push_back({0, sample.uid});
    out.base.push_back(at);
    out.member_count.push_back(0);
    out.flags.push_back(sample.uid == 0 ? sample_flag::no_uid : sample.flags);
    out.width.push_back(0);
    out.height.push_back(0);
    out.keys.add("k" + std::to_string(out.uid.size()));
    std::uint64_t end = at;
    for (const Member& member : sample.members) {
      const auto [ext, fresh] = exts.emplace(member.ext, static_cast<std::uint32_t>(exts.size()));
      if (fresh) out.exts.add(member.ext);
      append_member(out, at + 512, member.size, ext->second, end);
      at += 512 + (member.size + 511) / 512 * 512;
    }
  }
  out.tar_size = at + 1024;
  out.mtime_ns = 7;
  return out;
}

std::shared_ptr<SegmentFile> segment_of(const std::string& path, const std::vector<Shard>& shards, std::vector<std::string> names) {
  write_segment(std::span<const std::string>(names), [&](std::size_t i) { return index_of(shards[i]); }, path, 1);
  return std::make_shared<SegmentFile>(path, true);
}

std::vector<Uid> subset_of(std::vector<std::uint64_t> low) {
  std::sort(low.begin(), low.end());
  std::vector<Uid> out;
  for (const std::uint64_t value : low) out.push_back({0, value});
  return out;
}

struct Random {
  std::uint64_t state;
  std::uint64_t operator()(std::uint64_t below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 33) % below;
  }
};

// cuts: the rule, one copy after the other

void cuts_equal_the_slow_rule() {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random{seed};
    const std::uint64_t shard_size = std::vector<std::uint64_t>{1, 2, 7, 10'000}[random(4)];
    const std::uint64_t max_bytes = std::vector<std::uint64_t>{1, 999, 5000, 3'000'000'000}[random(4)];
    ShardCutter cutter(shard_size, max_bytes);
    std::vector<ReshardCut> slow;
    std::uint64_t row = 0;
    for (std::uint64_t n = random(60); n > 0; --n) {
      row += 1 + random(5);
      const std::uint64_t count = 1 + random(random(2) == 0 ? 3 : 50);
      const RowWeight weight{random(4), random(2) * random(1000), 512 + random(9) * 512};
      const auto segment = static_cast<std::uint32_t>(row / 40);
      cutter.add(segment, row, count, weight);
      for (std::uint64_t copy = 0; copy < count; ++copy) {
        if (slow.empty() || slow.back().samples >= shard_size || slow.back().payload_bytes >= max_bytes) {
          slow.push_back({segment, 0, row, copy, 0, 0, 0, 0});
        }
        ++slow.back().samples;
        slow.back().members += weight.members;
        slow.back().payload_bytes += weight.payload_bytes;
        slow.back().tar_bytes += weight.tar_bytes;
      }
    }
    for (ReshardCut& cut : slow) cut.tar_bytes = (cut.tar_bytes + 1024 + 10'239) / 10'240 * 10'240;
    CHECK(std::move(cutter).finish() == slow);
  }
  CHECK(ShardCutter(1, 1).finish().empty());
  CHECK_THROWS(Error, ShardCutter(0, 1));
  CHECK_THROWS(Error, ShardCutter(1, 0));
}

void a_billion_copies_are_arithmetic() {
  const std::uint64_t billion = 1'000'000'000;
  ShardCutter cutter(billion / 2 + 1, std::uint64_t{1} << 62);
  cutter.add(3, 9, billion, {2, 100, 1536});
  cutter.add(3, 10, 1, {1, 0, 512});
  const auto cuts = std::move(cutter).finish();
  CHECK(cuts.size() == 2);
  CHECK((cuts[1] == ReshardCut{3, 0, 9, billion / 2 + 1, billion / 2, 2 * (billion / 2 - 1) + 1, 100 * (billion / 2 - 1), cuts[1].tar_bytes}));
  // by bytes: each shard ends with the copy that reaches the bound
  ShardCutter by_bytes(~std::uint64_t{0}, 1'000'000'050);
  by_bytes.add(0, 0, billion, {1, 100, 1024});
  const auto many = std::move(by_bytes).finish();
  CHECK(many.size() == 100);
  CHECK(many[1].copy == 10'000'001 && many[0].payload_bytes == 1'000'000'100 && many[99].samples == billion - 99 * 10'000'001);
  // totals that no 64 bits hold
  ShardCutter beyond(~std::uint64_t{0}, ~std::uint64_t{0});
  CHECK_THROWS(Error, beyond.add(0, 0, billion, {std::uint64_t{1} << 60, 1, 1}));
}

void rows_of_the_subset() {
  SelectedRows rows;
  rows.uid = {{0, 5}, {0, 2}, {1, 0}, {0, 1}, {0, 5}};
  rows.row = {0, 1, 2, 3, 4};
  const std::vector<Uid> subset{{0, 1}, {0, 1}, {0, 5}, {0, 5}, {0, 5}, {1, 0}};
  SelectedRows selected = rows;
  select_rows(subset, selected, 0);
  CHECK((selected.row == std::vector<std::uint64_t>{0, 2, 3, 4}));
  CHECK((selected.multiplicity == std::vector<std::uint64_t>{3, 1, 2, 3}));
  select_rows({}, rows, 0);
  CHECK(rows.row.empty());
  SelectedRows none;
  select_rows(subset, none, 0);
  CHECK(none.row.empty());
}

void copies_of_repeated_uids() {
  std::uint64_t extra = 0;
  const auto repeats = first_copies({{{0, 7}, 40, 2}, {{0, 3}, 1, 1}, {{0, 7}, 2, 2}, {{0, 7}, 3, 2}, {{0, 3}, 50, 1}}, &extra);
  CHECK((repeats == std::vector<RowRepeat>{{3, 2}, {40, 4}, {50, 1}}));
  CHECK(extra == 5);
  CHECK(first_copies({}, &extra).empty() && extra == 0);
  const std::vector<UidRecord> records{{0, 1, 0}, {0, 1, 9}, {0, 1, 11}, {0, 2, 3}, {4, 1, 1}, {4, 2, 2}, {4, 2, 5}};
  CHECK((repeated_uids(records) == std::vector<Uid>{{0, 1}, {4, 2}}));
  CHECK(repeated_uids({}).empty());
}

void numbers_of_shards() {
  CHECK(shard_number("00000012.tar", 3) == 12);
  CHECK(shard_number("a/b.c/007.x.tar", 3) == 7);
  for (const char* name : {"a.tar", "", ".tar", "-1.tar", "1a.tar", "12/a", " 1.tar"}) CHECK(shard_number(name, 3) == 3);
  CHECK(shard_number("99999999999999999999999.tar", 3) == ~std::uint64_t{0});
  CHECK(written_ext("SEG.Png") == "seg.png");
  CHECK(written_ext("a\xff") == "a\\xff");
}

// whole plans

struct Pool {
  std::vector<std::shared_ptr<SegmentFile>> segments;
  std::vector<Shard> shards;  // of all segments, in order
};

Pool make_pool(const std::string& dir, const std::vector<std::vector<Shard>>& segments) {
  Pool pool;
  for (const auto& shards : segments) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < shards.size(); ++i) names.push_back(std::to_string(pool.shards.size() + i) + ".tar");
    pool.segments.push_back(segment_of(dir + "/" + std::to_string(pool.segments.size()) + ".dcx", shards, names));
    pool.shards.insert(pool.shards.end(), shards.begin(), shards.end());
  }
  return pool;
}

ReshardPlan plan_of(const Pool& pool, ReshardPlanner::Options options) {
  ReshardPlanner planner(std::move(options));
  for (const auto& segment : pool.segments) planner.add(*segment);
  return std::move(planner).finish();
}

PlannedShards shards_of(const Pool& pool, const ReshardPlan& plan, const ReshardPlanner::Options& options,
                        std::span<const std::uint64_t> rows = {}, std::optional<std::uint64_t> seed = {}) {
  return {{plan.cuts, plan.repeats, rows, seed, plan.segment_first, "pool", options.selection, options.rows_at_once},
          [&pool](std::size_t i) { return pool.segments[i]; }, 1};
}

/// What is written, one sample after the other: row id and key.
std::vector<std::pair<std::uint64_t, std::string>> expected_keys(const Pool& pool, const ReshardSelection& selection) {
  std::vector<std::pair<std::uint64_t, std::string>> out;
  std::map<std::uint64_t, std::uint64_t> copies;
  for (std::uint64_t s = 0; s < pool.shards.size(); ++s) {
    if (s < selection.first_shard || (selection.num_shards && s - selection.first_shard >= *selection.num_shards)) continue;
    for (std::uint64_t row = 0; row < pool.shards[s].size(); ++row) {
      const Sample& sample = pool.shards[s][row];
      const std::uint64_t id = s << 32 | row;
      if (sample.uid == 0 || sample.flags != 0 || std::binary_search(selection.exclude.begin(), selection.exclude.end(), id)) continue;
      const auto [from, to] = std::equal_range(selection.subset.begin(), selection.subset.end(), Uid{0, sample.uid});
      for (auto left = to - from; left > 0; --left) {
        std::string uid(32, '0');
        std::snprintf(uid.data(), uid.size() + 1, "%032llx", static_cast<unsigned long long>(sample.uid));
        out.emplace_back(id, uid + "-" + std::to_string(copies[sample.uid]++));
      }
    }
  }
  return out;
}

std::string key_of(const ShardContents& shard, std::size_t member) {
  const std::string_view names(reinterpret_cast<const char*>(shard.names.data()), shard.names.size());
  const auto begin = static_cast<std::size_t>(shard.name_begin[member]);
  return std::string(names.substr(begin, static_cast<std::size_t>(shard.name_begin[member + 1]) - begin));
}

void plans_equal_the_plain_order(const std::string& dir) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random{seed + 1};
    std::vector<std::vector<Shard>> parts;
    for (std::uint64_t segment = random(4); segment > 0; --segment) {
      auto& shards = parts.emplace_back();
      for (std::uint64_t shard = random(4); shard > 0; --shard) {
        auto& samples = shards.emplace_back();
        for (std::uint64_t n = std::vector<std::uint64_t>{0, 1, 13, 4}[random(4)]; n > 0; --n) {
          Sample sample{random(9) == 0 ? 0 : 1 + random(20), {{"jpg", random(3000)}, {"Json", 5}}, 0};
          if (random(3) == 0) sample.members.push_back({"A", random(9)});
          if (random(5) == 0) sample.members.clear();
          if (random(9) == 0) sample.flags = sample_flag::cut;
          samples.push_back(sample);
        }
      }
    }
    const Pool pool = make_pool(dir, parts);
    std::vector<std::uint64_t> wanted;
    for (std::uint64_t n = random(60); n > 0; --n) wanted.push_back(1 + random(25));
    const auto subset = subset_of(wanted);
    std::vector<std::uint64_t> exclude;
    for (std::uint64_t s = 0; s < pool.shards.size(); ++s) {
      for (std::uint64_t row = 0; row < pool.shards[s].size(); ++row) {
        if (random(8) == 0) exclude.push_back(s << 32 | row);
      }
    }
    ReshardPlanner::Options options;
    options.shard_size = std::vector<std::uint64_t>{1, 2, 7, 10'000}[random(4)];
    options.max_bytes = std::vector<std::uint64_t>{1, 5000, 3'000'000'000}[random(3)];
    options.selection = {subset, exclude, 0, std::nullopt};
    if (random(3) == 0) options.selection = {subset, exclude, random(3), random(4)};
    const auto expected = expected_keys(pool, options.selection);
    const ReshardPlan whole = plan_of(pool, options);
    for (const std::uint64_t rows_at_once : {1, 2, 5, 1 << 18}) {
      options.rows_at_once = rows_at_once;
      const ReshardPlan plan = plan_of(pool, options);
      CHECK(plan.cuts == whole.cuts && plan.repeats == whole.repeats && plan.inputs == whole.inputs);
      CHECK(plan.counts.output_count == expected.size());
      std::vector<std::uint64_t> stays;  // subset entries that are found, each once
      for (const auto& [id, key] : expected) stays.push_back(pool.shards[id >> 32][id & 0xffffffff].uid);
      std::sort(stays.begin(), stays.end());
      stays.erase(std::unique(stays.begin(), stays.end()), stays.end());
      const auto found = std::count_if(subset.begin(), subset.end(), [&](Uid uid) { return std::binary_search(stays.begin(), stays.end(), uid.lo); });
      CHECK(plan.counts.missing_count == subset.size() - static_cast<std::uint64_t>(found));
      const auto& rows = plan.counts.rows;
      CHECK(rows.samples == rows.no_uid + rows.cut + rows.excluded + rows.processed_count);
      const PlannedShards shards = shards_of(pool, plan, options);
      std::size_t at = 0;
      for (std::size_t k = 0; k < plan.cuts.size(); ++k) {
        const ShardContents shard = shards.contents(k);
        shards.check_planned(k, shard);
        const auto ids = shards.row_ids(k);
        CHECK(ids.size() == plan.cuts[k].samples && shard.uid.size() == ids.size());
        for (std::size_t i = 0; i < ids.size(); ++i) CHECK(ids[i] == expected[at + i].first);
        for (std::size_t m = 0; m < shard.size.size(); ++m) {
          const std::size_t sample = shard.member_sample[m];
          const std::string name = key_of(shard, m);
          CHECK(name.starts_with(expected[at + sample].second + "."));
          CHECK(m == 0 || shard.member_sample[m - 1] < sample || key_of(shard, m - 1) < name);  // sorted by extension
          CHECK(shard.sources[shard.source[m]] == "pool/" + std::to_string(ids[sample] >> 32) + ".tar");
        }
        at += ids.size();
      }
      CHECK(at == expected.size());
    }
    // with the pool's repeated uids known: the same
    std::vector<UidRecord> records;
    for (std::uint64_t s = 0; s < pool.shards.size(); ++s) {
      for (std::uint64_t row = 0; row < pool.shards[s].size(); ++row) {
        if (pool.shards[s][row].uid != 0) records.push_back({0, pool.shards[s][row].uid, s << 32 | row});
      }
    }
    std::sort(records.begin(), records.end());
    const auto known = repeated_uids(records);
    options.repeated = known;
    CHECK(plan_of(pool, options).repeats == whole.repeats);
    options.repeated.reset();

    // shuffled: the permutation of the plain order
    std::vector<std::uint64_t> spooled;
    options.shuffled = [&](std::span<const std::uint64_t> ids) { spooled.insert(spooled.end(), ids.begin(), ids.end()); };
    const ReshardPlan mixed = plan_of(pool, options);
    CHECK(spooled.size() == expected.size() && mixed.repeats == whole.repeats);
    const PlannedShards shards = shards_of(pool, mixed, options, spooled, 11);
    const Permutation permutation(expected.size(), 11);
    std::uint64_t place = 0;
    for (std::size_t k = 0; k < mixed.cuts.size(); ++k) {
      const ShardContents shard = shards.contents(k);
      shards.check_planned(k, shard);
      CHECK(mixed.cuts[k].row == place);
      const auto ids = shards.row_ids(k);
      std::vector<std::string> keys(ids.size());
      for (std::size_t m = 0; m < shard.size.size(); ++m) keys[shard.member_sample[m]] = key_of(shard, m);
      for (std::size_t i = 0; i < ids.size(); ++i, ++place) {
        const auto& [id, key] = expected[static_cast<std::size_t>(permutation(place))];
        CHECK(ids[i] == id && (keys[i].empty() || keys[i].starts_with(key + ".")));
      }
    }
    CHECK(place == expected.size());
  }
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.message();
  }
  return "no error";
}

void what_goes_wrong(const std::string& dir) {
  const Sample one{5, {{"jpg", 10}}, 0};
  const Pool pool = make_pool(dir, {{{one, one}, {}}, {{one}}});
  const auto subset = subset_of({5, 5});
  ReshardPlanner::Options options;
  options.selection.subset = subset;
  // an exclusion beyond its shard; one beyond the pool is nobody's
  for (const std::uint64_t id : {std::uint64_t{2}, std::uint64_t{1} << 32}) {
    const std::vector<std::uint64_t> exclude{id};
    options.selection.exclude = exclude;
    CHECK(message_of([&] { plan_of(pool, options); }) == "exclude: row " + std::to_string(id & 0xffffffff) + " is not in shard " + std::to_string(id >> 32) + ".tar");
  }
  const std::vector<std::uint64_t> far{std::uint64_t{3} << 32};
  options.selection.exclude = far;
  CHECK(plan_of(pool, options).counts.output_count == 6);
  options.selection.exclude = {};
  options.rows_at_once = 0;
  CHECK_THROWS(Error, plan_of(pool, options));
  options.rows_at_once = 3;

  options.shard_size = 5;  // cut between the two copies of the last row
  const ReshardPlan plan = plan_of(pool, options);
  CHECK(plan.cuts.size() == 2);
  CHECK((plan.cuts[1] == ReshardCut{1, 0, 0, 1, 1, 1, 10, 10'240}));
  CHECK((plan.repeats == std::vector<RowRepeat>{{1, 2}, {std::uint64_t{2} << 32, 4}}));
  CHECK((plan.segment_first == std::vector<std::uint64_t>{0, 2, 3}));
  CHECK(key_of(shards_of(pool, plan, options).contents(1), 0) == "00000000000000000000000000000005-5.jpg");

  // another subset, another index
  const auto other = subset_of({5});
  ReshardPlanner::Options fewer = options;
  fewer.selection.subset = other;
  CHECK(message_of([&] { shards_of(pool, plan, fewer).contents(0); }).starts_with("output shard 0: the subset or the index is not"));
  CHECK(message_of([&] { shards_of(pool, plan, fewer).contents(1); }).starts_with("output shard 1: the subset or the index is not"));
  const Pool grown = make_pool(dir, {{{one, one}, {}, {}}, {{one}}});
  CHECK(message_of([&] { shards_of(grown, plan, options).contents(0); }).find("has other shards than the one that was planned") != std::string::npos);
  const Pool larger = make_pool(dir, {{{{5, {{"jpg", 11}}, 0}, one}, {}}, {{one}}});
  const PlannedShards changed = shards_of(larger, plan, options);
  CHECK(message_of([&] { changed.check_planned(0, changed.contents(0)); }) ==
        "output shard 0: the subset or the index is not the one that was planned: expected (samples, members, bytes) (5, 5, 50); got "
        "(5, 5, 52); plan again");

  // names that lead out of the pool; with no directory they are paths
  for (const std::string name : {"../a.tar", "/a.tar", "b/../a.tar", ".."}) {
    const auto segment = segment_of(dir + "/out.dcx", {{one}}, {name});
    Pool away;
    away.segments = {segment};
    const ReshardPlan planned = plan_of(away, options);
    const PlannedShards shards = shards_of(away, planned, options);
    CHECK(message_of([&] { shards.contents(0); }).find("outside of its pool pool: names must be relative") != std::string::npos);
    PlannedShards::Plan rootless{planned.cuts, planned.repeats, {}, {}, planned.segment_first, "", options.selection};
    CHECK(PlannedShards(rootless, [&](std::size_t) { return segment; }, 2).contents(0).sources == std::vector<std::string>{name});
  }
  const auto dots = segment_of(dir + "/dots.dcx", {{one}}, {"a..b/..c.tar"});
  Pool fine;
  fine.segments = {dots};
  CHECK(shards_of(fine, plan_of(fine, options), options).size() == 1);
  // no rows, no segments, no subset
  options.selection.subset = {};
  CHECK(plan_of(pool, options).cuts.empty() && plan_of(Pool{}, options).segment_first.size() == 1);
  const std::uint64_t large = std::uint64_t{1} << 32;
  const std::vector<std::uint64_t> rows{3, 3, 9, large, large, large};
  const Permutation permutation(rows.size(), 11);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> copies;
  for (std::uint64_t first = 0; first < 6; first += 2) {
    const ShuffledPlaces places = shuffled_places(rows, 11, first, 2);
    CHECK(places.place.size() == 2 && places.place[0] + places.place[1] == 1);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(places.row_id[i] == rows[permutation(first + places.place[i])]);
      copies.emplace_back(places.row_id[i], places.copy[i]);
    }
  }
  std::sort(copies.begin(), copies.end());
  CHECK((copies == std::vector<std::pair<std::uint64_t, std::uint64_t>>{{3, 0}, {3, 1}, {9, 0}, {large, 0}, {large, 1}, {large, 2}}));
  CHECK(message_of([&] { shuffled_places(rows, 11, 5, 2); }).find("places must be below the number of rows") != std::string::npos);
  CHECK(shuffled_places({}, 1, 0, 0).row_id.empty());
}

void a_shard_is_written(const std::string& dir) {
  std::filesystem::create_directory(dir + "/pool");
  const Pool pool = make_pool(dir, {{{{5, {{"txt", 3}, {"jpg", 600}}, 0}, {6, {{"jpg", 1}}, 0}}}});
  const auto subset = subset_of({5, 6, 6});
  std::string tar(index_of(pool.shards[0]).tar_size, '\0');
  for (std::size_t i = 0; i < tar.size(); ++i) tar[i] = static_cast<char>(i * 31);
  std::ofstream(dir + "/pool/0.tar", std::ios::binary) << tar;
  ReshardPlanner::Options options;
  options.selection.subset = subset;
  const ReshardPlan plan = plan_of(pool, options);
  PlannedShards::Plan where{plan.cuts, plan.repeats, {}, {}, plan.segment_first, dir + "/pool", options.selection};
  const PlannedShards shards(where, [&](std::size_t i) { return pool.segments[i]; }, 1);
  const auto done = shards.write(0, dir + "/o.tar", 2, false);
  CHECK(done.samples == 3 && done.members == 4 && done.payload_bytes == 605 && done.tar_bytes == plan.cuts[0].tar_bytes);
  std::ifstream in(dir + "/o.tar", std::ios::binary);
  const std::string written{std::istreambuf_iterator<char>(in), {}};
  CHECK(written.size() == done.tar_bytes);
  CHECK(written.substr(0, 38) == "00000000000000000000000000000005-0.jpg");
  CHECK(written.substr(512, 600) == tar.substr(1536, 600));  // behind txt: its header, its block, another header
  CHECK_THROWS(Error, shards.write(0, dir + "/o.tar", 1, true));  // its time is not the indexed one
}

}  // namespace

int main() {
  const std::string dir = scratch();
  cuts_equal_the_slow_rule();
  a_billion_copies_are_arithmetic();
  rows_of_the_subset();
  copies_of_repeated_uids();
  numbers_of_shards();
  plans_equal_the_plain_order(dir);
  what_goes_wrong(dir);
  a_shard_is_written(dir);
  std::filesystem::remove_all(dir);
  return failures();
}
