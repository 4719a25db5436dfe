// What the fuzz targets share: bytes as a file in memory, and a check that stops the fuzzer.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

// As an assert that no build type removes.
#define MUST(expression)                                                                     \
  do {                                                                                       \
    if (!(expression)) {                                                                     \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #expression);   \
      std::abort();                                                                          \
    }                                                                                        \
  } while (false)

/// A file that lives in memory and has a path, for parsers that open by name. One is reused for every input.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("fuzz", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(fd_)) { MUST(fd_ >= 0); }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::string& fill(std::span<const std::byte> bytes) {
    MUST(::ftruncate(fd_, 0) == 0);
    MUST(::pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
    return path_;
  }

 private:
  int fd_;
  std::string path_;
};
