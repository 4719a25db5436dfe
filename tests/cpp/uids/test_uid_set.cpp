// Uid text, sort, look-up, set operations and merge, against std::sort and std::set, for several threads.
#include "core/uids/uid_set.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/hashing/hashing.hpp"
#include "core/system/error.hpp"
#include "core/uids/npy.hpp"
#include "core/uids/uid_column.hpp"
#include "core/uids/uid_merge.hpp"
#include "core/uids/uid_text.hpp"

using dcfast::ColumnPiece;
using dcfast::Uid;
using dcfast::UidForm;
using dcfast::UidRecord;

namespace {

std::mt19937_64 random_bits(20240229);  // NOLINT: the same in every run

enum class Kind { hashes, equal_high, all_equal, sorted, reversed, few_values, one_outlier, powers };

std::vector<Uid> make(std::size_t n, Kind kind) {
  std::vector<Uid> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    switch (kind) {
      case Kind::equal_high: values[i] = {7, random_bits()}; break;
      case Kind::all_equal: values[i] = {1, 2}; break;
      case Kind::few_values: values[i] = {random_bits() % 3, random_bits() % 3}; break;
      case Kind::one_outlier: values[i] = {i == n / 2 ? ~0ULL : 5ULL, random_bits() % 1000}; break;
      case Kind::powers: values[i] = {1ULL << (random_bits() % 64), 1ULL << (random_bits() % 64)}; break;
      default: values[i] = {random_bits(), random_bits()}; break;
    }
  }
  if (kind == Kind::sorted || kind == Kind::reversed) std::sort(values.begin(), values.end());
  if (kind == Kind::reversed) std::reverse(values.begin(), values.end());
  return values;
}

constexpr Kind kKinds[] = {Kind::hashes, Kind::equal_high, Kind::all_equal, Kind::sorted,
                           Kind::reversed, Kind::few_values, Kind::one_outlier, Kind::powers};

void test_text() {
  const std::string text = "00112233445566778899AABBccddeeff";
  Uid uid;
  CHECK(dcfast::parse_uid(text, uid));
  CHECK((uid == Uid{0x0011223344556677ULL, 0x8899aabbccddeeffULL}));
  CHECK(dcfast::format_uid(uid) == "00112233445566778899aabbccddeeff");
  for (std::size_t missing = 0; missing < 32; ++missing) {  // zeros on the left
    CHECK(dcfast::parse_uid(text.substr(missing), uid));
    CHECK(dcfast::format_uid(uid) == std::string(missing, '0') + std::string("00112233445566778899aabbccddeeff").substr(missing));
  }
  for (const std::string& bad : {std::string(), text + "0", std::string("x"), std::string("12 "), std::string(1, '\0')}) {
    CHECK(!dcfast::parse_uid(bad, uid));
    CHECK(uid == Uid{});
  }
  // every byte value at every place, by both variants
  for (std::size_t at = 0; at < 32; ++at) {
    for (int c = 0; c < 256; ++c) {
      std::string changed = text;
      changed[at] = static_cast<char>(c);
      const bool is_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      Uid fast{9, 9};
      Uid plain{9, 9};
      CHECK(dcfast::parse_uid_32(changed.data(), fast) == is_digit);
      CHECK(dcfast::parse_uid_32_scalar(changed.data(), plain) == is_digit);
      CHECK(fast == plain);
      if (!is_digit) CHECK((fast == Uid{}));
    }
  }
  for (int i = 0; i < 1000; ++i) {
    const Uid v{random_bits(), random_bits()};
    char fast[32];
    char plain[32];
    dcfast::format_uid_32(v, fast);
    dcfast::format_uid_32_scalar(v, plain);
    CHECK(std::equal(fast, fast + 32, plain));
    Uid back;
    CHECK(dcfast::parse_uid_32(fast, back) && back == v);
  }
}

void test_dashed_text() {
  const std::string text = "00112233-4455-6677-8899-AABBccddeeff";
  Uid uid;
  CHECK(dcfast::parse_uid_or_uuid(text, uid));
  CHECK((uid == Uid{0x0011223344556677ULL, 0x8899aabbccddeeffULL}));
  CHECK(!dcfast::parse_uid(text, uid));  // the uid of a json member is DataComp's form alone
  CHECK(dcfast::parse_uid_or_uuid("ff", uid) && (uid == Uid{0, 255}));
  // every byte value at every place, by both variants
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (int c = 0; c < 256; ++c) {
      std::string changed = text;
      changed[at] = static_cast<char>(c);
      const bool is_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      const bool good = text[at] == '-' ? c == '-' : is_digit;
      CHECK(dcfast::parse_uid_or_uuid(changed, uid) == good);
      if (!good) CHECK((uid == Uid{}));
      Uid fast{9, 9};
      Uid plain{9, 9};
      CHECK(dcfast::parse_uuid_36(changed.data(), fast) == dcfast::parse_uuid_36_scalar(changed.data(), plain));
      CHECK(dcfast::has_uuid_dashes(changed.data()) == dcfast::has_uuid_dashes_scalar(changed.data()));
      CHECK(fast == plain);
    }
  }
}

template <typename T>
std::span<const std::uint8_t> bytes_of(const T& values) {
  return {reinterpret_cast<const std::uint8_t*>(values.data()), values.size() * sizeof(values[0])};
}

void test_views() {
  const std::string_view chars = "..00112233445566778899aabbccddeeff";
  const auto parsed = [&](std::vector<std::int32_t> view) {
    const ColumnPiece piece{1, 0, {}, {bytes_of(view), {}, bytes_of(chars)}};
    Uid uid;
    bool valid = false;
    const std::size_t good = dcfast::parse_uids_column(UidForm::view, {&piece, 1}, {}, {}, {&uid, 1}, {&valid, 1}, 1);
    CHECK(good == (valid ? 1U : 0U));
    return uid;
  };
  CHECK((parsed({32, 0, 1, 2}) == Uid{0x0011223344556677ULL, 0x8899aabbccddeeffULL}));
  CHECK((parsed({2, 0x6666, 9, 9}) == Uid{0, 255}));  // "ff", in the view itself
  CHECK((parsed({0, 0, 0, 0}) == Uid{}));
  for (const std::vector<std::int32_t>& bad : {std::vector<std::int32_t>{32, 0, 1, 3}, {32, 0, 0, 0}, {32, 0, 2, 0}, {32, 0, -1, 0},
                                               {32, 0, 1, -1}, {-1, 0, 1, 0}, {0x7fffffff, 0, 1, 1}, {32, 0, 1}, {}}) {
    CHECK_THROWS(dcfast::Error, parsed(bad));
  }
}

void test_rows_of_a_dictionary() {
  const std::string_view chars = "afg";  // "a", "f", "g"
  const std::vector<std::int32_t> offsets{0, 1, 2, 3};
  const std::vector<std::int64_t> wide{0, 1, 2, 3};
  const std::vector<std::int32_t> views{1, 'a', 0, 0, 1, 'f', 0, 0, 1, 'g', 0, 0};
  std::vector<Uid> uids(4);
  std::array<bool, 4> valid{};
  const auto check = [&](UidForm form, const ColumnPiece& texts) {
    const auto parse = [&](const std::vector<std::int32_t>& rows) {
      const ColumnPiece piece{rows.size(), 0, {}, {bytes_of(rows)}};
      return dcfast::parse_uids_column(form, {&texts, 1}, {&piece, 1}, {4, true}, uids, valid, 2);
    };
    CHECK(parse({1, 0, 2, 1}) == 3);
    CHECK((uids == std::vector<Uid>{{0, 15}, {0, 10}, {0, 0}, {0, 15}}));
    CHECK((valid == std::array<bool, 4>{true, true, false, true}));
    for (const std::int32_t wrong : {-1, 3, -2147483647 - 1, 2147483647}) CHECK_THROWS(dcfast::Error, parse({0, 0, 0, wrong}));
    CHECK_THROWS(dcfast::Error, parse({0, 0, 0}));        // fewer than uids
    CHECK_THROWS(dcfast::Error, parse({0, 0, 0, 0, 0}));  // more
  };
  check(UidForm::text32, {3, 0, {}, {bytes_of(offsets), bytes_of(chars)}});
  check(UidForm::text64, {3, 0, {}, {bytes_of(wide), bytes_of(chars)}});
  check(UidForm::view, {3, 0, {}, {bytes_of(views)}});
}

/// Pieces of any sizes, shifted, with nulls; of a dictionary, too, in rows of each width.
void test_pieces_of_a_column(unsigned threads) {
  constexpr std::size_t count = 40009;
  std::vector<Uid> values(count);
  std::string chars;
  std::vector<std::int64_t> offsets{0};
  std::vector<std::uint8_t> raw;
  for (Uid& uid : values) {
    uid = {random_bits(), random_bits()};
    chars += dcfast::format_uid(uid);
    offsets.push_back(static_cast<std::int64_t>(chars.size()));
    for (const std::uint64_t half : {uid.hi, uid.lo}) {
      for (int shift = 56; shift >= 0; shift -= 8) raw.push_back(static_cast<std::uint8_t>(half >> shift));
    }
  }
  std::vector<std::uint8_t> bits(count / 8 + 1);
  for (std::uint8_t& byte : bits) byte = static_cast<std::uint8_t>(random_bits() | random_bits());
  const auto is_set = [&](std::size_t i) { return ((bits[i / 8] >> (i % 8)) & 1) != 0; };
  std::vector<std::uint16_t> rows(count);
  for (std::uint16_t& row : rows) row = static_cast<std::uint16_t>(random_bits() % count);

  for (const UidForm form : {UidForm::text64, UidForm::bytes}) {
    const std::vector<std::span<const std::uint8_t>> buffers =
        form == UidForm::bytes ? std::vector<std::span<const std::uint8_t>>{raw} : std::vector{bytes_of(offsets), bytes_of(chars)};
    for (const bool nulls : {false, true}) {
      std::vector<ColumnPiece> pieces;
      std::vector<ColumnPiece> row_pieces;
      std::size_t at = 0;
      for (std::size_t size = 1; at < count; at += size, size = 3 * size - 1) {
        size = std::min(size, count - at);
        pieces.push_back({size, at, nulls ? bits : std::span<const std::uint8_t>{}, buffers});
        row_pieces.push_back({size, at, nulls ? bits : std::span<const std::uint8_t>{}, {bytes_of(rows)}});
      }
      std::vector<Uid> uids(count);
      const std::unique_ptr<bool[]> valid(new bool[count]);
      const auto check = [&](const auto& entry_of) {
        std::size_t good = 0;
        for (std::size_t i = 0; i < count; ++i) {
          const std::optional<std::size_t> entry = entry_of(i);
          CHECK(valid[i] == entry.has_value());
          CHECK(uids[i] == (entry ? values[*entry] : Uid{}));
          good += entry ? 1 : 0;
        }
        return good;
      };
      const std::size_t plain = dcfast::parse_uids_column(form, pieces, {}, {}, uids, {valid.get(), count}, threads);
      CHECK(plain == check([&](std::size_t i) { return nulls && !is_set(i) ? std::nullopt : std::optional(i); }));
      // each of the row pieces has the whole as its dictionary
      const std::vector<ColumnPiece> whole(row_pieces.size(), {count, 0, nulls ? bits : std::span<const std::uint8_t>{}, buffers});
      const std::size_t of_rows = dcfast::parse_uids_column(form, whole, row_pieces, {2, false}, uids, {valid.get(), count}, threads);
      CHECK(of_rows == check([&](std::size_t i) {
        return nulls && (!is_set(i) || !is_set(rows[i])) ? std::nullopt : std::optional<std::size_t>(rows[i]);
      }));
    }
  }
  const ColumnPiece short_bits{9, 0, std::span<const std::uint8_t>(bits).first(1), {raw}};
  const ColumnPiece short_raw{9, count - 8, {}, {raw}};
  const ColumnPiece huge{9, ~std::size_t{0} - 3, {}, {raw}};
  for (const ColumnPiece& damaged : {short_bits, short_raw, huge, ColumnPiece{9, 0, {}, {}}}) {
    std::vector<Uid> uids(9);
    std::array<bool, 9> valid{};
    CHECK_THROWS(dcfast::Error, dcfast::parse_uids_column(UidForm::bytes, {&damaged, 1}, {}, {}, uids, valid, threads));
  }
}

void test_sort_and_sets(unsigned threads) {
  for (const std::size_t n : {0UL, 1UL, 2UL, 17UL, 1009UL, 8191UL, 8193UL, 40009UL}) {
    for (const Kind kind : kKinds) {
      const std::vector<Uid> values = make(n, kind);
      std::vector<Uid> want = values;
      std::sort(want.begin(), want.end());
      std::vector<Uid> got(n);
      dcfast::sort_uids(values, got, threads);
      CHECK(got == want);
      CHECK(dcfast::first_unsorted(std::span<const Uid>(got), threads) == n);
      std::vector<UidRecord> records(n);
      for (std::size_t i = 0; i < n; ++i) records[i] = {values[i].hi, values[i].lo, random_bits() % 5};
      std::vector<UidRecord> sorted_records(n);
      dcfast::sort_records(records, sorted_records, threads);
      std::sort(records.begin(), records.end());
      CHECK(records == sorted_records);

      const std::vector<Uid> others = make(n / 3 + 5, kind);
      std::vector<Uid> other(others.size());
      dcfast::sort_uids(others, other, threads);
      const std::set<Uid> set_a(want.begin(), want.end());
      const std::set<Uid> set_b(other.begin(), other.end());
      std::vector<Uid> expected;
      std::set_union(set_a.begin(), set_a.end(), set_b.begin(), set_b.end(), std::back_inserter(expected));
      std::vector<Uid> out(n + other.size());
      out.resize(dcfast::set_union(want, other, out, threads));
      CHECK(out == expected);
      expected.clear();
      std::set_intersection(set_a.begin(), set_a.end(), set_b.begin(), set_b.end(), std::back_inserter(expected));
      out.assign(n + other.size(), Uid{});
      out.resize(dcfast::set_intersection(want, other, out, threads));
      CHECK(out == expected);
      expected.clear();
      std::set_difference(set_a.begin(), set_a.end(), set_b.begin(), set_b.end(), std::back_inserter(expected));
      out.assign(n + other.size(), Uid{});
      out.resize(dcfast::set_difference(want, other, out, threads));
      CHECK(out == expected);

      // queries: some that are there, some beside them, some far away; unsorted and sorted
      std::vector<Uid> queries = make(5003, kind);
      for (std::size_t i = 0; i < n; i += 3) queries.push_back({values[i].hi, values[i].lo + i % 3});
      queries.push_back({0, 0});
      queries.push_back({~0ULL, ~0ULL});
      for (const bool sorted : {false, true}) {
        if (sorted) std::sort(queries.begin(), queries.end());
        for (const std::size_t m : {std::size_t{7}, queries.size()}) {
          const std::span<const Uid> some(queries.data(), m);
          std::vector<std::int64_t> first(m);
          std::vector<std::int64_t> count(m);
          std::vector<std::int64_t> record_first(m);
          std::vector<std::int64_t> record_count(m);
          const std::unique_ptr<bool[]> in(new bool[m]);
          dcfast::lookup(std::span<const Uid>(want), some, first, count, threads);
          dcfast::lookup(std::span<const UidRecord>(records), some, record_first, record_count, threads);
          dcfast::contains(want, some, {in.get(), m}, threads);
          CHECK(first == record_first);
          CHECK(count == record_count);
          for (std::size_t i = 0; i < m; ++i) {
            const auto range = std::equal_range(want.begin(), want.end(), some[i]);
            CHECK(first[i] == range.first - want.begin());
            CHECK(count[i] == range.second - range.first);
            CHECK(in[i] == (range.first != range.second));
          }
        }
      }
    }
  }
}

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_run(const std::string& path, const std::vector<UidRecord>& values) {
  std::ofstream out(path, std::ios::binary);
  out << dcfast::npy::header<UidRecord>(values.size());
  const auto size = static_cast<std::streamsize>(values.size() * sizeof(UidRecord));
  out.write(reinterpret_cast<const char*>(values.data()), size);
}

void test_merge() {
  char name[] = "/tmp/dcfast-test-XXXXXX";
  CHECK(::mkdtemp(name) != nullptr);
  const std::string folder = name;
  std::vector<std::string> paths;
  std::vector<UidRecord> all;
  for (std::size_t r = 0; r < 37; ++r) {
    std::vector<UidRecord> run(r * 211 % 1009);
    for (auto& v : run) v = {random_bits() % 97, random_bits() % 97, random_bits() % 3};
    std::sort(run.begin(), run.end());
    all.insert(all.end(), run.begin(), run.end());
    paths.push_back(folder + "/run" + std::to_string(r) + ".npy");
    write_run(paths.back(), run);
  }
  std::sort(all.begin(), all.end());
  const std::string expected = folder + "/expected.npy";
  const std::string out = folder + "/out.npy";
  write_run(expected, all);
  for (const std::uint32_t files : {3U, 5U, 38U, 256U}) {
    const auto result = dcfast::merge_runs(paths, out, {false, dcfast::kMergeMinMemory, files});
    CHECK(result.rows_in == all.size() && result.rows_out == all.size());
    CHECK(slurp(out) == slurp(expected));
  }
  // too little memory for one buffer a run and the runs of several passes: the intermediate files are gone
  CHECK(dcfast::merge_runs(paths, out, {false, dcfast::kMergeMinMemory, 256}).passes == 2);
  CHECK(::access((out + ".pass1-0").c_str(), F_OK) != 0);
  paths.push_back(folder + "/missing.npy");
  CHECK_THROWS(dcfast::Error, dcfast::merge_runs(paths, out, {false, dcfast::kMergeMinMemory, 3}));
  CHECK(::access((out + ".pass1-0").c_str(), F_OK) != 0);
  paths.pop_back();
  // a cancelled merge leaves no intermediate file either
  int polls = 0;
  const dcfast::Poll cancel = [&polls] {
    if (++polls == 5) throw dcfast::Error(dcfast::Code::cancelled, "stop");
  };
  CHECK_THROWS(dcfast::Error, dcfast::merge_runs(paths, out, {false, dcfast::kMergeMinMemory, 3}, cancel));
  CHECK(::access((out + ".pass1-0").c_str(), F_OK) != 0);

  std::vector<std::uint64_t> offsets;
  std::vector<std::uint64_t> sizes;
  const std::string bytes = slurp(expected);
  for (std::size_t i = 0; i < 2000; ++i) {
    offsets.push_back(random_bits() % bytes.size());
    sizes.push_back(random_bits() % (bytes.size() - offsets.back() + 1));
  }
  for (const unsigned threads : {0U, 1U, 3U}) {
    std::vector<Uid> hashes(offsets.size());
    dcfast::hash_ranges(expected, offsets, sizes, hashes, threads);
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      CHECK(hashes[i] == dcfast::xxh3_128(std::as_bytes(std::span(bytes).subspan(offsets[i], sizes[i]))));
    }
  }
  for (const std::string& path : paths) ::unlink(path.c_str());
  ::unlink(expected.c_str());
  ::unlink(out.c_str());
  CHECK(::rmdir(name) == 0);
}

}  // namespace

int main() {
  test_text();
  test_dashed_text();
  test_views();
  test_rows_of_a_dictionary();
  for (const unsigned threads : {1U, 2U, 5U}) {
    test_pieces_of_a_column(threads);
    test_sort_and_sets(threads);
  }
  test_merge();
  return failures();
}
