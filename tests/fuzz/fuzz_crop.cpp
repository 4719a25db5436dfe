// Crops of any bytes: a status, pixels of their own place alone, and the same a second time. The first bytes of the input
// choose the window, the size of the result, whether the picture may be reduced, and whether the result is a square of a larger one.
#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "core/images/crop_resize.hpp"
#include "core/images/image_header.hpp"
#include "fuzz_check.hpp"

using namespace dcfast;

namespace {

constexpr std::size_t kChoices = 6;
constexpr std::uint64_t kMostPixels = 1 << 20;  // larger pictures are slow, not different
constexpr std::uint8_t kUntouched = 0xa5;

std::int32_t part_of(std::int32_t whole, std::uint8_t choice) { return whole * choice / 256; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < kChoices) return 0;
  const auto bytes = std::as_bytes(std::span(data + kChoices, size - kChoices));
  const ImageSize header = read_image_size(bytes);
  if (std::uint64_t{header.width} * header.height > kMostPixels) return 0;
  const auto width = std::max(1, static_cast<std::int32_t>(header.width));
  const auto height = std::max(1, static_cast<std::int32_t>(header.height));
  CropWindow window{part_of(width, data[0]), part_of(height, data[1]), 0, 0};
  window.width = std::max(1, part_of(width - window.left, data[2]) + data[2] % 2);
  window.height = std::max(1, part_of(height - window.top, data[3]) + data[3] % 2);
  const CropOptions options{.side = 1U + data[4] % 40, .reduced = data[5] % 2 != 0, .tall_first_down = data[5] % 4 < 2};
  std::optional<CropTarget> target;
  if (data[5] % 8 >= 4) {
    const auto side = static_cast<std::int32_t>(options.side);
    target = CropTarget{side + data[0] + (data[2] << 12), side + data[1] + data[3], data[0] + (data[2] << 11), data[3]};
  }
  const std::size_t pixels = std::size_t{3} * options.side * options.side;
  std::array<std::vector<std::uint8_t>, 2> out;
  std::array<CropStatus, 2> statuses{};
  for (std::size_t i = 0; i < 2; ++i) {
    out[i].assign(pixels + 64, kUntouched);
    const CropTask task{bytes, window, width, height, out[i].data(), target};
    crop_resize({&task, 1}, options, 1, {&statuses[i], 1});
    MUST(std::all_of(out[i].begin() + static_cast<std::ptrdiff_t>(pixels), out[i].end(), [](auto byte) { return byte == kUntouched; }));
  }
  MUST(statuses[0] == statuses[1] && statuses[0] <= CropStatus::damaged);
  MUST(statuses[0] != CropStatus::done || out[0] == out[1]);
  return 0;
}
