#include "core/index/printable_name.hpp"

namespace dcfast {

namespace {

void append_escape(std::string& out, char c) {
  constexpr const char* digits = "0123456789abcdef";
  const auto value = static_cast<unsigned char>(c);
  out += "\\x";
  out += digits[value >> 4];
  out += digits[value & 15];
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned lead = byte(0);
  const unsigned second = byte(1);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xc2 && lead <= 0xdf ? 2 : (lead >> 4) == 0xe ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return 0;
  if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return 0;
  return length;
}

void append_utf8(std::string& out, std::string_view raw) {
  while (!raw.empty()) {
    const std::size_t n = utf8_length(raw);
    if (n == 0) append_escape(out, raw.front());
    out.append(raw.substr(0, n));
    raw.remove_prefix(n == 0 ? 1 : n);
  }
}

std::string as_utf8(std::string_view raw) {
  std::string out;
  append_utf8(out, raw);
  return out;
}

std::string printable_name(std::string_view raw) {
  constexpr std::size_t longest = 160;
  std::string out = "'";
  while (!raw.empty()) {
    if (out.size() >= longest) return out + "...'";
    const std::size_t n = utf8_length(raw);
    if (n == 0 || (n == 1 && (static_cast<unsigned char>(raw.front()) < 0x20 || raw.front() == 0x7f))) {
      append_escape(out, raw.front());
      raw.remove_prefix(1);
    } else {
      out.append(raw.substr(0, n));
      raw.remove_prefix(n);
    }
  }
  return out + "'";
}

}  // namespace dcfast
