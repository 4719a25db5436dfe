// Raw member names, which may be any bytes, as text for people and for UTF-8 columns.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dcfast {

/// Bytes of the UTF-8 sequence at the start of `text`, 0 where it is none (overlong, surrogate, cut, above U+10FFFF).
std::size_t utf8_length(std::string_view text);
/// Appends `raw` as UTF-8: bytes that are not part of valid UTF-8 become \xNN (Python's "backslashreplace").
void append_utf8(std::string& out, std::string_view raw);
std::string as_utf8(std::string_view raw);
/// A name for a message: UTF-8, control characters escaped, shortened.
std::string printable_name(std::string_view raw);

}  // namespace dcfast
