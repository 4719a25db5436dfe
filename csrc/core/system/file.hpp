// POSIX files with errors that name the path: every read is whole or says where it stopped.
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <span>
#include <string_view>

#include "core/system/error.hpp"

namespace dcfast {

/// Calls again where a signal came between.
template <typename Call>
auto retry_interrupted(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Whether a name does not stay below the directory that it is relative to: empty, absolute, or with "..".
bool leads_out(std::string_view name);
/// `name` below `root`; an empty root leaves it as it is.
std::string joined(const std::string& root, std::string_view name);

/// What tells a file from what stood in its place before.
struct FileVersion {
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;  // since the epoch
  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

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
  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
  File& operator=(File&&) = delete;
  ~File();

  int fd() const noexcept { return fd_; }
  const std::string& path() const noexcept { return path_; }
  /// Of the open file.
  FileVersion version() const;
  std::uint64_t size() const { return version().size; }
  /// Whether the path still names the open file, and not another that took its place.
  bool is_at_its_path() const;
  /// Throws corrupt_data where the open file is not `expected`: its size, and its modification time where one is given.
  /// `file_kind` and `when` go into the message: "the shard", "since it was indexed".
  void check_version(std::uint64_t size, std::optional<std::int64_t> mtime_ns, const char* file_kind, const char* when) const;
  /// Reads up to out.size() bytes at offset; fewer only at the end of the file. Retries EINTR.
  std::size_t pread_some(std::span<std::byte> out, std::uint64_t offset) const;
  /// Reads exactly out.size() bytes or throws corrupt_data with path and offset.
  void pread_all(std::span<std::byte> out, std::uint64_t offset) const;
  /// The bytes [offset, end) into the buffers, one after the other, which are as long and may be changed. Returns where
  /// the reading ended: before `end` only at the end of the file.
  std::uint64_t pread_scattered(std::span<iovec> buffers, std::uint64_t offset, std::uint64_t end) const;
  /// Appends all bytes; throws io (ENOSPC included).
  void write_all(std::span<const std::byte> bytes);
  void pwrite_all(std::span<const std::byte> bytes, std::uint64_t offset);
  /// Closes and reports a late write error, which the destructor would have to swallow.
  void close();

 private:
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
};

}  // namespace dcfast
