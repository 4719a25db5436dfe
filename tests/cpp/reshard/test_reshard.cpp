// write_shard: bytes of headers, padding and end; windows of every size give the same file; errors name the source.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/reshard/reshard.hpp"

namespace {

std::string scratch() {
  std::string path = "/tmp/dcfast-reshard-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) std::abort();
  return path;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

struct Members {
  std::vector<std::uint32_t> source;
  std::vector<std::uint64_t> offset, size, name_begin{0};
  std::vector<std::uint8_t> names;
  std::string expected;  // the tar, built one member after the other

  void add(const std::string& name, std::uint32_t from, std::uint64_t at, std::uint64_t length, const std::string& bytes) {
    source.push_back(from);
    offset.push_back(at);
    size.push_back(length);
    names.insert(names.end(), name.begin(), name.end());
    name_begin.push_back(names.size());
    const auto header = dcfast::tar_member_header(name, length);
    expected.append(reinterpret_cast<const char*>(header.data()), header.size());
    expected += bytes.substr(at, length);
    expected.append((512 - length % 512) % 512, '\0');
  }

  dcfast::ShardMembers view() const { return {source, offset, size, names, name_begin}; }

  std::string tar() const {
    std::string whole = expected + std::string(1024, '\0');
    whole.append((10240 - whole.size() % 10240) % 10240, '\0');
    return whole;
  }
};

dcfast::Error error_of(const std::string& out, const std::vector<dcfast::CopySource>& sources, const Members& members) {
  try {
    dcfast::write_shard(out, sources, members.view());
  } catch (const dcfast::Error& error) {
    return error;
  }
  CHECK(!"an error was expected");
  return dcfast::Error(dcfast::Code::cancelled, "none");
}

}  // namespace

void names_of_members() {
  const std::vector<dcfast::Uid> uids{{0, 10}, {~0ULL, ~0ULL}};
  const std::vector<std::uint64_t> copies{0, ~0ULL};
  const std::vector<std::uint32_t> samples{0, 1, 1}, ext_ids{1, 0, 1}, beyond{2};
  const std::vector<std::string> exts{"jpg", "\xc3\xb6"};
  std::vector<std::uint8_t> names;
  std::vector<std::uint64_t> begin;
  dcfast::sample_member_names(uids, copies, samples, ext_ids, exts, names, begin);
  const std::string last = std::string(32, 'f') + "-18446744073709551615.";
  const std::vector<std::string> expected{std::string(31, '0') + "a-0.\xc3\xb6", last + "jpg", last + "\xc3\xb6"};
  CHECK(begin.size() == 4);
  const std::string all(names.begin(), names.end());
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(all.substr(begin[i], begin[i + 1] - begin[i]) == expected[i]);
  CHECK_THROWS(dcfast::Error, dcfast::sample_member_names(uids, copies, {samples.data(), 1}, beyond, exts, names, begin));
}

int main() {
  names_of_members();
  const std::string dir = scratch();
  std::vector<std::string> contents;
  std::vector<dcfast::CopySource> sources;
  std::uint64_t state = 1;
  for (int s = 0; s < 5; ++s) {
    std::string bytes(300'000, '\0');
    for (char& c : bytes) c = static_cast<char>((state = state * 6364136223846793005ULL + 1442695040888963407ULL) >> 56);
    const std::string path = dir + "/source" + std::to_string(s);
    write_file(path, bytes);
    contents.push_back(bytes);
    sources.push_back({path, std::nullopt, std::nullopt});
  }

  // neighbours with gaps around the limit, overlaps, repeats, falling offsets, empty payloads, many sources
  Members members;
  std::uint64_t at = 0;
  for (const std::uint64_t length : {0ULL, 1ULL, 511ULL, 512ULL, 513ULL, 4095ULL, 4097ULL, 70'001ULL}) {
    for (const std::uint64_t gap : {0ULL, 1ULL, 1023ULL, 8191ULL, 8192ULL, 8193ULL}) {
      const auto from = static_cast<std::uint32_t>(members.source.size() % 5);
      at = (at + gap) % (contents[0].size() - length);
      members.add("k" + std::to_string(members.source.size()) + ".bin", from, at, length, contents[from]);
      members.add("twin" + std::to_string(members.source.size()) + ".bin", from, at, length, contents[from]);
      at += length;
    }
  }
  members.add(std::string(101, 'n') + ".x", 0, 7, 99, contents[0]);
  const std::string out = dir + "/out.tar";
  for (const std::size_t window : {0UL, 4096UL, 10007UL, 1UL << 20}) {
    for (const std::size_t open : {1UL, 2UL, 64UL}) {
      CHECK(dcfast::write_shard(out, sources, members.view(), {window, open}) == members.tar().size());
      CHECK(read_file(out) == members.tar());
    }
  }
  CHECK(dcfast::write_shard(out, sources, Members{}.view()) == 10240);
  CHECK(read_file(out) == std::string(10240, '\0'));

  // one shard by several threads: the same bytes; the first error is kept and all threads have ended
  {
    Members large;
    for (std::size_t i = 0; i < 200; ++i) {
      const std::string name = (i % 7 == 0 ? std::string(120, 'n') : "k") + std::to_string(i) + ".x";
      large.add(name, static_cast<std::uint32_t>(i % 5), i * 13, i == 17 ? 0 : 90'000 + i, contents[i % 5]);
    }
    const auto alone = dcfast::write_shard(out, sources, large.view(), {4096, 64, 1});
    for (const unsigned threads : {2U, 3U, 4U, 64U}) {
      const auto shared = dcfast::write_shard(out, sources, large.view(), {1UL << 19, 64, threads});
      CHECK(read_file(out) == large.tar());
      CHECK(shared == alone);
    }
    Members beyond = large;
    beyond.offset[150] = 299'990;  // in the second half
    CHECK_THROWS(dcfast::Error, dcfast::write_shard(out, sources, beyond.view(), {4096, 64, 4}));
    try {
      dcfast::write_shard(out, sources, beyond.view(), {4096, 64, 4});
    } catch (const dcfast::Error& error) {
      CHECK(error.code() == dcfast::Code::corrupt_data && error.path() == sources[0].path);
    }
    // a disk that is full for the later stretches: one error, with its number and path
    struct rlimit before{};
    CHECK(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small{5'000'000, before.rlim_max};
    CHECK(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    try {
      dcfast::write_shard(out, sources, large.view(), {4096, 64, 4});
      CHECK(!"an error was expected");
    } catch (const dcfast::Error& error) {
      CHECK(error.code() == dcfast::Code::io && error.os_errno() == EFBIG && error.path() == out);
    }
    CHECK(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    // the calling thread alone polls; on a busy machine the others may have written all before it has its turn
    bool polled = false;
    bool stopped = false;
    try {
      dcfast::write_shard(out, sources, large.view(), {4096, 64, 4}, [&] {
        polled = true;
        throw std::runtime_error("stop");
      });
    } catch (const std::runtime_error&) {
      stopped = true;
    }
    CHECK(stopped == polled);
    int polls = 0;
    CHECK_THROWS(std::runtime_error, dcfast::write_shard(out, sources, large.view(), {4096, 64, 1}, [&] {
                   if (++polls == 20) throw std::runtime_error("stop");
                 }));
    CHECK(polls == 20);
  }

  // many shards at once from the same sources
  {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] { dcfast::write_shard(dir + "/t" + std::to_string(t), sources, members.view(), {4096, 2}); });
    }
    for (auto& thread : threads) thread.join();
    for (int t = 0; t < 4; ++t) CHECK(read_file(dir + "/t" + std::to_string(t)) == members.tar());
  }

  // sizes at the border of octal
  const auto size_field = [](std::uint64_t size) {
    const auto header = dcfast::tar_member_header("a", size);
    return std::string(reinterpret_cast<const char*>(header.data()) + 124, 12);
  };
  CHECK(size_field((1ULL << 33) - 1) == std::string("77777777777\0", 12));
  CHECK(size_field(1ULL << 33) == std::string("\x80\0\0\0\0\0\0\x02\0\0\0\0", 12));
  CHECK(size_field(0) == std::string("00000000000\0", 12));
  CHECK_THROWS(dcfast::Error, dcfast::tar_member_header("", 1));
  CHECK_THROWS(dcfast::Error, dcfast::tar_member_header(std::string("a\0b", 3), 1));

  // a source that ends inside a payload
  Members beyond;
  beyond.add("k.bin", 1, contents[1].size() - 10, 11, contents[1]);
  const dcfast::Error cut = error_of(out, sources, beyond);
  CHECK(cut.code() == dcfast::Code::corrupt_data);
  CHECK(cut.path() == sources[1].path);
  CHECK(cut.offset() == contents[1].size());
  Members overflow;
  overflow.source = {0};
  overflow.offset = {~0ULL};
  overflow.size = {2};
  overflow.names = {'a'};
  overflow.name_begin = {0, 1};
  CHECK(error_of(out, sources, overflow).code() == dcfast::Code::corrupt_data);
  overflow.offset = {1ULL << 63};
  CHECK(error_of(out, sources, overflow).code() == dcfast::Code::corrupt_data);
  overflow.offset = {0};
  overflow.source = {5};
  CHECK(error_of(out, sources, overflow).code() == dcfast::Code::invalid_argument);
  overflow.source = {0};
  overflow.name_begin = {0, 2};
  CHECK(error_of(out, sources, overflow).code() == dcfast::Code::invalid_argument);

  // a source that changed since it was indexed, or is gone
  auto stale = sources;
  stale[0].size = contents[0].size() + 1;
  CHECK(error_of(out, stale, members).code() == dcfast::Code::corrupt_data);
  stale[0].size = contents[0].size();
  stale[0].mtime_ns = 1;
  CHECK(error_of(out, stale, members).code() == dcfast::Code::corrupt_data);
  stale[0] = {dir + "/absent", std::nullopt, std::nullopt};
  CHECK(error_of(out, stale, members).os_errno() == ENOENT);
  // ... or while it is read: the poll between windows touches it
  int calls = 0;
  CHECK_THROWS(dcfast::Error, dcfast::write_shard(out, sources, members.view(), {4096, 64}, [&] {
    const timespec times[2] = {{++calls, 0}, {calls, 0}};
    for (const auto& source : sources) {
      if (::utimensat(AT_FDCWD, source.path.c_str(), times, 0) != 0) std::abort();
    }
  }));

  if (::access("/dev/full", W_OK) == 0) CHECK(error_of("/dev/full", sources, members).os_errno() == ENOSPC);
  CHECK(error_of(dir + "/no/such/out.tar", sources, members).os_errno() == ENOENT);
  if (std::system(("rm -r " + dir).c_str()) != 0) std::abort();
  return failures();
}
