// POSIX files with errors that name the path: every read is whole or says where it stopped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "core/system/error.hpp"

namespace dcfast {

/// An open file descriptor; closes on destruction. Movable, not copyable.
class File {
 public:
  /// A regular file; anything else (a pipe would block) is an error of Code::io.
  static File open_read(const std::string& path);
  /// Creates or truncates.
  static File open_write(const std::string& path);
  /// Owns a descriptor that was opened elsewhere, for reading and with O_NONBLOCK, which keeps the opening of a pipe
  /// from waiting; refuses what open_read refuses. `path` is for messages.
  static File adopt_regular(int fd, const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  int fd() const noexcept { return fd_; }
  const std::string& path() const noexcept { return path_; }
  /// Size in bytes and modification time in ns since the epoch, of the open file.
  std::uint64_t size() const;
  std::int64_t mtime_ns() const;
  /// Whether the path still names the open file, and not another that took its place.
  bool is_at_its_path() const;
  /// Reads up to out.size() bytes at offset; fewer only at the end of the file. Retries EINTR.
  std::size_t pread_some(std::span<std::byte> out, std::uint64_t offset) const;
  /// Reads exactly out.size() bytes or throws corrupt_data with path and offset.
  void pread_all(std::span<std::byte> out, std::uint64_t offset) const;
  /// Appends all bytes; throws io (ENOSPC included).
  void write_all(std::span<const std::byte> bytes);
  void pwrite_all(std::span<const std::byte> bytes, std::uint64_t offset);
  void sync();
  /// Closes and reports a late write error, which the destructor would have to swallow.
  void close();

 private:
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
};

}  // namespace dcfast
