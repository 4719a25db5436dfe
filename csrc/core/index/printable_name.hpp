// Raw member names, which may be any bytes, as text for people and for UTF-8 columns.
#pragma once

#include <string>
#include <string_view>

namespace dcfast {

/// Appends `raw` as UTF-8: bytes that are not part of valid UTF-8 become \xNN (Python's "backslashreplace").
void append_utf8(std::string& out, std::string_view raw);
/// A name for a message: UTF-8, control characters escaped, shortened.
std::string printable_name(std::string_view raw);

}  // namespace dcfast
