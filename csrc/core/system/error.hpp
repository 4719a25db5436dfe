// The one exception the core throws, and checked arithmetic on sizes read from files.
// The binding layer maps each code to a Python exception; the core itself never prints or aborts.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace dcfast {

static_assert(sizeof(std::size_t) == 8, "sizes of files and of memory have one width: they are not cast to each other");
static_assert(std::endian::native == std::endian::little, "uids and segments are mapped as they lie on disk");

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

/// Appends texts and numbers (in decimal), one after the other.
template <typename... Parts>
void append(std::string& out, const Parts&... parts) {
  const auto add = [&out](const auto& part) {
    if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(part)>>) out += std::to_string(part);
    else out += part;
  };
  (add(parts), ...);
}

template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  append(out, parts...);
  return out;
}

/// Throws Error{invalid_argument}; the parts make its message.
template <typename... Parts>
[[noreturn]] void refuse_argument(const Parts&... parts) {
  throw Error(Code::invalid_argument, cat(parts...));
}

/// Throws Error{io} for the current errno: "<action>: <strerror>".
[[noreturn]] void throw_errno(const std::string& action, const std::string& path);

inline std::uint64_t checked_add(std::uint64_t a, std::uint64_t b, const char* what) {
  if (a > std::numeric_limits<std::uint64_t>::max() - b) throw Error(Code::corrupt_data, cat(what, ": size overflow"));
  return a + b;
}

inline std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b, const char* what) {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) throw Error(Code::corrupt_data, cat(what, ": size overflow"));
  return a * b;
}

}  // namespace dcfast
