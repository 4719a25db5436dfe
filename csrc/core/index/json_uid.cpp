#include "core/index/json_uid.hpp"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "core/hashing/hashing.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast {

namespace {

static_assert(UidReader::padding >= simdjson::SIMDJSON_PADDING);

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
std::size_t number_end(std::string_view text, std::size_t i) {
  const auto digits_end = [&](std::size_t at) { return std::min(text.find_first_not_of("0123456789", at), text.size()); };
  const auto has = [&](std::size_t at, std::string_view any) { return at < text.size() && any.find(text[at]) != any.npos; };
  const std::size_t first = i + (has(i, "-") ? 1 : 0);
  if (digits_end(first) == first) return i;
  i = text[first] == '0' ? first + 1 : digits_end(first);
  if (has(i, ".") && digits_end(i + 1) > i + 1) i = digits_end(i + 1);
  if (!has(i, "eE")) return i;
  const std::size_t exponent = i + (has(i + 1, "+-") ? 2 : 1);
  return digits_end(exponent) > exponent ? digits_end(exponent) : i;
}

// The code unit of a \uXXXX escape at the start of the text, or -1.
int code_unit(std::string_view text) {
  if (text.size() < 6 || !text.starts_with("\\u")) return -1;
  unsigned value = 0;
  const char* const digits = text.data() + 2;
  return std::from_chars(digits, digits + 4, value, 16).ptr == digits + 4 ? static_cast<int>(value) : -1;
}

// Rewrites, in place and in equal length, what Python's json accepts and simdjson refuses. Values other than
// strings only need to stay valid: every number and NaN becomes 0.
void make_standard(std::string& text) {
  if (text.starts_with("\xef\xbb\xbf")) text.replace(0, 3, 3, ' ');
  std::size_t i = 0;
  bool in_string = false;
  while (i < text.size()) {
    const std::string_view rest = std::string_view(text).substr(i);
    const char c = text[i];
    if (in_string && c == '\\') {
      const int unit = code_unit(rest);
      const bool is_surrogate = unit >= 0xd800 && unit <= 0xdfff;
      const int low = is_surrogate ? code_unit(rest.substr(6)) : -1;
      const bool is_pair = is_surrogate && unit < 0xdc00 && low >= 0xdc00 && low <= 0xdfff;
      if (is_surrogate && !is_pair) text.replace(i + 2, 4, "fffd");
      i += is_pair ? 12 : is_surrogate ? 6 : 2;
      continue;
    }
    if (in_string || c == '"') {
      in_string = in_string != (c == '"');
      ++i;
      continue;
    }
    std::size_t stop = i;
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      if (stop == i && rest.starts_with(word)) stop = i + word.size();
    }
    if (stop == i && (c == '-' || is_digit(c))) stop = number_end(text, i);
    if (stop > i) {
      // what touches a number ("01", "-NaN") must stay an error
      const bool glued =
          stop < text.size() && (is_digit(text[stop]) || text[stop] == '-' || text[stop] == 'N' || text[stop] == 'I');
      text.replace(i, stop - i, stop - i, ' ');
      text[i] = glued || (i > 0 && text[i - 1] == '-') ? 'x' : '0';
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
  std::string standard;
};

UidReader::UidReader(std::string_view field) : state_(std::make_unique<State>()) { state_->field = field; }
UidReader::~UidReader() = default;

UidStatus UidReader::read(std::span<const std::byte> json, Uid& out) {
  simdjson::dom::element root;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(json.data());
  if (state_->parser.parse(bytes, json.size(), false).get(root) == simdjson::SUCCESS) return find_uid(root, state_->field, out);
  auto& text = state_->standard;
  text.assign(reinterpret_cast<const char*>(bytes), json.size());
  make_standard(text);
  text.append(padding, ' ');
  if (state_->parser.parse(text.data(), json.size(), false).get(root) != simdjson::SUCCESS) return UidStatus::bad_json;
  return find_uid(root, state_->field, out);
}

}  // namespace dcfast
