// Images: what is whole is ok, every prefix of it is not, and no bytes at all bring the decoder down.
#include "core/images/image.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/images/perceptual_hash.hpp"
#include "core/images/wide_hash.hpp"
#include "core/system/error.hpp"
#include "images/tiny_images.hpp"

using dcfast::ImageFormat;
using dcfast::ImageStatus;

namespace {

using Bytes = std::vector<std::byte>;

Bytes unhex(const char* text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  Bytes bytes;
  for (; text[0] != 0; text += 2) bytes.push_back(static_cast<std::byte>(digit(text[0]) * 16 + digit(text[1])));
  return bytes;
}

dcfast::PerceptualHash hash_all(std::span<const std::uint8_t> grey, std::uint32_t width, std::uint32_t height) {
  const dcfast::CellSums cells = dcfast::cell_sums(grey, width, height);
  (void)dcfast::wide_hash(cells);
  return dcfast::perceptual_hash(cells);
}

dcfast::WideHash wide(std::span<const std::uint8_t> grey, std::uint32_t width, std::uint32_t height) {
  return dcfast::wide_hash(dcfast::cell_sums(grey, width, height));
}

/// A copy of exactly the size, so that a sanitizer sees a read beyond the end.
ImageStatus status_of(const Bytes& bytes, bool full) {
  const auto exact = std::make_unique<std::byte[]>(bytes.size());
  if (!bytes.empty()) std::memcpy(exact.get(), bytes.data(), bytes.size());
  const dcfast::GreyImage image = dcfast::decode_grey({exact.get(), bytes.size()}, {.full = full});
  const bool good = image.status == ImageStatus::ok;
  CHECK(static_cast<std::size_t>(image.status) < dcfast::kImageStatusNames.size());
  CHECK(image.grey.size() == static_cast<std::size_t>(image.grey_width) * image.grey_height);
  CHECK(good == !image.grey.empty());
  if (good) (void)hash_all(image.grey, image.grey_width, image.grey_height);
  return image.status;
}

void test_whole_and_cut(const char* hex, ImageFormat format, std::uint32_t width, std::uint32_t height) {
  const Bytes bytes = unhex(hex);
  for (const bool full : {false, true}) {
    CHECK(status_of(bytes, full) == ImageStatus::ok);
    for (std::size_t size = 1; size < bytes.size(); ++size) {
      const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
      CHECK(status_of(cut, full) == ImageStatus::truncated);
    }
  }
  const dcfast::ImageSignature signature = dcfast::image_signature(bytes, {});
  CHECK(signature.format == format);
  CHECK(signature.width == width && signature.height == height);
  CHECK(signature.status == ImageStatus::ok);
}

void test_flips(const char* hex, unsigned seed) {
  const Bytes bytes = unhex(hex);
  std::mt19937 random(seed);
  for (int trial = 0; trial < 10000; ++trial) {
    Bytes changed = bytes;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      changed[random() % changed.size()] = static_cast<std::byte>(random());
    }
    if (random() % 8 == 0) changed.resize(random() % changed.size());
    (void)status_of(changed, trial % 2 == 0);
  }
}

void test_hash() {
  const std::vector<std::uint8_t> solid(77, 200);
  CHECK(hash_all(solid, 7, 11).flat);
  CHECK(hash_all(solid, 7, 11).bits == 0);
  CHECK_THROWS(dcfast::Error, hash_all(solid, 7, 12));
  CHECK_THROWS(dcfast::Error, hash_all({}, 0, 3));
  // an image and its enlargement by whole numbers have the same cells
  std::mt19937 random(5);
  std::vector<std::uint8_t> small(20 * 24);
  for (auto& v : small) v = static_cast<std::uint8_t>(random());
  std::vector<std::uint8_t> large;
  for (std::size_t y = 0; y < 24 * 3; ++y) {
    for (std::size_t x = 0; x < 20 * 2; ++x) large.push_back(small[y / 3 * 20 + x / 2]);
  }
  const auto a = hash_all(small, 20, 24);
  const auto b = hash_all(large, 40, 72);
  CHECK(a.bits == b.bits && !a.flat && !b.flat);
  CHECK(std::popcount(a.bits) == 32);
  const dcfast::WideHash c = wide(small, 20, 24);
  CHECK(c.words == wide(large, 40, 72).words && c.quality >= dcfast::kFlatQuality);
  CHECK(wide(solid, 7, 11).words == dcfast::WideWords{} && wide(solid, 7, 11).quality == 0);
}

/// More than 2^16 rows in a cell, whose sums would pass 32 bits if they were not added up in blocks.
void test_high_image() {
  const std::size_t high = 64 * 70'001 + 5;
  std::vector<std::uint8_t> column(high, 255);
  const dcfast::CellSums white = dcfast::cell_sums(column, 1, static_cast<std::uint32_t>(high));
  for (const std::uint64_t sum : white.sums) CHECK(sum == 255 * white.area);
  const dcfast::CellSums lying = dcfast::cell_sums(column, static_cast<std::uint32_t>(high), 1);
  CHECK(lying.sums == white.sums && lying.area == white.area);
}

void test_variants() {
  constexpr std::uint32_t width = 70;
  constexpr std::uint32_t height = 91;
  std::mt19937 random(9);
  std::vector<std::uint8_t> grey(width * height);
  for (auto& v : grey) v = static_cast<std::uint8_t>(random());
  const auto at = [&](std::uint32_t y, std::uint32_t x) { return grey[y * width + x]; };
  std::array<std::vector<std::uint8_t>, 8> turned;
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      turned[0].push_back(at(y, x));
      turned[2].push_back(at(height - 1 - y, width - 1 - x));
      turned[4].push_back(at(y, width - 1 - x));
      turned[5].push_back(at(height - 1 - y, x));
    }
  }
  for (std::uint32_t y = 0; y < width; ++y) {
    for (std::uint32_t x = 0; x < height; ++x) {
      turned[1].push_back(at(x, width - 1 - y));
      turned[3].push_back(at(height - 1 - x, y));
      turned[6].push_back(at(x, y));
      turned[7].push_back(at(height - 1 - x, width - 1 - y));
    }
  }
  const dcfast::WideVariants variants = dcfast::wide_variants(wide(grey, width, height).words);
  for (const std::size_t k : {0, 2, 4, 5}) CHECK(wide(turned[k], width, height).words == variants[k]);
  for (const std::size_t k : {1, 3, 6, 7}) CHECK(wide(turned[k], height, width).words == variants[k]);
}

/// Parts that no pixel needs, put behind the first bytes: many are read over, more than any encoder writes are not.
void test_parts(const char* hex, std::size_t begin, const char* part) {
  const Bytes bytes = unhex(hex);
  const Bytes one = unhex(part);
  for (const auto& [count, status] : {std::pair{60'000, ImageStatus::ok}, std::pair{66'000, ImageStatus::broken}}) {
    Bytes longer(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(begin));
    for (int i = 0; i < count; ++i) longer.insert(longer.end(), one.begin(), one.end());
    longer.insert(longer.end(), bytes.begin() + static_cast<std::ptrdiff_t>(begin), bytes.end());
    CHECK(status_of(longer, false) == status);
  }
}

void test_scans() {
  CHECK(dcfast::max_scans(0) == 500 && dcfast::max_scans(1) == 500 && dcfast::max_scans(2'147'483) == 500);
  CHECK(dcfast::max_scans(std::uint64_t{1} << 22) == 256);
  CHECK(dcfast::max_scans(dcfast::kMaxPixels) == 24 && dcfast::max_scans(~std::uint64_t{0}) == 24);
}

}  // namespace

int main() {
  test_whole_and_cut(kJpeg, ImageFormat::jpeg, 20, 24);
  test_whole_and_cut(kProgressiveJpeg, ImageFormat::jpeg, 20, 24);
  test_whole_and_cut(kCmykJpeg, ImageFormat::jpeg, 20, 24);
  test_whole_and_cut(kPng, ImageFormat::png, 10, 12);
  test_whole_and_cut(kInterlacedPng, ImageFormat::png, 20, 24);
  test_whole_and_cut(kWebp, ImageFormat::webp, 20, 24);
  test_whole_and_cut(kLosslessWebp, ImageFormat::webp, 20, 24);
  unsigned seed = 1;
  for (const char* hex : {kJpeg, kProgressiveJpeg, kCmykJpeg, kPng, kInterlacedPng, kWebp, kLosslessWebp}) {
    test_flips(hex, seed++);
  }
  CHECK(status_of({}, false) == ImageStatus::empty);
  CHECK(status_of(unhex("000102"), false) == ImageStatus::unsupported);
  test_parts(kJpeg, 2, "ffe10002");
  test_parts(kPng, 33, "000000007465537400000000");  // behind the header: a chunk teSt, whose checksum nobody asks for
  test_scans();
  test_hash();
  test_high_image();
  test_variants();
  return failures();
}
