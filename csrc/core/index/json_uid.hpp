// The uid of a sample's json member, by simdjson: the whole document is checked, any field order, escapes
// in keys and values. What Python's json module accepts beyond the standard (NaN, Infinity, numbers of any
// length, lone surrogates, a byte order mark) is accepted too: img2dataset writes with it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "core/uids/uid.hpp"

namespace dcfast {

enum class UidStatus {
  found,
  missing,    // valid json, but not an object, or no "uid" in it, or null
  malformed,  // "uid" is there and is not a string of 32 hexadecimal digits
  bad_json,   // not json
};

/// 32 hexadecimal digits, either case.
bool parse_uid_hex(std::string_view text, Uid& out) noexcept;

class UidReader {
 public:
  /// The parser reads (never uses) this many bytes behind the document.
  static constexpr std::size_t padding = 64;

  UidReader();
  ~UidReader();
  UidReader(const UidReader&) = delete;
  UidReader& operator=(const UidReader&) = delete;

  /// `json` must have `padding` readable bytes behind it. Of several "uid" fields the last counts, as in
  /// Python. Memory: a few times the largest document seen.
  UidStatus read(std::span<const std::byte> json, Uid& out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dcfast
