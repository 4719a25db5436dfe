// The uid of a sample's json member, or the hash of its url, by simdjson: the whole document is checked, any field order, escapes
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
  missing,    // valid json, but not an object, or the field is not in it, or null; of an url, empty too
  malformed,  // "uid" is there and is not a string of 1 to 32 hexadecimal digits; "url" is no string
  bad_json,   // not json
};

class UidReader {
 public:
  /// The parser reads (never uses) this many bytes behind the document.
  static constexpr std::size_t padding = 64;

  /// `field`: "uid", hexadecimal digits (`parse_uid`), or "url", whose XXH3-128 is the uid.
  explicit UidReader(std::string_view field = "uid");
  ~UidReader();
  UidReader& operator=(UidReader&&) = delete;

  /// `json` must have `padding` readable bytes behind it. Of several such fields the first counts, as DataComp's
  /// resharder takes it (simdjson; to Python's json it would be the last). Memory: a few times the largest document seen.
  UidStatus read(std::span<const std::byte> json, Uid& out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dcfast
