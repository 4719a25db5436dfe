#include "core/tokens/byte_pairs.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/system/error.hpp"

namespace dcfast {

namespace {

enum class Kind : std::uint8_t { foreign, blank, letter, digit, sign };

constexpr char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

/// Kinds of bytes. Foreign is all that cleaning may change or take away: no ASCII, control characters, terminal escapes,
/// and '&', with which an entity begins. Line ends and tabs become blanks.
constexpr std::array<Kind, 256> kinds_of_bytes() {
  std::array<Kind, 256> kinds{};
  for (int c = 0x21; c < 0x7f; ++c) kinds[static_cast<std::size_t>(c)] = Kind::sign;
  for (int c = '0'; c <= '9'; ++c) kinds[static_cast<std::size_t>(c)] = Kind::digit;
  for (int c = 'a'; c <= 'z'; ++c) kinds[static_cast<std::size_t>(c)] = kinds[static_cast<std::size_t>(c - 'a' + 'A')] = Kind::letter;
  for (const char c : {' ', '\t', '\n', '\r'}) kinds[static_cast<std::size_t>(c)] = Kind::blank;
  kinds['&'] = Kind::foreign;
  return kinds;
}
constexpr std::array<Kind, 256> kinds = kinds_of_bytes();

Kind kind_of(char c) noexcept { return kinds[static_cast<unsigned char>(c)]; }

bool begins_with(std::string_view text, std::string_view lower_word) noexcept {
  return text.size() >= lower_word.size() &&
         std::equal(lower_word.begin(), lower_word.end(), text.begin(), [](char wanted, char c) { return wanted == lower(c); });
}

/// Whether all of a caption is done here. A special token that somebody wrote out is not.
bool is_plain(std::string_view caption) noexcept {
  for (std::size_t i = 0; i < caption.size(); ++i) {
    if (kind_of(caption[i]) == Kind::foreign) return false;
    if (caption[i] != '<') continue;
    const std::string_view rest = caption.substr(i);
    if (begins_with(rest, "<start_of_text>") || begins_with(rest, "<end_of_text>")) return false;
  }
  return true;
}

/// Length of the word that stands at the beginning of a text, which is no blank: an English ending, letters, one digit, or
/// signs, in this order.
std::size_t word_length(std::string_view text) noexcept {
  constexpr std::array<std::string_view, 7> endings = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
  const Kind kind = kind_of(text[0]);
  if (kind == Kind::digit) return 1;
  if (text[0] == '\'') {
    for (const std::string_view ending : endings) {
      if (begins_with(text, ending)) return ending.size();
    }
  }
  std::size_t size = 1;
  while (size < text.size() && kind_of(text[size]) == kind) ++size;
  return size;
}

std::size_t place_of(std::uint64_t pair) noexcept { return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15U) >> 32); }

std::uint64_t pair_of(std::int32_t left, std::int32_t right) noexcept {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

BytePairs::BytePairs(const BytePairTables& tables) : start_(tables.start), end_(tables.end) {
  const std::size_t count = tables.first.size();
  if (tables.second.size() != count || tables.merged.size() != count) refuse_argument("first, second and merged must have one length");
  if (tables.inner.size() != inner_.size() || tables.last.size() != last_.size()) {
    refuse_argument("inner and last must have a token for each of 128 characters; got ", tables.inner.size(), " and ", tables.last.size());
  }
  std::ranges::copy(tables.inner, inner_.begin());
  std::ranges::copy(tables.last, last_.begin());
  merges_.assign(std::bit_ceil(2 * count + 2), Merge{no_pair, 0, 0});
  mask_ = merges_.size() - 1;
  for (std::size_t i = 0; i < count; ++i) {
    if (tables.first[i] < 0 || tables.second[i] < 0 || tables.merged[i] < 0) refuse_argument("merge ", i, " has a negative token");
    const std::uint64_t pair = pair_of(tables.first[i], tables.second[i]);
    std::size_t at = place_of(pair) & mask_;
    while (merges_[at].pair != no_pair && merges_[at].pair != pair) at = (at + 1) & mask_;
    if (merges_[at].pair == no_pair) merges_[at] = {pair, static_cast<std::uint32_t>(i), tables.merged[i]};
  }
}

const BytePairs::Merge* BytePairs::find(std::int32_t left, std::int32_t right) const noexcept {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t at = place_of(pair) & mask_;; at = (at + 1) & mask_) {
    if (merges_[at].pair == pair) return &merges_[at];
    if (merges_[at].pair == no_pair) return nullptr;
  }
}

/// The characters of a word as tokens; false where one has none.
bool BytePairs::split(std::string_view letters, Word& word) const noexcept {
  word.size = letters.size();
  for (std::size_t i = 0; i < letters.size(); ++i) {
    const auto& tokens = i + 1 == letters.size() ? last_ : inner_;
    word.token[i] = tokens[static_cast<std::size_t>(lower(letters[i]))];
    if (word.token[i] < 0) return false;
  }
  return true;
}

/// Merges the pair of the lowest rank wherever it stands, from left to right, until none is left.
void BytePairs::merge_pairs(Word& word) const noexcept {
  for (std::size_t i = 0; i + 1 < word.size; ++i) word.merge[i] = find(word.token[i], word.token[i + 1]);
  while (word.size > 1) {
    const Merge* best = nullptr;
    for (std::size_t i = 0; i + 1 < word.size; ++i) {
      if (word.merge[i] != nullptr && (best == nullptr || word.merge[i]->rank < best->rank)) best = word.merge[i];
    }
    if (best == nullptr) return;
    std::size_t size = 0;
    for (std::size_t i = 0; i < word.size; ++size) {
      const bool merges = i + 1 < word.size && word.merge[i] == best;
      word.token[size] = merges ? best->merged : word.token[i];
      // looked up anew below where a neighbour has changed
      word.merge[size] = merges || i + 1 == word.size ? nullptr : word.merge[i];
      i += merges ? 2 : 1;
    }
    word.size = size;
    for (std::size_t i = 0; i + 1 < size; ++i) {
      if (word.token[i] == best->merged || word.token[i + 1] == best->merged) word.merge[i] = find(word.token[i], word.token[i + 1]);
    }
  }
}

bool BytePairs::encode_one(std::string_view caption, std::span<std::int64_t> out, Word& word) const noexcept {
  if (!is_plain(caption)) return false;
  const std::size_t room = out.size();
  std::size_t count = 0;
  const auto put = [&](std::int32_t token) {
    if (count < room) out[count] = token;
    ++count;
  };
  put(start_);
  for (std::size_t at = 0; at < caption.size() && count < room;) {
    if (kind_of(caption[at]) == Kind::blank) {
      ++at;
      continue;
    }
    const std::size_t length = word_length(caption.substr(at));
    if (length > longest_word || !split(caption.substr(at, length), word)) return false;
    merge_pairs(word);
    for (std::size_t i = 0; i < word.size; ++i) put(word.token[i]);
    at += length;
  }
  put(end_);
  if (count > room) out[room - 1] = end_;
  else std::fill(out.begin() + static_cast<std::ptrdiff_t>(count), out.end(), 0);
  return true;
}

void BytePairs::encode(const CaptionRanges& captions, std::size_t context, std::span<std::int64_t> out, std::span<std::uint8_t> done,
                       unsigned threads, const Poll& poll) const {
  const std::size_t count = captions.begin.size();
  if (captions.size.size() != count || done.size() != count) refuse_argument("begin and size must have one length");
  if (context == 0) refuse_argument("context must be at least 1; got 0");
  if (out.size() != checked_mul(count, context, "tokens")) refuse_argument("out must have a row of ", context, " tokens for each of ", count, " captions");
  for (std::size_t i = 0; i < count; ++i) {
    const auto [begin, size] = std::pair(captions.begin[i], captions.size[i]);
    const auto total = static_cast<std::int64_t>(captions.data.size());
    if (begin < 0 || size < 0 || begin > total || size > total - begin) {
      refuse_argument("caption ", i, " is beyond the data: begin ", begin, ", size ", size, ", data ", total);
    }
  }
  constexpr std::size_t block = 64;  // captions that a thread takes at a time
  parallel_for((count + block - 1) / block, threads, [&](std::size_t number) {
    Word word;
    for (std::size_t i = number * block; i < std::min(count, (number + 1) * block); ++i) {
      const std::string_view caption(captions.data.data() + captions.begin[i], static_cast<std::size_t>(captions.size[i]));
      done[i] = encode_one(caption, out.subspan(i * context, context), word) ? 1 : 0;
    }
  }, poll);
}

}  // namespace dcfast
