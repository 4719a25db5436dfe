// Merges, words, the context's end, and what is left to others. Equality with open_clip is tested from Python
// (tests/models/test_tokens.py).
#include "core/tokens/byte_pairs.hpp"

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/system/error.hpp"

namespace {

using dcfast::BytePairs;
using dcfast::Error;
using Row = std::vector<std::int64_t>;

constexpr std::int32_t start = 1000;
constexpr std::int32_t end = 1001;

/// Characters are their own tokens, those that end a word 128 more; "ab", "bc>", "ab" + "ab", and "c" + "c" merge.
BytePairs small() {
  std::vector<std::int32_t> inner(128), last(128);
  std::iota(inner.begin(), inner.end(), 0);
  std::iota(last.begin(), last.end(), 128);
  inner['Z'] = inner['z'] = -1;
  const std::vector<std::int32_t> first = {'a', 'b', 300, 'c'}, second = {'b', 'c' + 128, 300, 'c'}, merged = {300, 301, 302, 303};
  return BytePairs({first, second, merged, inner, last, start, end});
}

/// Tokens of one caption; empty where it is not done.
Row tokens_of(const std::string& caption, std::size_t context = 12) {
  static const BytePairs pairs = small();
  Row out(context, -7);
  const std::vector<std::int64_t> begin = {0}, size = {static_cast<std::int64_t>(caption.size())};
  std::vector<std::uint8_t> done(1);
  pairs.encode({caption, begin, size}, context, out, done, 1);
  return done[0] != 0 ? out : Row{};
}

Row padded(Row row, std::size_t context = 12) {
  row.insert(row.begin(), start);
  row.push_back(end);
  row.resize(context);
  return row;
}

void test_merges() {
  CHECK(tokens_of("") == padded({}));
  CHECK(tokens_of("abc") == padded({300, 'c' + 128}));  // the first merge wins over "bc>"
  CHECK(tokens_of("bc") == padded({301}));
  CHECK(tokens_of("ABABx") == padded({302, 'x' + 128}));
  CHECK(tokens_of("cccccx") == padded({303, 303, 'c', 'x' + 128}));  // from left to right, none twice
}

void test_words() {
  CHECK(tokens_of(" x\t\r\ny ") == padded({'x' + 128, 'y' + 128}));
  CHECK(tokens_of("x12") == padded({'x' + 128, '1' + 128, '2' + 128}));
  CHECK(tokens_of("x's'") == padded({'x' + 128, '\'', 's' + 128, '\'' + 128}));
  CHECK(tokens_of("!'s") == padded({'!', '\'' + 128, 's' + 128}));
  CHECK(tokens_of("_-x") == padded({'_', '-' + 128, 'x' + 128}));
}

void test_the_end_of_the_context() {
  CHECK(tokens_of("x y", 4) == (Row{start, 'x' + 128, 'y' + 128, end}));
  CHECK(tokens_of("x y w", 4) == (Row{start, 'x' + 128, 'y' + 128, end}));
  CHECK(tokens_of("xyw", 3) == (Row{start, 'x', end}));
  CHECK(tokens_of("x", 2) == (Row{start, end}));
  CHECK(tokens_of("x", 1) == Row{end});
}

void test_what_is_left_to_others() {
  for (const char* caption : {"a&b", "a\x7f", "\x1b[1m", "caf\xc3\xa9", "a\fb", "<END_of_text>", "a <start_of_text>", "zebra"}) {
    CHECK(tokens_of(caption).empty());
  }
  CHECK(tokens_of(std::string("a\0b", 3)).empty());
  CHECK(!tokens_of("a <end_of_tex").empty());
  CHECK(!tokens_of(std::string(BytePairs::longest_word, 'x')).empty());
  CHECK(tokens_of(std::string(BytePairs::longest_word + 1, 'x')).empty());
}

void test_arguments() {
  const BytePairs pairs = small();
  const std::string data = "abc";
  std::vector<std::uint8_t> done(1);
  Row out(4);
  for (const auto& [begin, size] : {std::pair{-1L, 1L}, {0L, 4L}, {4L, 0L}, {3L, 1L}, {0L, -1L}, {1L, INT64_MAX}}) {
    const std::vector<std::int64_t> begins = {begin}, sizes = {size};
    CHECK_THROWS(Error, pairs.encode({data, begins, sizes}, 4, out, done, 1));
  }
  const std::vector<std::int64_t> zero = {0};
  CHECK_THROWS(Error, pairs.encode({data, zero, zero}, 0, {}, done, 1));
  CHECK_THROWS(Error, pairs.encode({data, zero, zero}, 5, out, done, 1));
  const std::vector<std::int32_t> tokens(128), one = {1}, negative = {-1};
  CHECK_THROWS(Error, BytePairs({one, one, {}, tokens, tokens, 0, 0}));
  CHECK_THROWS(Error, BytePairs({one, negative, one, tokens, tokens, 0, 0}));
  CHECK_THROWS(Error, BytePairs({one, one, one, one, tokens, 0, 0}));
}

}  // namespace

int main() {
  test_merges();
  test_words();
  test_the_end_of_the_context();
  test_what_is_left_to_others();
  test_arguments();
  return failures();
}
