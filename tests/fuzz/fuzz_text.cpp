// The small parsers: json uids, image headers, uid text (vector code against scalar), and .npy headers. The first
// byte of the input chooses.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "core/images/image_header.hpp"
#include "core/index/json_uid.hpp"
#include "core/uids/npy.hpp"
#include "core/uids/uid_text.hpp"
#include "fuzz_check.hpp"

using namespace dcfast;

namespace {

using Bytes = std::span<const std::byte>;

void read_json(Bytes input) {
  static UidReader reader;
  std::vector<std::byte> padded(input.begin(), input.end());
  padded.resize(input.size() + UidReader::padding, std::byte{0});
  Uid uid{};
  const UidStatus status = reader.read(std::span(padded).first(input.size()), uid);
  MUST(std::equal(input.begin(), input.end(), padded.begin()));  // the document is not written to
  if (status != UidStatus::found) return;
  // the digits stand in it, if not behind escapes
  std::string text(reinterpret_cast<const char*>(input.data()), input.size());
  std::transform(text.begin(), text.end(), text.begin(), [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
  const std::string digits = format_uid(uid);  // zeros on the left may be missing there
  MUST(text.find('\\') != std::string::npos || text.find(digits.substr(std::min(digits.find_first_not_of('0'), digits.size()))) != std::string::npos);
  // what lies behind the document must not matter
  std::fill(padded.begin() + static_cast<std::ptrdiff_t>(input.size()), padded.end(), std::byte{'"'});
  Uid again{};
  MUST(reader.read(std::span(padded).first(input.size()), again) == status && again == uid);
}

// Each answer in memory of its own, of just that length: an address sanitizer sees any byte read beyond it.
class TightImage final : public ImageBytes {
 public:
  explicit TightImage(Bytes bytes) : bytes_(bytes) {}
  Bytes at(std::uint64_t offset, std::size_t count) override {
    MUST(count <= 64);
    MUST(++calls_ < 20'000);
    const std::size_t begin = static_cast<std::size_t>(std::min<std::uint64_t>(offset, bytes_.size()));
    const std::size_t n = std::min(count, bytes_.size() - begin);
    copy_.reset(new std::byte[n]);
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(begin), n, copy_.get());
    return {copy_.get(), n};
  }

 private:
  Bytes bytes_;
  std::unique_ptr<std::byte[]> copy_;
  int calls_ = 0;
};

void read_image(Bytes input) {
  TightImage tight(input);
  const ImageSize size = read_image_size(tight);
  MUST((size.width == 0) == (size.height == 0));
  MUST(size == read_image_size(input));
}

void read_uid_text(Bytes input) {
  const char* const text = reinterpret_cast<const char*>(input.data());
  for (std::size_t at = 0; at + kUidTextSize <= input.size(); at += kUidTextSize) {
    const std::unique_ptr<char[]> tight(new char[kUidTextSize]);
    std::memcpy(tight.get(), text + at, kUidTextSize);
    Uid fast{}, slow{}, third{};
    const bool good = parse_uid_32(tight.get(), fast);
    MUST(good == parse_uid_32_scalar(tight.get(), slow) && fast == slow);
    if (good) MUST(parse_uid(format_uid(fast), third) && third == fast);
    if (good) MUST(parse_uid({tight.get() + 1, kUidTextSize - 1}, third) && third.lo == fast.lo && third.hi == (fast.hi & ~0ULL >> 4));
  }
  Uid uid{1, 1};
  const std::string_view all(text, input.size());
  MUST(parse_uid(all, uid) || uid == Uid{});
}

void read_npy(Bytes input) {
  static MemoryFile memory;
  const File file = File::open_read(memory.fill(input));
  try {
    const npy::Info info = npy::read_header(file);
    MUST(info.item_size == sizeof(Uid) || info.item_size == sizeof(UidRecord));
    MUST(info.data_offset + info.count * info.item_size == input.size() && info.count <= input.size());
  } catch (const Error& error) {
    MUST(error.code() == Code::corrupt_data && error.offset().has_value());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const Bytes input(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  switch (data[0] % 4) {
    case 0: read_json(input); break;
    case 1: read_image(input); break;
    case 2: read_uid_text(input); break;
    default: read_npy(input); break;
  }
  return 0;
}
