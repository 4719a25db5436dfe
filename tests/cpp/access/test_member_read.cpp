// Shard files (cache, links, changes) and member reads (order, neighbours, threads, bad ranges); the permutation.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/access/member_read.hpp"
#include "core/reshard/permutation.hpp"

namespace {

int failures = 0;

void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what);
}

std::string write_file(const std::string& path, const std::vector<std::byte>& bytes) {
  dcfast::File file = dcfast::File::open_write(path);
  file.write_all(bytes);
  file.close();
  return path;
}

std::vector<std::byte> noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(size);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}

dcfast::Code code_of(const std::function<void()>& run, std::string* message = nullptr) {
  try {
    run();
  } catch (const dcfast::Error& error) {
    if (message != nullptr) *message = error.message();
    return error.code();
  }
  return dcfast::Code::cancelled;  // nothing was thrown
}

dcfast::PoolShard shard_of(const std::string& dir, const std::string& name) {
  const dcfast::File file = dcfast::File::open_read(dir + "/" + name);
  return {name, 0, file.size(), file.version().mtime_ns};
}

void reads_in_order(const std::string& dir) {
  std::vector<std::vector<std::byte>> data;
  std::vector<dcfast::PoolShard> shards;
  for (unsigned i = 0; i < 7; ++i) {
    data.push_back(noise(i == 6 ? 9'000'001 : 50'000 + i, i));
    write_file(dir + "/s" + std::to_string(i), data.back());
    shards.push_back(shard_of(dir, "s" + std::to_string(i)));
  }
  std::mt19937 random(99);
  for (const unsigned threads : {1U, 2U, 5U}) {
    for (const std::uint64_t gap : {0U, 1U, 8192U}) {
      dcfast::ShardFiles files({dir}, shards, {3, false, true});
      std::vector<std::uint32_t> shard;
      std::vector<std::uint64_t> offset, size, place;
      std::uint64_t total = 0;
      for (int k = 0; k < 2'003; ++k) {
        shard.push_back(random() % 7);
        const std::uint64_t n = data[shard.back()].size();
        offset.push_back(random() % n);
        const std::uint64_t most = k % 500 == 0 ? n : 700;  // a few large ones, many small neighbours, some overlap
        size.push_back(k % 11 == 0 ? 0 : std::min<std::uint64_t>(random() % most, n - offset.back()));
        place.push_back(total);
        total += size.back();
      }
      std::vector<std::byte> out(total);
      dcfast::read_members(files, {shard, offset, size, place}, out, {threads, gap});
      bool same = true;
      for (std::size_t k = 0; k < shard.size(); ++k) {
        same = same && std::equal(out.begin() + static_cast<long>(place[k]), out.begin() + static_cast<long>(place[k] + size[k]),
                                  data[shard[k]].begin() + static_cast<long>(offset[k]));
      }
      check(same, "every range is what the shard holds there");
      check(files.num_open() <= 3, "the cache is bounded");
    }
  }
  dcfast::ShardFiles files({dir}, shards, {});
  dcfast::read_members(files, {}, {});
  check(files.num_open() == 0, "nothing asked, nothing opened");
}

void bad_ranges(const std::string& dir) {
  write_file(dir + "/bad", noise(1000, 5));
  dcfast::ShardFiles files({dir}, {shard_of(dir, "bad")}, {});
  std::vector<std::byte> out(64);
  const auto read = [&](std::uint32_t shard, std::uint64_t offset, std::uint64_t size, std::uint64_t place) {
    return code_of([&] { dcfast::read_members(files, {{&shard, 1}, {&offset, 1}, {&size, 1}, {&place, 1}}, out); });
  };
  check(read(0, 990, 10, 0) == dcfast::Code::cancelled, "up to the end");
  check(read(0, 991, 10, 0) == dcfast::Code::corrupt_data, "beyond the end");
  check(read(0, ~std::uint64_t{0}, 10, 0) == dcfast::Code::corrupt_data, "an offset that overflows");
  check(read(1, 0, 1, 0) == dcfast::Code::invalid_argument, "no such shard");
  check(read(0, 0, 10, 60) == dcfast::Code::invalid_argument, "a place beyond the output");
  check(read(0, 0, 10, ~std::uint64_t{0}) == dcfast::Code::invalid_argument, "a place that overflows");
}

void changes(const std::string& dir) {
  write_file(dir + "/c", noise(10'000, 5));
  const dcfast::PoolShard indexed = shard_of(dir, "c");
  dcfast::ShardFiles files({dir}, {indexed}, {});
  const std::uint32_t shard = 0;
  const std::uint64_t offset = 9'000, size = 500, place = 0;
  std::vector<std::byte> out(500);
  const auto read = [&] { dcfast::read_members(files, {{&shard, 1}, {&offset, 1}, {&size, 1}, {&place, 1}}, out); };
  read();
  check(::truncate((dir + "/c").c_str(), 9'100) == 0, "truncate");
  std::string message;
  check(code_of(read, &message) == dcfast::Code::corrupt_data, "cut while it is open");
  check(message.find("ends 400 bytes before") != std::string::npos, "the message says where it ends");
  files.close_all();
  check(code_of(read, &message) == dcfast::Code::corrupt_data, "cut before it is opened");
  check(message.find("expected 10000 bytes, got 9100") != std::string::npos, "the message says the sizes");
  write_file(dir + "/c", noise(10'000, 6));
  dcfast::PoolShard older = indexed;
  older.mtime_ns -= 1;
  dcfast::ShardFiles strict({dir}, {older}, {});
  check(code_of([&] { strict.get(0); }) == dcfast::Code::corrupt_data, "another time");
  dcfast::ShardFiles lax({dir}, {older}, {256, false, false});
  check(lax.get(0) != nullptr, "another time, allowed");
}

void never_leaves(const std::string& dir) {
  ::mkdir((dir + "/pool").c_str(), 0755);
  ::mkdir((dir + "/pool/sub").c_str(), 0755);
  write_file(dir + "/secret", noise(10, 1));
  write_file(dir + "/pool/inside", noise(10, 1));
  check(::symlink("../secret", (dir + "/pool/out").c_str()) == 0 && ::symlink("..", (dir + "/pool/up").c_str()) == 0 &&
            ::symlink("../inside", (dir + "/pool/sub/in").c_str()) == 0 && ::symlink("/etc/hostname", (dir + "/pool/abs").c_str()) == 0,
        "links");
  const std::string root = dir + "/pool";
  const auto opens = [&](const std::string& name, bool follow) { return code_of([&] { dcfast::open_below(root, name, follow); }); };
  for (const char* name : {"inside", "sub/in", "./inside", "sub/../inside"}) {
    const bool dots = std::string(name).find("..") != std::string::npos;
    check(opens(name, false) == (dots ? dcfast::Code::corrupt_data : dcfast::Code::cancelled), name);
  }
  for (const char* name : {"out", "up/secret", "abs", "../secret", "/etc/hostname", ""}) {
    check(opens(name, false) == dcfast::Code::corrupt_data, name);
  }
  check(opens("out", true) == dcfast::Code::cancelled, "a link, allowed");
  check(opens("../secret", true) == dcfast::Code::corrupt_data, "a name that leads out is never allowed");
  check(opens("none", false) == dcfast::Code::io, "missing");
  // a pipe in place of a shard: an error, where a plain open would wait for a writer
  check(::mkfifo((root + "/pipe").c_str(), 0600) == 0, "mkfifo");
  check(opens("pipe", false) == dcfast::Code::io && opens("pipe", true) == dcfast::Code::io, "a named pipe");
  check(opens("sub", false) == dcfast::Code::io, "a directory");
}

void many_threads(const std::string& dir) {
  std::vector<dcfast::PoolShard> shards;
  for (int i = 0; i < 40; ++i) {
    write_file(dir + "/t" + std::to_string(i), noise(64, static_cast<unsigned>(i)));
    shards.push_back(shard_of(dir, "t" + std::to_string(i)));
  }
  dcfast::ShardFiles files({dir}, shards, {4, false, true});
  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&files, t] {
      for (std::uint32_t i = 0; i < 2'000; ++i) files.check_unchanged((i * (t + 1)) % 40, *files.get((i * (t + 1)) % 40));
    });
  }
  threads.clear();
  check(files.num_open() <= 4, "the cache is bounded with many threads");
}

void permutations() {
  for (const std::uint64_t n : {0U, 1U, 2U, 3U, 5U, 64U, 65U, 1009U}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const dcfast::Permutation permutation(n, seed);
      std::vector<bool> seen(n);
      for (std::uint64_t i = 0; i < n; ++i) seen[permutation(i)] = true;
      check(std::find(seen.begin(), seen.end(), false) == seen.end(), "every value once");
    }
  }
  const dcfast::Permutation wide(std::uint64_t{1} << 63, 1);
  check(wide(0) != wide(1), "large n");
}

}  // namespace

int main() {
  char place[] = "/tmp/dcfast-member-read-XXXXXX";
  const std::string dir = ::mkdtemp(place);
  reads_in_order(dir);
  bad_ranges(dir);
  changes(dir);
  never_leaves(dir);
  many_threads(dir);
  permutations();
  [[maybe_unused]] const int status = std::system(("rm -rf " + dir).c_str());
  if (failures == 0) std::printf("member_read: ok\n");
  return failures == 0 ? 0 : 1;
}
