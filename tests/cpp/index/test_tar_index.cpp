// The tar walker, image headers, json uids and segments on bytes in memory, with readers that fail or change.
#include "core/index/tar_index.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

#include "check.hpp"
#include "core/images/image_header.hpp"
#include "core/index/json_uid.hpp"
#include "core/index/range_reader.hpp"
#include "core/index/tar_header.hpp"
#include "core/index/tar_segment.hpp"
#include "index/memory_reader.hpp"

using namespace dcfast;

namespace {

std::string member(const std::string& name, const std::string& data, char type = '0') {
  std::string block(512, '\0');
  name.copy(block.data(), 100);
  char number[16];
  std::snprintf(number, sizeof(number), "%011zo", data.size());
  block.replace(124, 12, std::string(number, 12));
  block[156] = type;
  block.replace(257, 8, std::string("ustar\00000", 8));
  block.replace(148, 8, "        ");
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  std::snprintf(number, sizeof(number), "%06o", sum);
  block.replace(148, 8, std::string(number, 7) + ' ');
  return block + data + std::string((512 - data.size() % 512) % 512, '\0');
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string sample(int i, std::size_t image) {
  const std::string key = "k" + std::to_string(i);
  char uid[33];
  std::snprintf(uid, sizeof(uid), "%032x", static_cast<unsigned>(i));
  return member(key + ".jpg", std::string(image, 'p')) + member(key + ".json", std::string("{\"uid\": \"") + uid + "\"}") +
         member(key + ".txt", "text");
}

const std::string end_marker(1024, '\0');

// Fails, or comes to an early end, from an offset on.
class FaultyReader final : public ByteReader {
 public:
  FaultyReader(const std::string& text, std::uint64_t from, bool throws) : memory_(bytes_of(text)), size_(text.size()), from_(from), throws_(throws) {}
  std::uint64_t size() const override { return size_; }
  std::size_t read(std::span<std::byte> out, std::uint64_t offset) override {
    if (offset + out.size() > from_ && throws_) throw Error(Code::io, "read: injected", "memory", offset, EIO);
    if (offset >= from_) return 0;
    return memory_.read(out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), from_ - offset))), offset);
  }

 private:
  MemoryReader memory_;
  std::uint64_t size_;
  std::uint64_t from_;
  bool throws_;
};

void test_windows() {
  // Whatever the sizes do to the window, offsets and uids stay the same.
  for (const std::size_t image : {0UL, 1UL, 511UL, 3000UL, 4096UL, 9000UL, 70000UL, 300000UL}) {
    std::string tar;
    const int count = image > 60000 ? 5 : 60;
    for (int i = 0; i < count; ++i) tar += sample(i, image);
    tar += end_marker;
    MemoryReader reader(bytes_of(tar));
    const ShardIndex index = index_tar(reader, {});
    CHECK(index.reports.empty());
    CHECK(index.flags.size() == static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < index.flags.size(); ++i) {
      CHECK(index.flags[i] == 0);
      CHECK(index.member_count[i] == 3);
      CHECK(index.uid[i].lo == i && index.uid[i].hi == 0);
      CHECK(index.base[i] == i * (512 * 5 + (image + 511) / 512 * 512));
    }
  }
}

/// Counts what is read.
class CountingReader final : public ByteReader {
 public:
  explicit CountingReader(std::span<const std::byte> bytes) : memory_(bytes) {}
  std::uint64_t size() const override { return memory_.size(); }
  std::size_t read(std::span<std::byte> out, std::uint64_t offset) override {
    const std::size_t got = memory_.read(out, offset);
    total += got;
    return got;
  }
  std::uint64_t total = 0;

 private:
  MemoryReader memory_;
};

void test_joined() {
  for (const std::size_t padding : {0UL, 512UL, 8192UL, 9216UL, 30720UL}) {
    std::string tar;
    for (int i = 0; i < 300; ++i) tar += sample(i, 100) + end_marker + std::string(padding, '\0');
    CountingReader reader(bytes_of(tar));
    const ShardIndex index = index_tar(reader, {});
    CHECK(index.flags.size() == 300);
    CHECK(index.reports.size() == 1 && !index.reports[0].damage);
    CHECK(sample_loss(false, index.reports[0].message) == SampleLoss::names);
    CHECK(reader.total <= 2 * tar.size() + 300 * ReadWindow::max_view * (padding > 20480 ? 5 : 0));
    for (std::size_t i = 0; i < 300; ++i) CHECK(index.uid[i].lo == i && index.flags[i] == 0);
  }
  CHECK(sample_loss(true, "anything") == SampleLoss::archive);
  // as segments of earlier code have them
  CHECK(sample_loss(false, "another archive follows the end-of-archive marker, as cat joins them") == SampleLoss::names);
  CHECK(sample_loss(false, "2 other archives follow the end-of-archive marker, as cat joins them") == SampleLoss::names);
  CHECK(sample_loss(false, "malformed pax record: the rest of this pax header is ignored") == SampleLoss::none);
}

void test_key_uids() {
  std::string tar = sample(1, 10) + sample(2, 10) + end_marker;
  IndexOptions options;
  options.read_uid = false;
  MemoryReader reader(bytes_of(tar));
  ShardIndex index = index_tar(reader, options);
  CHECK((index.flags[0] & sample_flag::without_uid) != 0);
  set_key_uids(index, "a/b/00012.tar");
  ShardIndex same = index;
  set_key_uids(same, "00012.tar");
  CHECK(index.uid == same.uid && !(index.uid[0] == index.uid[1]));
  CHECK(((index.flags[0] | index.flags[1]) & sample_flag::without_uid) == 0);
}

void test_faults() {
  std::string tar;
  for (int i = 0; i < 20; ++i) tar += sample(i, 5000);
  tar += end_marker;
  for (std::uint64_t from = 0; from < tar.size(); from += 509) {
    FaultyReader failing(tar, from, true);
    CHECK_THROWS(Error, index_tar(failing, {}));
    FaultyReader shrinking(tar, from, false);
    const ShardIndex index = index_tar(shrinking, {});
    CHECK(index.flags.size() <= 20);
    CHECK(!index.reports.empty());
  }
}

void test_split() {
  std::string_view key, ext;
  CHECK(split_member_name("a/b.c/d.e.f", key, ext) && key == "a/b.c/d" && ext == "e.f");
  CHECK(split_member_name("a.", key, ext) && key == "a" && ext.empty());
  CHECK(split_member_name("____x.jpg", key, ext));
  CHECK(split_member_name("a/__b__/c.jpg", key, ext));
  for (const char* name : {"", "a", ".a", "d/.a", "a.b/c", "__a__", "____", "__a__/b.jpg", "__a.b__/c.jpg"}) {
    CHECK(!split_member_name(name, key, ext));
  }
  for (const char* name : {"jpg", "JPEG", "a.b.Png", "tif", "tiff", "webp", "gif", "bmp", "AVIF", "jfif", "jpe", "jp2", "ppm", "ico"}) CHECK(is_image_ext(name));
  for (const char* name : {"", "jp", "jpgx", "png.gz", "json", "txt", "jpg.", "..."}) CHECK(!is_image_ext(name));
}

void test_utf8() {
  const auto escaped = [](std::string_view raw) {
    std::string out;
    append_utf8(out, raw);
    return out;
  };
  CHECK(escaped("plain \xc3\xa4 \xe2\x98\xba \xf0\x9f\x98\x80") == "plain \xc3\xa4 \xe2\x98\xba \xf0\x9f\x98\x80");
  CHECK(escaped("\xc0\x80\xff") == "\\xc0\\x80\\xff");
  CHECK(escaped("\xe2\x98") == "\\xe2\\x98");
  CHECK(escaped("\xed\xa0\x80") == "\\xed\\xa0\\x80");
  CHECK(escaped("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80");
  CHECK(printable_name("a\nb") == "'a\\x0ab'");
  CHECK(printable_name(std::string(500, 'x')).size() < 200);
}

void test_image_sizes() {
  const auto size = [](std::string_view text) { return read_image_size(std::as_bytes(std::span(text.data(), text.size()))); };
  const auto text = [](std::initializer_list<int> values) {
    std::string out;
    for (const int v : values) out.push_back(static_cast<char>(v));
    return out;
  };
  const std::string jpeg = text({0xff, 0xd8, 0xff, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xc2, 0, 11, 8, 0x01, 0x02, 0x03, 0x04, 1, 1, 0x11, 0});
  CHECK((size(jpeg) == ImageSize{0x304, 0x102}));
  const std::string png = text({0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R', 0, 0, 1, 0, 0, 0, 0, 7, 8, 2, 0, 0, 0});
  CHECK((size(png) == ImageSize{256, 7}));
  const std::string gif = text({'G', 'I', 'F', '8', '9', 'a', 5, 0, 6, 1});
  CHECK((size(gif) == ImageSize{5, 262}));
  const std::string vp8l = std::string("RIFF\x12\0\0\0WEBPVP8L\x06\0\0\0\x2f", 21) + text({0x02, 0x40, 0x01, 0x00});
  CHECK((size(vp8l) == ImageSize{3, 6}));
  const std::string vp8x = std::string("RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0", 24) + text({9, 0, 0, 0, 0, 1});
  CHECK((size(vp8x) == ImageSize{10, 65537}));
  const std::string bmp = "BM" + std::string(12, '\0') + text({40, 0, 0, 0, 3, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff});
  CHECK((size(bmp) == ImageSize{3, 2}));
  const std::string tiff = std::string("MM\0*\0\0\0\x08\0\x02", 10) + text({1, 0, 0, 3, 0, 0, 0, 1, 0, 9, 0, 0, 1, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 8});
  CHECK((size(tiff) == ImageSize{9, 8}));
  // Every cut and many flips: no sanitizer complaint, and never half a size.
  std::mt19937 random(7);
  for (const std::string& whole : {jpeg, png, gif, vp8l, vp8x, bmp, tiff}) {
    for (std::size_t n = 0; n < whole.size(); ++n) {
      const std::string cut = whole.substr(0, n);
      const ImageSize got = size(std::string_view(cut.data(), n));
      CHECK((got.width == 0) == (got.height == 0));
    }
    for (int k = 0; k < 2000; ++k) {
      std::string flipped = whole + std::string(40, '\0');
      for (int f = 0; f < 3; ++f) flipped[random() % whole.size()] = static_cast<char>(random());
      const ImageSize got = size(flipped);
      CHECK((got.width == 0) == (got.height == 0));
    }
  }
  // a hostile JPEG: segments without end
  std::string endless = text({0xff, 0xd8});
  for (int i = 0; i < 100000; ++i) endless += text({0xff, 0xe1, 0, 2});
  CHECK((size(endless) == ImageSize{}));
}

void test_uids() {
  UidReader reader;
  Uid uid;
  const auto read = [&](std::string text) {
    text.resize(text.size() + UidReader::padding, ' ');
    return reader.read(bytes_of(text).first(text.size() - UidReader::padding), uid);
  };
  const std::string hex = "00112233445566778899aAbBcCdDeEfF";
  CHECK(read("{\"uid\":\"" + hex + "\"}") == UidStatus::found);
  CHECK(uid.hi == 0x0011223344556677 && uid.lo == 0x8899aabbccddeeff);
  CHECK(read("{}") == UidStatus::missing);
  CHECK(read("{\"uid\":\"x\"}") == UidStatus::malformed);
  CHECK(read("{\"uid\":\"1f\",\"uid\":\"x\"}") == UidStatus::found);  // the first, padded
  CHECK(uid.hi == 0 && uid.lo == 0x1f);
  CHECK(read("{\"uid\"") == UidStatus::bad_json);
  CHECK(read("") == UidStatus::bad_json);
  // Random bytes of json's alphabet, cut and flipped: a status, never a crash.
  std::mt19937 random(11);
  const std::string alphabet = "{}[]\",:\\u0123dDNaInfty-+.eE \xff\xed";
  for (int k = 0; k < 20000; ++k) {
    std::string text = "{\"uid\": \"" + hex + "\", \"x\": ";
    for (unsigned n = random() % 24; n > 0; --n) text.push_back(alphabet[random() % alphabet.size()]);
    if (random() % 2 == 0) text.push_back('}');
    text.resize(random() % (text.size() + 1));
    (void)read(text);
  }
}

void test_flipped_tars() {
  std::string tar = member("././@LongLink", std::string(150, 'n') + ".json", 'L') + member("n", "{\"uid\": 1}");
  tar += member("pax", "18 path=new.jpeg\n", 'x') + member("old", "picture") + sample(1, 700) + end_marker;
  std::mt19937 random(5);
  for (int k = 0; k < 20000; ++k) {
    std::string flipped = tar;
    for (unsigned f = 0; f <= k % 4U; ++f) flipped[random() % flipped.size()] = static_cast<char>(random());
    if (k % 3 == 0) flipped.resize(random() % flipped.size());
    MemoryReader reader(bytes_of(flipped));
    const ShardIndex index = index_tar(reader, {});
    CHECK(index.members.size() + index.stray_kind.size() <= 8);
  }
}

// Names of 16 bytes and ".j" that a MurmurHash64A with libstdc++'s fixed seed sends to one place: its rounds can be
// turned back, so that anyone can make them.
std::vector<std::string> colliding_keys(std::size_t count) {
  constexpr std::uint64_t m = 0xc6a4a7935bd1e995;
  std::uint64_t inverse = m;
  for (int i = 0; i < 6; ++i) inverse *= 2 - m * inverse;
  const auto mixed = [](std::uint64_t x, std::uint64_t by) {
    x *= by;
    x ^= x >> 47;
    return x * by;
  };
  const std::uint64_t start = 0xc70f6907 ^ (16 * m);
  std::vector<std::string> keys;
  std::mt19937_64 random(3);
  while (keys.size() < count) {
    std::uint64_t blocks[2] = {random(), 0};
    blocks[1] = mixed(((start ^ mixed(blocks[0], m)) * m) ^ 0x1234567, inverse);
    std::string key(reinterpret_cast<const char*>(blocks), sizeof(blocks));
    if (key.find_first_of(std::string_view("\0./", 3)) == std::string::npos) keys.push_back(key);
  }
  return keys;
}

void test_names_that_collide() {
  constexpr std::size_t count = 15'000;
  const std::vector<std::string> hostile = colliding_keys(count);
  CHECK(std::hash<std::string_view>{}(hostile[0]) == std::hash<std::string_view>{}(hostile[1]));  // else: adapt this test
  std::string bad, plain;
  for (std::size_t i = 0; i < count; ++i) {
    bad += member(hostile[i] + ".j", "");
    plain += member("0123456789" + std::to_string(100000 + i) + ".j", "");
  }
  const auto seconds = [](const std::string& tar) {
    double best = 1e9;
    for (int round = 0; round < 3; ++round) {
      const auto begin = std::chrono::steady_clock::now();
      MemoryReader reader(bytes_of(tar));
      CHECK(index_tar(reader, {}).flags.size() == count);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best;
  };
  CHECK(seconds(bad) < 8 * seconds(plain));  // with a hash that is known: hundreds of times
}

/// Of the tar files, each stored under its place in the list.
SegmentStats write_files(const std::vector<std::string>& paths, const std::string& out, unsigned threads) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < paths.size(); ++i) names.push_back(std::to_string(i));
  return write_segment(names, [&](std::size_t i) { return index_tar_file(paths[i], {}); }, out, threads);
}

void test_segment() {
  char folder[] = "/tmp/dcfast-test-XXXXXX";
  CHECK(::mkdtemp(folder) != nullptr);
  const std::string root = folder;
  std::vector<std::string> shards;
  for (int k = 0; k < 9; ++k) {
    const std::string path = root + "/" + std::to_string(k) + ".tar";
    std::string tar;
    for (int i = 0; i < 17 * k; ++i) tar += sample(1000 * k + i, static_cast<std::size_t>(i) * 97);
    if (k == 3) tar.resize(tar.size() - 700);
    if (k != 3) tar += end_marker;
    File out = File::open_write(path);
    out.write_all(bytes_of(tar));
    out.close();
    shards.push_back(path);
  }
  const std::string one = root + "/one", four = root + "/four";
  const SegmentStats stats = write_files(shards, one, 1);
  write_files(shards, four, 4);
  CHECK(stats.num_samples == 17 * 36);
  CHECK(stats.reports.size() == 1);  // the cut shard
  const SegmentFile a(one, true), b(four, true);
  CHECK(a.num_samples() == stats.num_samples && a.num_members() == stats.num_members);
  const MappedFile first(one), second(four);
  CHECK(first.bytes().size() == second.bytes().size());
  CHECK(std::memcmp(first.bytes().data(), second.bytes().data(), first.bytes().size()) == 0);
  CHECK_THROWS(Error, SegmentFile(shards[1], true));
  CHECK_THROWS(Error, write_files({root + "/none"}, one, 2));
  shards.push_back(root + "/none");
  CHECK_THROWS(Error, write_files(shards, one, 4));
  CHECK_THROWS(Error, write_files({}, "/dev/full", 1));
  for (int k = 0; k < 9; ++k) ::unlink((root + "/" + std::to_string(k) + ".tar").c_str());
  ::unlink(one.c_str());
  ::unlink(four.c_str());
  ::rmdir(folder);
}

/// Ranges of memory; after `good` requests the object is another one.
class MemoryRanges final : public RangeSource {
 public:
  explicit MemoryRanges(std::string_view bytes, std::size_t good = ~std::size_t{0}) : bytes_(bytes), good_(good) {}
  FileVersion open() override { return {bytes_.size(), 7}; }
  std::size_t fetch(std::span<std::byte> out, std::uint64_t offset) override {
    CHECK(offset < bytes_.size() && out.size() <= bytes_.size() - offset && !out.empty());
    if (requests++ >= good_) return 0;
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return out.size();
  }
  std::string finish() override { return requests > good_ ? "another one" : ""; }
  std::size_t requests = 0;

 private:
  std::string_view bytes_;
  std::size_t good_;
};

// The short ways for usual fields agree with the long ones wherever they answer, and answer for what writers write.
void test_header_numbers() {
  using namespace tar_header;
  std::mt19937 random(11);
  const std::string alphabet("01234567  89\0\0/:\x80\xff", 18);
  std::size_t plain = 0;
  for (int round = 0; round < 200'000; ++round) {
    char field[12];
    for (char& c : field) c = random() % 16 == 0 ? alphabet[random() % alphabet.size()] : static_cast<char>('0' + random() % 8);
    if (random() % 4 != 0) field[11] = random() % 2 == 0 ? '\0' : ' ';
    std::uint64_t fast = 0;
    std::uint64_t slow = 0;
    if (plain_size(field, fast)) {
      ++plain;
      CHECK(parse_number(field, sizeof(field), slow) == Number::good && slow == fast);
    }
    if (random() % 4 != 0) field[6] = '\0';
    if (plain_checksum(field, fast)) {
      ++plain;
      CHECK(parse_number(field, 8, slow) == Number::good && slow == fast);
    }
  }
  CHECK(plain > 100'000);
  std::uint64_t value = 0;
  CHECK(plain_size("77777777777", value) && value == 077777777777);
  CHECK(plain_size("12345670123 ", value) && value == 012345670123);
  CHECK(!plain_size("777777777777", value) && !plain_size(" 7777777777", value) && !plain_size("7777777 777", value));
  CHECK(plain_checksum("765432\0 ", value) && value == 0765432);
  CHECK(!plain_checksum("7654321", value) && !plain_checksum(" 76543\0", value));
  for (int round = 0; round < 2'000; ++round) {
    char block[512];
    std::uint32_t sum = 0;
    for (char& c : block) sum += static_cast<unsigned char>(c = static_cast<char>(round == 0 ? 0xff : random()));
    CHECK(sum_block(block) == sum);
    std::uint32_t word = 0;
    for (int i = 0; i < 8; ++i) word += static_cast<unsigned char>(block[i]);
    CHECK(sum_word(load_word(block)) == word);
  }
}

void test_ranges() {
  std::string tar;
  for (int i = 0; i < 300; ++i) {
    const std::string key = std::to_string(i);
    tar += member(key + ".jpg", std::string(static_cast<std::size_t>(i) * 97, 'p'));
    tar += member(key + ".json", "{}");
  }
  tar += member("big.bin", std::string(3 << 20, 'b')) + member("big.txt", "t") + std::string(1024, '\0');
  MemoryReader reader(bytes_of(tar));
  const ShardIndex local = index_tar(reader, {});
  MemoryRanges ranges(tar);
  const ShardIndex remote = index_tar_ranges(ranges, {}, 1 << 18);
  CHECK(remote.mtime_ns == 7 && remote.tar_size == tar.size() && remote.reports.empty());
  CHECK(remote.members == local.members && remote.keys.text == local.keys.text && remote.flags == local.flags);
  CHECK(ranges.requests <= 3 + (tar.size() >> 18));
  for (std::size_t good = 0; good < 4; ++good) {
    MemoryRanges replaced(tar, good);
    const ShardIndex index = index_tar_ranges(replaced, {}, 0);
    CHECK(!index.reports.empty() && index.reports.back().damage && index.reports.back().message == "another one");
  }
  MemoryRanges none("");
  CHECK(index_tar_ranges(none, {}, 1 << 20).reports.size() == 1 && none.requests == 0);
}

}  // namespace

int main() {
  test_windows();
  test_header_numbers();
  test_joined();
  test_key_uids();
  test_faults();
  test_split();
  test_utf8();
  test_image_sizes();
  test_uids();
  test_flipped_tars();
  test_names_that_collide();
  test_segment();
  test_ranges();
  return failures();
}
