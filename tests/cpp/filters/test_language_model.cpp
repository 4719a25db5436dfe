// fastText models made here: hand-made answers, every cut and flipped bits of a file, any number of threads.
// tests/filters compares answers with fastText's own library.
#include "core/filters/language_model.hpp"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/system/error.hpp"

using dcfast::Code;
using dcfast::Error;
using dcfast::LanguageModel;

namespace {

class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content) {
    char name[] = "/tmp/dcfast-test-model-XXXXXX";
    const int fd = mkstemp(name);
    CHECK(fd >= 0);
    close(fd);
    path = name;
    std::ofstream(path, std::ios::binary) << content;
  }
  ~TemporaryFile() { std::remove(path.c_str()); }
  std::string path;
};

struct Made {
  std::int32_t loss = 1;
  std::int32_t maxn = 0;
  bool quantised = false;
};

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// Three words of two dimensions, and three labels: "one" leads to a, "two" to b, "six" to c.
std::string model(const Made& made = {}) {
  std::string out;
  put<std::int32_t>(out, 793712314);
  for (const std::int32_t value : {12, 2, 5, 5, 1, 5, 1, made.loss, 3, 64, 2, made.maxn, 100}) put(out, value);
  put<double>(out, 1e-4);
  for (const std::int32_t value : {6, 3, 3}) put(out, value);
  put<std::int64_t>(out, 100);
  put<std::int64_t>(out, made.quantised ? 2 : -1);
  const auto word = [&](const char* text, std::int64_t count, std::int8_t type) {
    out.append(text).push_back('\0');
    put(out, count);
    put(out, type);
  };
  word("one", 9, 0), word("two", 8, 0), word("six", 7, 0);
  word("__label__a", 50, 1), word("__label__b", 30, 1), word("__label__c", 20, 1);
  if (made.quantised) {
    for (const std::int32_t value : {5, 1, 60, 0}) put(out, value);  // bucket, row
  }
  put<std::uint8_t>(out, made.quantised ? 1 : 0);
  const std::vector<float> rows = {-9, 0, 9, -9, 9, 9};
  if (made.quantised) {
    put<std::uint8_t>(out, 1);
    put<std::int64_t>(out, 5);
    put<std::int64_t>(out, 2);
    put<std::int32_t>(out, 5);
    out.append({0, 1, 2, 0, 0});
    for (const std::int32_t value : {2, 1, 2, 2}) put(out, value);
    std::vector<float> centroids(512, 0.0F);
    for (std::size_t i = 0; i < rows.size(); ++i) centroids[i] = rows[i] / 2;
    for (const float value : centroids) put(out, value);
    out.append({0, 0, 0, 1, 1});
    for (const std::int32_t value : {1, 1, 1, 1}) put(out, value);
    for (int i = 0; i < 256; ++i) put(out, i == 0 ? 2.0F : 0.0F);
  } else {
    const std::int64_t behind = made.maxn > 0 ? 64 : 0;
    put<std::int64_t>(out, 3 + behind);
    put<std::int64_t>(out, 2);
    for (const float value : rows) put(out, value);
    for (std::int64_t i = 0; i < 2 * behind; ++i) put(out, 0.0F);
  }
  put<std::uint8_t>(out, 0);
  put<std::int64_t>(out, 3);
  put<std::int64_t>(out, 2);
  // the tree: c (left) and b (right) are joined first, then they (left) and a (right): its rows are the other way round
  for (const float value : {0.0F, -2.0F, -2.0F, 0.0F, 0.0F, 0.0F}) put(out, value);
  return out;
}

std::vector<std::int32_t> answers(const LanguageModel& model, const std::vector<std::string>& texts, unsigned threads = 1) {
  std::string data;
  std::vector<std::int64_t> offsets{0};
  for (const std::string& text : texts) {
    data += text;
    offsets.push_back(static_cast<std::int64_t>(data.size()));
  }
  std::vector<std::int32_t> out(texts.size());
  model.predict(data, offsets, out, threads);
  return out;
}

void test_answers() {
  for (const bool quantised : {false, true}) {
    const TemporaryFile file(model({.quantised = quantised}));
    const LanguageModel made(file.path);
    CHECK(made.find_label("__label__c") == 2);
    CHECK(made.find_label("__label__d") == -1);
    CHECK(made.find_label("one") == -1);
    const std::int32_t one = 0;
    const std::int32_t two = 1;
    const std::int32_t six = 2;
    // nothing known; spaces of all kinds; words behind the end of a sentence; a label and what looks like one
    const std::vector<std::string> texts = {"", "none", " one", "one\n", std::string("\0one\v", 5), "one one", "</s> one",
                                            "one </s> two two two", "two __label__a __label__x", "\xff\x80 six"};
    const std::vector<std::int32_t> expected = {-1, -1, one, one, one, one, -1, one, two, six};
    CHECK(answers(made, texts) == expected);
    for (const unsigned threads : {1U, 2U, 7U}) {
      std::vector<std::string> many;
      std::vector<std::int32_t> all;
      for (std::size_t i = 0; i < 3001; ++i) {
        many.push_back(texts[i % texts.size()]);
        all.push_back(expected[i % texts.size()]);
      }
      CHECK(answers(made, many, threads) == all);
    }
    CHECK(answers(made, {}).empty());
  }
}

void test_arguments() {
  const TemporaryFile file(model());
  const LanguageModel made(file.path);
  std::vector<std::int32_t> out(1);
  const std::string data = "one";
  for (const std::vector<std::int32_t>& offsets : {std::vector<std::int32_t>{}, {0}, {0, 4}, {-1, 3}, {2, 1}, {0, 1, 2}}) {
    CHECK_THROWS(Error, made.predict(data, offsets, out, 1));
  }
}

Code code_of(const std::string& content) {
  const TemporaryFile file(content);
  try {
    const LanguageModel made(file.path);
  } catch (const Error& error) {
    return error.code();
  }
  return Code::cancelled;
}

void test_files() {
  CHECK(code_of("") == Code::corrupt_data);
  CHECK(code_of(model({.loss = 3})) == Code::invalid_argument);
  CHECK_THROWS(Error, LanguageModel("/nowhere/at all"));
  for (const Made& made : {Made{.maxn = 3}, Made{.maxn = 3, .quantised = true}}) {
    const std::string whole = model(made);
    CHECK(code_of(whole) == Code::cancelled);
    // the quantiser's numbers are many bytes of one kind
    for (std::size_t size = 0; size < whole.size(); size += size > 400 ? 37 : 1) {
      CHECK(code_of(whole.substr(0, size)) == Code::corrupt_data);
    }
    std::mt19937 random(17);  // NOLINT: the same in every run
    for (int i = 0; i < 3000; ++i) {
      std::string flipped = whole;
      flipped[random() % (i % 2 == 0 ? 300 : flipped.size())] ^= static_cast<char>(1U << (random() % 8));
      const TemporaryFile file(flipped);
      try {
        const LanguageModel other(file.path);
        (void)answers(other, {"one two", "", "some other words"});
      } catch (const Error&) {
        continue;
      }
    }
  }
}

}  // namespace

int main() {
  test_answers();
  test_arguments();
  test_files();
  return failures();
}
