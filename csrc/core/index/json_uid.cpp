#include "core/index/json_uid.hpp"

#include <simdjson.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "core/hashing/hashing.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast {

namespace {

static_assert(UidReader::padding >= simdjson::SIMDJSON_PADDING);

constexpr std::array<std::int8_t, 256> make_hex_values() {
  std::array<std::int8_t, 256> values{};
  for (auto& v : values) v = -1;
  for (int i = 0; i < 10; ++i) values[static_cast<std::size_t>('0' + i)] = static_cast<std::int8_t>(i);
  for (int i = 0; i < 6; ++i) {
    values[static_cast<std::size_t>('a' + i)] = static_cast<std::int8_t>(10 + i);
    values[static_cast<std::size_t>('A' + i)] = static_cast<std::int8_t>(10 + i);
  }
  return values;
}
constexpr auto hex_values = make_hex_values();

int hex_value(char c) { return hex_values[static_cast<unsigned char>(c)]; }

UidStatus find_uid(const simdjson::dom::element& root, std::string_view name, Uid& out) {
  simdjson::dom::object object;
  if (root.get(object) != simdjson::SUCCESS) return UidStatus::missing;
  simdjson::dom::element value;
  if (object.at_key(name).get(value) != simdjson::SUCCESS || value.is_null()) return UidStatus::missing;
  std::string_view text;
  if (value.get(text) != simdjson::SUCCESS) return UidStatus::malformed;
  if (name == "uid") return parse_uid(text, out) ? UidStatus::found : UidStatus::malformed;
  if (text.empty()) return UidStatus::missing;
  out = xxh3_128(std::as_bytes(std::span(text)));
  return UidStatus::found;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The end of a number of the json grammar at text[i], or i.
std::size_t number_end(const std::vector<char>& text, std::size_t i, std::size_t end) {
  const std::size_t begin = i;
  if (i < end && text[i] == '-') ++i;
  if (i >= end || !is_digit(text[i])) return begin;
  if (text[i++] != '0') {
    while (i < end && is_digit(text[i])) ++i;
  }
  if (i + 1 < end && text[i] == '.' && is_digit(text[i + 1])) {
    for (++i; i < end && is_digit(text[i]);) ++i;
  }
  if (i < end && (text[i] == 'e' || text[i] == 'E')) {
    std::size_t j = i + 1;
    if (j < end && (text[j] == '+' || text[j] == '-')) ++j;
    if (j < end && is_digit(text[j])) {
      while (j < end && is_digit(text[j])) ++j;
      i = j;
    }
  }
  return i;
}

void blank_number(std::vector<char>& text, std::size_t begin, std::size_t end) {
  text[begin] = '0';
  for (std::size_t i = begin + 1; i < end; ++i) text[i] = ' ';
}

bool starts_with(const std::vector<char>& text, std::size_t i, std::size_t end, std::string_view word) {
  return end - i >= word.size() && std::memcmp(text.data() + i, word.data(), word.size()) == 0;
}

// The code unit of a \uXXXX escape at text[i], or -1.
int code_unit(const std::vector<char>& text, std::size_t i, std::size_t end) {
  if (end - i < 6 || text[i] != '\\' || text[i + 1] != 'u') return -1;
  int value = 0;
  for (std::size_t k = i + 2; k < i + 6; ++k) {
    if (hex_value(text[k]) < 0) return -1;
    value = value << 4 | hex_value(text[k]);
  }
  return value;
}

// Rewrites, in place and in equal length, what Python's json accepts and simdjson refuses. Values other than
// strings only need to stay valid: every number and NaN becomes 0.
void make_standard(std::vector<char>& text, std::size_t end) {
  std::size_t i = 0;
  if (starts_with(text, 0, end, "\xef\xbb\xbf")) {
    for (; i < 3; ++i) text[i] = ' ';
  }
  bool in_string = false;
  while (i < end) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        const int unit = code_unit(text, i, end);
        if (unit >= 0xd800 && unit <= 0xdfff) {
          const int low = i + 6 <= end ? code_unit(text, i + 6, end) : -1;
          if (unit < 0xdc00 && low >= 0xdc00 && low <= 0xdfff) {
            i += 12;
          } else {
            std::memcpy(text.data() + i + 2, "fffd", 4);
            i += 6;
          }
          continue;
        }
        i += 2;
        continue;
      }
      in_string = c != '"';
      ++i;
      continue;
    }
    if (c == '"') {
      in_string = true;
      ++i;
      continue;
    }
    std::size_t stop = i;
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      if (stop == i && starts_with(text, i, end, word)) stop = i + word.size();
    }
    if (stop == i && (c == '-' || is_digit(c))) stop = number_end(text, i, end);
    if (stop > i) {
      blank_number(text, i, stop);
      // what touches a number ("01", "-NaN") must stay an error
      const bool glued = stop < end && (is_digit(text[stop]) || text[stop] == '-' || text[stop] == 'N' || text[stop] == 'I');
      if (glued || (i > 0 && text[i - 1] == '-')) text[i] = 'x';
      i = stop;
    } else {
      ++i;
    }
  }
}

}  // namespace

struct UidReader::State {
  std::string field;
  simdjson::dom::parser parser;
  std::vector<char> standard;
};

UidReader::UidReader(std::string_view field) : state_(std::make_unique<State>()) { state_->field = field; }
UidReader::~UidReader() = default;

UidStatus UidReader::read(std::span<const std::byte> json, Uid& out) {
  simdjson::dom::element root;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(json.data());
  if (state_->parser.parse(bytes, json.size(), false).get(root) == simdjson::SUCCESS) return find_uid(root, state_->field, out);
  auto& text = state_->standard;
  text.assign(reinterpret_cast<const char*>(bytes), reinterpret_cast<const char*>(bytes) + json.size());
  text.insert(text.end(), padding, ' ');
  make_standard(text, json.size());
  if (state_->parser.parse(text.data(), json.size(), false).get(root) != simdjson::SUCCESS) return UidStatus::bad_json;
  return find_uid(root, state_->field, out);
}

}  // namespace dcfast
