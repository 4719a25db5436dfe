// Crops of JPEGs: the resampling equals plain sums of products, in memory of just its size; whole JPEGs are taken, cut ones are
// not, and no bytes bring the reader down.
#include "core/images/crop_resize.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "check.hpp"
#include "core/images/resize.hpp"
#include "images/tiny_images.hpp"

using dcfast::CropStatus;
using dcfast::ResizeTaps;

namespace {

using Levels = std::vector<std::uint8_t>;

std::vector<std::byte> unhex(const char* text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::vector<std::byte> bytes;
  for (; text[0] != 0; text += 2) bytes.push_back(static_cast<std::byte>(digit(text[0]) * 16 + digit(text[1])));
  return bytes;
}

Levels noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Levels levels(size);
  for (auto& level : levels) level = static_cast<std::uint8_t>(random() % 3 == 0 ? (random() % 2) * 255 : random());
  return levels;
}

std::uint8_t sum_of(const ResizeTaps& taps, std::uint32_t place, const std::uint8_t* levels, std::size_t stride) {
  std::int64_t sum = 1 << 21;
  for (std::uint32_t k = taps.first[place]; k < taps.last[place]; ++k) {
    sum += std::int64_t{taps.weights[place * taps.slots + k - taps.first[place]]} * levels[k * stride];
  }
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> 22, 0, 255));
}

void test_taps(std::uint32_t length, float from, float to, std::uint32_t size) {
  ResizeTaps taps;
  dcfast::make_resize_taps(length, from, to, {size}, taps);
  CHECK(taps.size() == size && taps.slots == 2 * taps.pairs && taps.end <= length);
  for (std::uint32_t i = 0; i < size; ++i) {
    CHECK(taps.first[i] % 2 == 0 && taps.first[i] < taps.last[i] && taps.last[i] - taps.first[i] <= taps.slots);
    CHECK(taps.first[i] >= taps.begin && taps.last[i] <= taps.end);
    std::int64_t sum = 0;
    for (std::uint32_t k = 0; k < taps.slots; ++k) {
      const std::int32_t weight = taps.weights[i * taps.slots + k];
      const std::int16_t* const split = &taps.split[2 * i * taps.slots + k / 2 * 4 + k % 2];
      CHECK(weight == split[0] * 2048 + split[2] && split[2] >= 0);
      CHECK(taps.first[i] + k < taps.last[i] || weight == 0);
      sum += weight;
    }
    CHECK(std::abs(sum - (1 << 22)) <= taps.slots);
  }
}

/// Some places alone have the sums that they have among all.
void test_some_places(std::uint32_t length, std::uint32_t size, std::uint32_t begin, std::uint32_t count) {
  ResizeTaps all, some;
  dcfast::make_resize_taps(length, 0, static_cast<float>(length), {size}, all);
  dcfast::make_resize_taps(length, 0, static_cast<float>(length), {size, begin, count}, some);
  CHECK(some.size() == count && some.slots <= all.slots);
  for (std::uint32_t i = 0; i < count; ++i) {
    CHECK(some.first[i] == all.first[begin + i] && some.last[i] == all.last[begin + i]);
    for (std::uint32_t k = 0; k < all.slots; ++k) {
      const std::int32_t weight = all.weights[(begin + i) * all.slots + k];
      CHECK(weight == (k < some.slots ? some.weights[i * some.slots + k] : 0));
    }
  }
}

void test_passes(std::uint32_t length, std::uint32_t size, unsigned seed) {
  ResizeTaps taps;
  dcfast::make_resize_taps(length, 0, static_cast<float>(length), {size}, taps);
  constexpr std::size_t rows = dcfast::kAcrossRows;
  std::array<Levels, rows> in, out;
  std::array<const std::uint8_t*, rows> from;
  std::array<std::uint8_t*, rows> to;
  for (std::size_t i = 0; i < rows; ++i) {
    in[i] = noise(3 * length + dcfast::kRowPadding, seed + static_cast<unsigned>(i));
    out[i].resize(3 * size + dcfast::kRowPadding);
    from[i] = in[i].data();
    to[i] = out[i].data();
  }
  Levels scratch;
  dcfast::resize_across(from.data(), length, taps, scratch, to.data());
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::uint32_t x = 0; x < size; ++x) {
      for (std::uint32_t c = 0; c < 3; ++c) CHECK(out[i][3 * x + c] == sum_of(taps, x, from[i] + c, 3));
    }
  }
  const std::size_t count = 1 + seed % 150;
  const std::size_t stride = count + dcfast::kRowPadding;
  const Levels picture = noise(stride * length, seed);
  for (std::uint32_t place = 0; place < size; place += 1 + size / 7) {
    std::vector<const std::uint8_t*> summed(2 * taps.pairs);
    for (std::uint32_t k = 0; k < summed.size(); ++k) {
      summed[k] = picture.data() + std::min(taps.first[place] + k, taps.last[place] - 1) * stride;
    }
    const auto row = std::make_unique<std::uint8_t[]>(count);
    dcfast::resize_down(summed.data(), taps, place, count, row.get());
    for (std::size_t x = 0; x < count; ++x) CHECK(row[x] == sum_of(taps, place, picture.data() + x, stride));
  }
}

constexpr std::uint32_t kSide = 9;

/// Of a copy of exactly the size, into pixels of exactly theirs.
CropStatus status_of(std::span<const std::byte> bytes, dcfast::CropWindow window, std::int32_t width, std::int32_t height, bool reduced,
                     Levels* pixels = nullptr) {
  const auto exact = std::make_unique<std::byte[]>(bytes.size());
  std::ranges::copy(bytes, exact.get());
  const auto out = std::make_unique<std::uint8_t[]>(3 * kSide * kSide);
  const dcfast::CropTask task{{exact.get(), bytes.size()}, window, width, height, out.get()};
  CropStatus status{};
  dcfast::crop_resize({&task, 1}, {.side = kSide, .reduced = reduced}, 1, {&status, 1});
  if (pixels != nullptr) pixels->assign(out.get(), out.get() + 3 * kSide * kSide);
  return status;
}

void test_jpegs() {
  for (const char* text : {kJpeg, kProgressiveJpeg}) {
    const auto bytes = unhex(text);
    for (const bool reduced : {false, true}) {
      CHECK(status_of(bytes, {0, 0, 20, 24}, 20, 24, reduced) == CropStatus::done);
      CHECK(status_of(bytes, {19, 0, 1, 24}, 20, 24, reduced) == CropStatus::done);
      CHECK(status_of(bytes, {0, 0, 20, 20}, 20, 23, reduced) == CropStatus::other_size);
    }
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      CHECK(status_of(std::span(bytes).first(size), {2, 3, 10, 11}, 20, 24, false) == (size < 3 ? CropStatus::elsewhere : CropStatus::damaged));
    }
    std::mt19937 random(7);
    for (int i = 0; i < 3000; ++i) {
      auto altered = bytes;
      for (unsigned k = 0; k <= random() % 3; ++k) altered[2 + random() % (altered.size() - 2)] = static_cast<std::byte>(random());
      CHECK(status_of(altered, {1, 1, 18, 22}, 20, 24, i % 2 == 0) <= CropStatus::damaged);
    }
  }
  CHECK(status_of(unhex(kCmykJpeg), {0, 0, 20, 20}, 20, 24, false) == CropStatus::elsewhere);
  CHECK(status_of(unhex(kPng), {0, 0, 10, 12}, 10, 12, false) == CropStatus::elsewhere);
}

/// A square of a larger picture has the pixels of that picture, made of squares beside each other.
void test_targets() {
  const auto bytes = unhex(kJpeg);
  constexpr std::int32_t side = 5;
  for (const std::int32_t times : {1, 3}) {
    const std::int32_t whole = side * times;
    Levels expected(static_cast<std::size_t>(3 * whole * whole));
    CropStatus status{};
    const dcfast::CropTask task{bytes, {0, 0, 20, 24}, 20, 24, expected.data()};
    dcfast::crop_resize({&task, 1}, {.side = static_cast<std::uint32_t>(whole)}, 1, {&status, 1});
    CHECK(status == CropStatus::done);
    for (std::int32_t place = 0; place < times * times; ++place) {
      const std::int32_t left = place % times * side, top = place / times * side;
      Levels out(3 * side * side);
      const dcfast::CropTask part{bytes, {0, 0, 20, 24}, 20, 24, out.data(), dcfast::CropTarget{whole, whole, left, top}};
      dcfast::crop_resize({&part, 1}, {.side = side, .reduced = true}, 1, {&status, 1});
      CHECK(status == CropStatus::done);
      for (std::int32_t y = 0; y < side; ++y) {
        const auto row = std::span(expected).subspan(static_cast<std::size_t>(3 * ((top + y) * whole + left)), 3 * side);
        CHECK(std::ranges::equal(row, std::span(out).subspan(static_cast<std::size_t>(3 * y * side), 3 * side)));
      }
    }
  }
}

void test_threads() {
  const auto bytes = unhex(kJpeg);
  Levels expected;
  CHECK(status_of(bytes, {1, 2, 15, 20}, 20, 24, false, &expected) == CropStatus::done);
  for (const unsigned threads : {1U, 3U}) {
    Levels out(50 * expected.size());
    std::vector<dcfast::CropTask> tasks;
    for (std::size_t i = 0; i < 50; ++i) tasks.push_back({bytes, {1, 2, 15, 20}, 20, 24, out.data() + i * expected.size()});
    std::vector<CropStatus> statuses(50, CropStatus::damaged);
    dcfast::crop_resize(tasks, {.side = kSide}, threads, statuses);
    for (std::size_t i = 0; i < 50; ++i) {
      CHECK(statuses[i] == CropStatus::done);
      CHECK(std::ranges::equal(expected, std::span(out).subspan(i * expected.size(), expected.size())));
    }
  }
}

}  // namespace

int main() {
  for (const std::uint32_t length : {1U, 2U, 3U, 16U, 17U, 97U, 500U, 3000U}) {
    for (const std::uint32_t size : {1U, 2U, 5U, 16U, 33U, 224U}) {
      test_taps(length, 0, static_cast<float>(length), size);
      if (length > 2) test_taps(length, 0.125F, static_cast<float>(length) - 1.5F, size);
      test_passes(length, size, length + 7 * size);
      test_some_places(length, size, size / 3, size - size / 3 - size / 4);
    }
  }
  test_jpegs();
  test_targets();
  test_threads();
  return failures();
}
