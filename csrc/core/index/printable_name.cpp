#include "core/index/printable_name.hpp"

#include <cstddef>

namespace dcfast {

namespace {

// The length of the valid UTF-8 sequence at the start of text, or 0.
std::size_t utf8_sequence(std::string_view text) {
  const auto byte = [text](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto tail = [&byte](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned a = byte(0);
  if (a < 0x80) return 1;
  if (a >= 0xc2 && a <= 0xdf) return tail(1) ? 2 : 0;
  if (a >= 0xe0 && a <= 0xef) {
    if (!tail(1) || !tail(2)) return 0;
    if (a == 0xe0 && byte(1) < 0xa0) return 0;  // overlong
    if (a == 0xed && byte(1) > 0x9f) return 0;  // a surrogate
    return 3;
  }
  if (a >= 0xf0 && a <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if (a == 0xf0 && byte(1) < 0x90) return 0;
    if (a == 0xf4 && byte(1) > 0x8f) return 0;
    return 4;
  }
  return 0;
}

void append_escape(std::string& out, char c) {
  constexpr const char* digits = "0123456789abcdef";
  const auto value = static_cast<unsigned char>(c);
  out += "\\x";
  out += digits[value >> 4];
  out += digits[value & 15];
}

}  // namespace

void append_utf8(std::string& out, std::string_view raw) {
  while (!raw.empty()) {
    const std::size_t n = utf8_sequence(raw);
    if (n == 0) append_escape(out, raw.front());
    out.append(raw.substr(0, n));
    raw.remove_prefix(n == 0 ? 1 : n);
  }
}

std::string printable_name(std::string_view raw) {
  constexpr std::size_t longest = 160;
  std::string out = "'";
  while (!raw.empty()) {
    if (out.size() >= longest) return out + "...'";
    const std::size_t n = utf8_sequence(raw);
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
