#include "core/system/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace dcfast {

void throw_errno(const std::string& action, const std::string& path) {
  const int saved = errno;
  throw Error(Code::io, action + ": " + std::strerror(saved), path, std::nullopt, saved);
}

namespace {

[[noreturn]] void refuse_irregular(const std::string& path) {
  throw Error(Code::io, "open for reading: a pipe, socket or device; expected a regular file", path, std::nullopt, EINVAL);
}

}  // namespace

File File::open_read(const std::string& path) {
  int fd;
  // without O_NONBLOCK the opening of a named pipe would wait for a writer, perhaps for ever; files do not mind it
  do fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); while (fd < 0 && errno == EINTR);
  if (fd < 0 && errno == ENXIO) refuse_irregular(path);  // a socket
  if (fd < 0) throw_errno("open for reading", path);
  return adopt_regular(fd, path);
}

File File::adopt_regular(int fd, const std::string& path) {
  File file(fd, path);
  struct stat st{};
  if (::fstat(fd, &st) != 0) throw_errno("stat", path);
  if (S_ISDIR(st.st_mode)) throw Error(Code::io, "open for reading: is a directory", path, std::nullopt, EISDIR);
  if (!S_ISREG(st.st_mode)) refuse_irregular(path);
  return file;
}

File File::open_write(const std::string& path) {
  int fd;
  do fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644); while (fd < 0 && errno == EINTR);
  if (fd < 0) throw_errno("open for writing", path);
  return File(fd, path);
}

File::File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    path_ = std::move(other.path_);
  }
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

std::uint64_t File::size() const {
  struct stat st{};
  if (::fstat(fd_, &st) != 0) throw_errno("stat", path_);
  return static_cast<std::uint64_t>(st.st_size);
}

std::int64_t File::mtime_ns() const {
  struct stat st{};
  if (::fstat(fd_, &st) != 0) throw_errno("stat", path_);
  return static_cast<std::int64_t>(st.st_mtim.tv_sec) * 1'000'000'000 + st.st_mtim.tv_nsec;
}

bool File::is_at_its_path() const {
  struct stat open{};
  struct stat named{};
  if (::fstat(fd_, &open) != 0) throw_errno("stat", path_);
  return ::stat(path_.c_str(), &named) == 0 && named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

std::size_t File::pread_some(std::span<std::byte> out, std::uint64_t offset) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno("read", path_);
    }
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

void File::pread_all(std::span<std::byte> out, std::uint64_t offset) const {
  const std::size_t n = pread_some(out, offset);
  if (n != out.size()) {
    throw Error(Code::corrupt_data,
                "file ends early: wanted " + std::to_string(out.size()) + " bytes, got " + std::to_string(n), path_, offset + n);
  }
}

void File::write_all(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno("write", path_);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void File::pwrite_all(std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno("write", path_);
    }
    offset += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void File::sync() {
  if (::fsync(fd_) != 0) throw_errno("fsync", path_);
}

void File::close() {
  const int fd = std::exchange(fd_, -1);
  if (fd >= 0 && ::close(fd) != 0) throw_errno("close", path_);
}

}  // namespace dcfast
