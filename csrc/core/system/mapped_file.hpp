// Files mapped into memory, and what becomes of the program when one is cut while it is mapped.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

namespace dcfast {

/// A read-only memory map of a whole file (empty files map to an empty span).
///
/// Where a mapped file is cut by another program, or its disk fails, the system would end this one by SIGBUS. For the
/// files mapped here the signal is caught: what is gone reads as zeros from then on, the map counts as lost, and
/// `refuse_lost_maps` throws for as long as it is there. So code over a map must stay inside of its memory whatever
/// the values are, also where they change between two looks.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();
  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::string& path() const noexcept { return path_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

/// Throws Error{corrupt_data} where a file that is mapped was cut meanwhile: what was read may be zeros. Cost without
/// one: a look at a number. Whoever has read from maps calls it before the result is used.
void refuse_lost_maps();

/// How many maps were lost so far, those that are gone too.
std::size_t count_lost_maps() noexcept;

/// Throws as `refuse_lost_maps` where a map was lost since `count_lost_maps` returned `count`, gone or not: for work
/// that threads do, whose maps may be gone before anybody has looked.
void refuse_maps_lost_since(std::size_t count);

/// Makes the signal ours, where a library took it since the last file was mapped.
void guard_maps();

/// What is called, within a signal handler on the thread that read, when a map is lost; nullptr for nothing.
void on_lost_map(void (*call)() noexcept) noexcept;

}  // namespace dcfast
