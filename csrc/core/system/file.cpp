#include "core/system/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace dcfast {

void throw_errno(const std::string& action, const std::string& path) {
  const int saved = errno;
  throw Error(Code::io, action + ": " + std::strerror(saved), path, std::nullopt, saved);
}

namespace {

[[noreturn]] void refuse_irregular(const std::string& path) {
  throw Error(Code::io, "open for reading: a pipe, socket or device; expected a regular file", path, std::nullopt, EINVAL);
}

struct stat status_of(int fd, const std::string& path) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) throw_errno("stat", path);
  return status;
}

/// `write` takes what is left and says how many bytes of it were written.
template <typename Write>
void write_whole(std::span<const std::byte> bytes, const std::string& path, const Write& write) {
  while (!bytes.empty()) {
    const ssize_t n = retry_interrupted([&] { return write(bytes); });
    if (n < 0) throw_errno("write", path);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

}  // namespace

bool leads_out(std::string_view name) {
  if (name.empty() || name.front() == '/') return true;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    if (name.substr(begin, end - begin) == "..") return true;
    begin = end + 1;
  }
  return false;
}

std::string joined(const std::string& root, std::string_view name) {
  return cat(root, root.empty() || root.ends_with('/') ? "" : "/", name);
}

File File::open_read(const std::string& path) {
  // without O_NONBLOCK the opening of a named pipe would wait for a writer, perhaps for ever; files do not mind it
  const int fd = retry_interrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0 && errno == ENXIO) refuse_irregular(path);  // a socket
  if (fd < 0) throw_errno("open for reading", path);
  return adopt_regular(fd, path);
}

File File::adopt_regular(int fd, const std::string& path) {
  File file(fd, path);
  const mode_t mode = status_of(fd, path).st_mode;
  if (S_ISDIR(mode)) throw Error(Code::io, "open for reading: is a directory", path, std::nullopt, EISDIR);
  if (!S_ISREG(mode)) refuse_irregular(path);
  return file;
}

File File::open_write(const std::string& path) {
  const int fd = retry_interrupted([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644); });
  if (fd < 0) throw_errno("open for writing", path);
  return File(fd, path);
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

FileVersion File::version() const {
  const struct stat status = status_of(fd_, path_);
  return {static_cast<std::uint64_t>(status.st_size), std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
}

bool File::is_at_its_path() const {
  const struct stat open = status_of(fd_, path_);
  struct stat named{};
  return ::stat(path_.c_str(), &named) == 0 && named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

void File::check_version(std::uint64_t size, std::optional<std::int64_t> mtime_ns, const char* file_kind, const char* when) const {
  const auto refuse = [&](std::uint64_t offset, const auto&... parts) {
    throw Error(Code::corrupt_data, cat(file_kind, " has changed ", when, ": expected ", parts..., "; index it again"),
                path_, offset);
  };
  const FileVersion now = version();
  if (now.size != size) refuse(std::min(now.size, size), size, " bytes, got ", now.size);
  if (mtime_ns && now.mtime_ns != *mtime_ns) refuse(0, "modification time ", *mtime_ns, " ns, got ", now.mtime_ns);
}

std::size_t File::pread_some(std::span<std::byte> out, std::uint64_t offset) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const auto rest = out.subspan(done);
    const ssize_t n = retry_interrupted([&] { return ::pread(fd_, rest.data(), rest.size(), static_cast<off_t>(offset + done)); });
    if (n < 0) throw_errno("read", path_);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

void File::pread_all(std::span<std::byte> out, std::uint64_t offset) const {
  const std::size_t n = pread_some(out, offset);
  if (n == out.size()) return;
  throw Error(Code::corrupt_data, cat("file ends early: wanted ", out.size(), " bytes, got ", n), path_, offset + n);
}

std::uint64_t File::pread_scattered(std::span<iovec> buffers, std::uint64_t offset, std::uint64_t end) const {
  while (offset < end) {
    const ssize_t n = retry_interrupted([&] {
      return ::preadv(fd_, buffers.data(), static_cast<int>(buffers.size()), static_cast<off_t>(offset));
    });
    if (n < 0) throw_errno(cat("read ", end - offset, " bytes at offset ", offset), path_);
    if (n == 0) break;
    auto done = static_cast<std::size_t>(n);
    offset += done;
    while (!buffers.empty() && done >= buffers.front().iov_len) {
      done -= buffers.front().iov_len;
      buffers = buffers.subspan(1);
    }
    if (buffers.empty()) break;
    buffers.front().iov_base = static_cast<std::byte*>(buffers.front().iov_base) + done;
    buffers.front().iov_len -= done;
  }
  return offset;
}

void File::write_all(std::span<const std::byte> bytes) {
  write_whole(bytes, path_, [&](auto rest) { return ::write(fd_, rest.data(), rest.size()); });
}

void File::pwrite_all(std::span<const std::byte> bytes, std::uint64_t offset) {
  const std::uint64_t end = offset + bytes.size();
  write_whole(bytes, path_, [&](auto rest) { return ::pwrite(fd_, rest.data(), rest.size(), static_cast<off_t>(end - rest.size())); });
}

void File::close() {
  const int fd = std::exchange(fd_, -1);
  if (fd >= 0 && ::close(fd) != 0) throw_errno("close", path_);
}

}  // namespace dcfast
