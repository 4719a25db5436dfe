// The reader of language models on any bytes, and what a model that it takes says of a few texts.
#include <array>
#include <vector>

#include "core/filters/language_model.hpp"
#include "core/system/error.hpp"
#include "fuzz_check.hpp"

using namespace dcfast;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static MemoryFile file;
  const std::string& path = file.fill({reinterpret_cast<const std::byte*>(data), size});
  constexpr std::string_view texts = "two dogs</s> a__label__ena\xff\x80\xe7\x8a\xac";
  constexpr std::array<std::int32_t, 6> offsets = {0, 8, 14, 26, 26, static_cast<std::int32_t>(texts.size())};
  std::vector<std::int32_t> answers(offsets.size() - 1);
  try {
    const LanguageModel model(path);
    model.predict(texts, offsets, answers, 1);
    // each label takes a row and more than ten bytes of the file
    for (const std::int32_t answer : answers) MUST(answer >= -1 && answer < static_cast<std::int32_t>(size / 10 + 1));
    MUST(model.find_label("no label") == -1);
  } catch (const Error& error) {
    MUST(error.code() == Code::corrupt_data || error.code() == Code::invalid_argument);
    MUST(error.path() == path || error.path().empty());
  }
  return 0;
}
