// The one exception the core throws, and checked arithmetic on sizes read from files.
// The binding layer maps each code to a Python exception; the core itself never prints or aborts.
#pragma once

#include <cstdint>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace dcfast {

enum class Code {
  invalid_argument,  // the caller passed something that cannot be right: ValueError
  corrupt_data,      // bytes on disk are not what their format says: CorruptDataError
  io,                // a system call failed: the OSError subclass of its errno
  cancelled,         // the caller asked to stop (Ctrl-C)
};

class Error : public std::exception {
 public:
  Error(Code code, std::string message, std::string path = {},
        std::optional<std::uint64_t> offset = std::nullopt, int os_errno = 0)
      : code_(code), message_(std::move(message)), path_(std::move(path)), offset_(offset), os_errno_(os_errno) {}

  const char* what() const noexcept override { return message_.c_str(); }
  Code code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  const std::string& path() const noexcept { return path_; }
  std::optional<std::uint64_t> offset() const noexcept { return offset_; }
  int os_errno() const noexcept { return os_errno_; }

 private:
  Code code_;
  std::string message_;
  std::string path_;
  std::optional<std::uint64_t> offset_;
  int os_errno_;
};

/// Throws Error{io} for the current errno: "<action>: <strerror>".
[[noreturn]] void throw_errno(const std::string& action, const std::string& path);

inline std::uint64_t checked_add(std::uint64_t a, std::uint64_t b, const char* what) {
  if (a > std::numeric_limits<std::uint64_t>::max() - b) throw Error(Code::corrupt_data, std::string(what) + ": size overflow");
  return a + b;
}

inline std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b, const char* what) {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) throw Error(Code::corrupt_data, std::string(what) + ": size overflow");
  return a * b;
}

}  // namespace dcfast
