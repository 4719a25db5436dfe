// A mapped file that is cut: what is gone reads as zeros, and is an error for as long as it is mapped.
#include "core/system/mapped_file.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/system/error.hpp"

namespace {

std::atomic<int> lost_calls{0};
volatile std::sig_atomic_t passed_on = 0;

std::string file_of(const std::filesystem::path& folder, const std::string& name, std::size_t size) {
  const std::string path = folder / name;
  std::ofstream(path, std::ios::binary) << std::string(size, 'x');
  return path;
}

std::size_t sum(const dcfast::MappedFile& file) {
  std::size_t out = 0;
  for (const std::byte b : file.bytes()) out += static_cast<std::size_t>(b);
  return out;
}

}  // namespace

int main() {
  char pattern[] = "/tmp/dcfast-mapped-XXXXXX";
  const std::filesystem::path folder = ::mkdtemp(pattern);
  constexpr std::size_t page = 4096;
  std::signal(SIGBUS, [](int) { passed_on = 1; });  // somebody had it before
  dcfast::on_lost_map([]() noexcept { ++lost_calls; });
  const std::string path = file_of(folder, "a", 100 * page);
  {
    const dcfast::MappedFile whole(file_of(folder, "b", 3 * page));
    std::vector<dcfast::MappedFile> many;  // more than a block of slots
    for (int i = 0; i < 300; ++i) many.emplace_back(path);
    dcfast::refuse_lost_maps();
    CHECK(sum(many.back()) == 100 * page * 'x');
    CHECK(::truncate(path.c_str(), 10 * page) == 0);
    std::vector<std::thread> readers;
    for (int i = 0; i < 4; ++i) readers.emplace_back([&] { CHECK(sum(many.back()) == 10 * page * 'x'); });
    for (auto& reader : readers) reader.join();
    CHECK(sum(many.front()) == 10 * page * 'x');
    CHECK(lost_calls == 2);
    CHECK(dcfast::count_lost_maps() == 2);
    CHECK_THROWS(dcfast::Error, dcfast::refuse_lost_maps());
    try {
      dcfast::refuse_lost_maps();
    } catch (const dcfast::Error& error) {
      CHECK(error.path() == path && error.code() == dcfast::Code::corrupt_data);
    }
    CHECK(sum(whole) == 3 * page * 'x');
  }
  dcfast::refuse_lost_maps();  // none is left
  dcfast::refuse_maps_lost_since(2);
  try {
    dcfast::refuse_maps_lost_since(1);
    CHECK(false);
  } catch (const dcfast::Error& error) {
    CHECK(error.path() == path && error.code() == dcfast::Code::corrupt_data);  // remembered, though it is gone
  }
  CHECK(passed_on == 0);
  std::raise(SIGBUS);
  CHECK(passed_on == 1);
  std::filesystem::remove_all(folder);
  return failures();
}
