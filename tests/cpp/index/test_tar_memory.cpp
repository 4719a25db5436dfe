// What a tar costs its reader: the peak of what is allocated while shards of many small members are indexed and written,
// beside the bounds of tar_limits.hpp. The tars are made as they are read, so that only the index takes memory.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <span>
#include <string>
#include <unistd.h>
#include <vector>

#include "check.hpp"
#include "core/index/tar_index.hpp"
#include "core/index/tar_limits.hpp"
#include "core/index/tar_segment.hpp"
#include "index/memory_reader.hpp"

namespace {

std::atomic<std::size_t> in_use{0};
std::atomic<std::size_t> peak{0};

void* counted_or_null(std::size_t size) noexcept {
  void* const p = std::malloc(size == 0 ? 1 : size);
  if (p == nullptr) return nullptr;
  const std::size_t now = in_use += malloc_usable_size(p);
  if (now > peak) peak = now;
  return p;
}

void* counted(std::size_t size) {
  void* const p = counted_or_null(size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void uncounted(void* p) noexcept {
  if (p != nullptr) in_use -= malloc_usable_size(p);
  std::free(p);
}

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return counted_or_null(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return counted_or_null(size); }
void operator delete(void* p) noexcept { uncounted(p); }
void operator delete[](void* p) noexcept { uncounted(p); }
void operator delete(void* p, std::size_t) noexcept { uncounted(p); }
void operator delete[](void* p, std::size_t) noexcept { uncounted(p); }

using namespace dcfast;

namespace {

std::string block(const std::string& name, std::size_t size, char type = '0') {
  std::string out(512, '\0');
  name.copy(out.data(), 100);
  std::snprintf(out.data() + 124, 12, "%011zo", size);
  out[156] = type;
  out.replace(257, 8, std::string("ustar\00000", 8));
  out.replace(148, 8, "        ");
  unsigned sum = 0;
  for (const char c : out) sum += static_cast<unsigned char>(c);
  std::snprintf(out.data() + 148, 8, "%06o", sum);
  out[155] = ' ';
  return out;
}

std::string padded(std::string data) { return data.append((512 - data.size() % 512) % 512, '\0'); }

std::string member(const std::string& name, const std::string& data, char type = '0') {
  return block(name, data.size(), type) + padded(data);
}

std::string number(std::size_t i) {
  char text[16];
  std::snprintf(text, sizeof(text), "%09zu", i);
  return text;
}

/// A prefix, `count` units that all have one size, and an end mark; made as it is read.
class MadeTar final : public ByteReader {
 public:
  using Unit = std::function<std::string(std::size_t)>;
  MadeTar(std::string prefix, std::size_t count, Unit unit) : prefix_(std::move(prefix)), count_(count), unit_(std::move(unit)) {
    length_ = unit_(0).size();
  }
  std::uint64_t size() const override { return prefix_.size() + count_ * length_ + 1024; }
  std::size_t read(std::span<std::byte> out, std::uint64_t offset) override {
    std::size_t done = 0;
    while (done < out.size() && offset < size()) {
      std::string_view part = prefix_;
      std::size_t begin = static_cast<std::size_t>(offset);
      if (offset >= prefix_.size()) {
        const std::size_t i = static_cast<std::size_t>((offset - prefix_.size()) / length_);
        if (i != made_ || text_.empty()) {
          made_ = i;
          text_ = i < count_ ? unit_(i) : std::string(1024, '\0');
        }
        part = text_;
        begin = static_cast<std::size_t>(offset - prefix_.size() - i * length_);
      }
      const std::size_t n = std::min(part.size() - begin, out.size() - done);
      std::memcpy(out.data() + done, part.data() + begin, n);
      done += n;
      offset += n;
    }
    return done;
  }

 private:
  std::string prefix_;
  std::size_t count_;
  Unit unit_;
  std::size_t length_ = 0, made_ = 0;
  std::string text_;
};

struct Case {
  const char* what;
  std::string prefix;
  MadeTar::Unit unit;
  std::size_t name_bytes;  // of a unit
  std::size_t members = 1;
};

std::vector<Case> cases() {
  const std::string four_kb(4096, 'k');
  const auto pax = [](const std::string& record) { return member("pax", record, 'x'); };
  return {
      {"samples of one member", "", [](std::size_t i) { return member(number(i) + ".jpg", ""); }, 13},
      {"samples of three members", "",
       [](std::size_t i) { return member(number(i) + ".jpg", "x") + member(number(i) + ".json", "{}") + member(number(i) + ".txt", "t"); }, 9, 3},
      {"strays", "", [](std::size_t i) { return member(number(i), ""); }, 9},
      {"an extension each", "", [](std::size_t i) { return member("k." + number(i) + ".jpg", ""); }, 13},
      {"a long extension each", "", [](std::size_t i) { return member("k." + number(i) + std::string(80, 'e') + ".txt", ""); }, 93},
      {"sparse members", "", [](std::size_t i) { return member(number(i) + ".jpg", "", 'S'); }, 13},
      {"links", "", [](std::size_t i) { return member(number(i) + ".jpg", "", '2'); }, 13},
      {"malformed pax records", "", [pax](std::size_t i) { return pax("nonsense") + member(number(i) + ".jpg", ""); }, 13},
      {"pax records without a newline", "", [pax](std::size_t i) { return pax("9 x=12345") + member(number(i) + ".jpg", ""); }, 13},
      {"joined archives", "", [](std::size_t i) { return member(number(i) + ".jpg", "") + std::string(1024, '\0'); }, 13},
      {"one key", "", [](std::size_t) { return member("k.jpg", ""); }, 5},
      {"keys of 4 kB", "", [four_kb](std::size_t i) { return member("././@LongLink", number(i) + four_kb + ".jpg", 'L') + member("k", ""); }, 4109},
      {"pax paths of 4 kB, six times", "",
       [pax, four_kb](std::size_t i) {
         std::string record = " path=" + number(i) + four_kb + ".jpg\n";
         record = std::to_string(record.size() + 4) + record;
         return pax(record + record + record + record + record + record) + member("k", "");
       }, 4109},
      {"a global path", member("g", "262 path=" + std::string(248, 'g') + ".jpg\n", 'g'),
       [](std::size_t) { return member("k.jpg", ""); }, 252},
  };
}

/// Memory at the peak of `work`, beyond what was there.
std::size_t cost(const std::function<void()>& work) {
  const std::size_t before = in_use;
  peak = before;
  work();
  return peak - before;
}

// What does not grow with the members: windows, pax headers, the segment's buffer.
constexpr std::size_t fixed = 3 << 20;

void test_bounds(bool print) {
  char folder[] = "/tmp/dcfast-test-XXXXXX";
  CHECK(::mkdtemp(folder) != nullptr);
  const std::string out = std::string(folder) + "/s";
  const std::vector<std::string> names{"a.tar"};
  for (const Case& c : cases()) {
    // just above a power of two, where vectors have grown last
    const std::size_t units = c.name_bytes > 1000 ? 2'060 : 33'000;
    const std::size_t bound =
        fixed + units * (c.members * tar_limits::bytes_per_member + c.name_bytes * tar_limits::bytes_per_name_byte);
    std::size_t reports = 0, found = 0;
    const std::size_t spent = cost([&] {
      const auto stats = write_segment(
          names,
          [&](std::size_t) {
            MadeTar tar(c.prefix, units, c.unit);
            return index_tar(tar, {});
          },
          out, 1);
      reports = stats.reports.size();
      found = static_cast<std::size_t>(stats.num_members + stats.num_strays);
    });
    if (print || spent > bound) {
      const double each = (static_cast<double>(spent) - static_cast<double>(units * c.name_bytes)) / static_cast<double>(units * c.members);
      std::printf("%s, %zu: %zu bytes of %zu, %.0f a member beside its name\n", c.what, units, spent, bound, each);
    }
    CHECK(found == units * c.members);
    CHECK(reports <= 3);
    CHECK(spent <= bound);
  }
  ::unlink(out.c_str());
  ::rmdir(folder);
}

// One json member, as large as is read, of what the parser takes most memory for: numbers, brackets, texts, what is not
// standard and is parsed twice; and one that is larger.
void test_json(bool print) {
  const std::vector<std::string> repeated{"1,", "[],", "{\"a\":1},", "\"\",", "NaN,", std::string(500, 'x')};
  for (const std::string& part : repeated) {
    for (const std::uint64_t size : {tar_limits::max_json, tar_limits::max_json + 1}) {
      if (size > tar_limits::max_json && part != repeated[0]) continue;
      std::string json = "{\"x\":[";
      json.reserve(static_cast<std::size_t>(size));
      if (part[0] == 'x') json += '"';
      while (json.size() + part.size() + 60 < size) json += part;
      json += part[0] == 'x' ? "\"]" : "0]";
      json += ",\"uid\":\"" + std::string(32, 'a') + "\"}";
      json.append(static_cast<std::size_t>(size) - json.size(), ' ');
      const std::string head = block("a.json", json.size());
      const std::string tar = head + padded(std::move(json)) + std::string(1024, '\0');
      MemoryReader reader(std::as_bytes(std::span(tar.data(), tar.size())));
      const std::size_t spent = cost([&] {
        const ShardIndex shard = index_tar(reader, {});
        const bool read = (shard.flags[0] & sample_flag::without_uid) == 0;
        CHECK(read == (size <= tar_limits::max_json));
      });
      if (print) std::printf("json of %zu bytes, %.10s: %.1f bytes a byte\n", static_cast<std::size_t>(size), part.c_str(), static_cast<double>(spent) / static_cast<double>(size));
      CHECK(spent <= fixed + (size > tar_limits::max_json ? 0 : size * tar_limits::bytes_per_json_byte));
    }
  }
}

// The file holds a name once, and every member has it.
void test_names_that_are_not_in_the_file() {
  const auto index = [](const std::string& keyword, std::size_t length, char type) {
    std::string record = " " + keyword + "=" + std::string(length, 'n') + "\n";
    for (std::size_t digits = 1; digits < 8; ++digits) {
      const std::string size = std::to_string(record.size() + digits);
      if (size.size() == digits) {
        record = size + record;
        break;
      }
    }
    MadeTar tar(member("g", record, type), 50'000, [](std::size_t i) { return member(number(i) + ".jpg", ""); });
    return index_tar(tar, {});
  };
  CHECK(index("path", 256, 'g').stray_kind.size() == 50'000);
  for (const std::size_t length : {257UL, 4000UL, 100'000UL}) {
    const ShardIndex shard = index("path", length, 'g');
    CHECK(shard.reports.size() == 1 && shard.reports[0].damage);
    CHECK(shard.reports[0].message == "global pax path of " + std::to_string(length) + " bytes: more than 256");
    CHECK(shard.flags.empty() && shard.stray_kind.empty());
  }
  CHECK(index("path", tar_limits::max_name, 'x').reports.empty());
  const ShardIndex longer = index("path", tar_limits::max_name + 1, 'x');
  CHECK(longer.reports.size() == 1 && longer.reports[0].message == "pax path of 1048577 bytes: more than 1048576");
  CHECK(longer.flags.empty());
}

}  // namespace

int main(int argc, char**) {
  test_bounds(argc > 1);
  test_json(argc > 1);
  test_names_that_are_not_in_the_file();
  return failures();
}
