#include "core/images/crop_resize.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "core/images/image.hpp"
#include "core/images/jpeg_reader.hpp"
#include "core/images/resize.hpp"

namespace dcfast {
namespace {

constexpr std::uint32_t kBlock = kAcrossRows;

/// Along one axis: the source begins at a place of the decoded picture, has a length, and of it [from, to) is resampled.
struct Axis {
  std::uint32_t origin;
  std::uint32_t length;
  float from;
  float to;
};

struct Source {
  Axis x;
  Axis y;
};

/// The window at full scale: nothing beyond it counts.
Source cut_of(const CropWindow& window) {
  const auto axis = [](std::int32_t origin, std::int32_t length) {
    return Axis{static_cast<std::uint32_t>(origin), static_cast<std::uint32_t>(length), 0.0F, static_cast<float>(length)};
  };
  return {axis(window.left, window.width), axis(window.top, window.height)};
}

/// Whether the window is large enough for a reduced picture to be looked at.
bool may_reduce(const CropWindow& window, std::uint32_t side) {
  return std::min(window.width, window.height) >= 4 * static_cast<std::int64_t>(side);
}

/// 1, 2, 4 or 8: the most by which both sides of the picture can be divided while the window keeps twice what is wanted.
unsigned reduction_of(const CropTask& task, std::uint32_t side) {
  const double share = 2.0 * side / std::min(task.window.width, task.window.height);
  const auto times = [share](std::int32_t length) { return length / static_cast<std::int32_t>(std::ceil(length * share)); };
  const std::int32_t most = std::min(times(task.expected_width), times(task.expected_height));
  return most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

/// The window in a reduced picture, whose pixels beyond it count. `by` is what the widths say, as in Python.
Source box_of(const CropTask& task, std::uint32_t width, std::uint32_t height) {
  const double by = std::nearbyint(static_cast<double>(task.expected_width) / width);
  const auto axis = [by](std::int32_t begin, std::int32_t length, std::uint32_t whole) {
    const double end = std::min((static_cast<double>(begin) + length) / by, static_cast<double>(whole));
    return Axis{0, whole, static_cast<float>(begin / by), static_cast<float>(end)};
  };
  return {axis(task.window.left, task.window.width, width), axis(task.window.top, task.window.height, height)};
}

/// Rows by number, of which the last ones are kept, each with kRowPadding behind it.
class RecentRows {
 public:
  /// `astray`: bytes of each row's address beyond a cache line's.
  void reset(std::size_t row_bytes, std::size_t rows, std::size_t astray = 0) {
    stride_ = (row_bytes + kRowPadding + kLine - 1) / kLine * kLine;
    rows_ = rows;
    bytes_.resize(stride_ * rows + 2 * kLine);
    first_ = bytes_.data() + (kLine - reinterpret_cast<std::uintptr_t>(bytes_.data()) % kLine) + astray;
  }
  std::uint8_t* at(std::size_t row) { return first_ + row % rows_ * stride_; }
  std::array<std::uint8_t*, kBlock> block(std::size_t row) {
    std::array<std::uint8_t*, kBlock> rows;
    for (std::size_t i = 0; i < kBlock; ++i) rows[i] = at(row + i);
    return rows;
  }

 private:
  static constexpr std::size_t kLine = 64;
  std::size_t stride_ = 0;
  std::size_t rows_ = 1;
  std::uint8_t* first_ = nullptr;
  std::vector<std::uint8_t> bytes_;
};

/// To rows that begin at a vector's boundary libjpeg-turbo writes past the cache, from where they would be read back at once.
constexpr std::size_t kDecodedAstray = 8;

CropStatus failed(const JpegReader& reader) {
  if (reader.out_of_memory) throw std::bad_alloc();
  const bool elsewhere = reader.failure == ImageStatus::unsupported || reader.failure == ImageStatus::too_large;
  return elsewhere ? CropStatus::elsewhere : CropStatus::damaged;
}

bool is_plain(const jpeg_decompress_struct& info) {
  const bool grey = info.jpeg_color_space == JCS_GRAYSCALE && info.num_components == 1;
  const bool colour = (info.jpeg_color_space == JCS_YCbCr || info.jpeg_color_space == JCS_RGB) && info.num_components == 3;
  return (grey || colour) && info.data_precision == 8 && !info.arith_code;
}

/// Whether low frequencies are not known to the last bit: libjpeg then smooths, each release in its own way.
bool has_missing_scans(const jpeg_decompress_struct& info) {
  if (!info.progressive_mode || info.coef_bits == nullptr) return false;
  for (int component = 0; component < info.num_components; ++component) {
    const int* const bits = info.coef_bits[component];
    if (std::any_of(bits, bits + 10, [](int missing) { return missing != 0; })) return true;
  }
  return false;
}

/// Reads the header of a JPEG that may be decoded here, for RGB.
CropStatus open_plain(JpegReader& reader, std::uint32_t width, std::uint32_t height) {
  reader.strict = true;
  if (reader.size > kMaxMemberBytes || image_format(std::as_bytes(std::span(reader.data, reader.size))) != ImageFormat::jpeg) {
    return CropStatus::elsewhere;
  }
  if (!jpeg_open_step(reader)) return failed(reader);
  reader.info.out_color_space = JCS_RGB;
  return reader.info.image_width == width && reader.info.image_height == height ? CropStatus::done : CropStatus::other_size;
}

/// After the header: makes ready for lines.
CropStatus start_plain(JpegReader& reader) {
  if (!is_plain(reader.info)) return CropStatus::elsewhere;
  if (!jpeg_start_step(reader)) return failed(reader);
  return has_missing_scans(reader.info) ? CropStatus::elsewhere : CropStatus::done;
}

/// After the lines. What lies behind them is not decoded, but a file that was cut off is not taken.
CropStatus end_of(JpegReader& reader) {
  const bool all = reader.info.output_scanline == reader.info.output_height;
  return (all ? jpeg_finish_step(reader) : jpeg_has_end(reader)) ? CropStatus::done : CropStatus::damaged;
}

/// One picture after another; buffers are kept from one to the next.
class Cropper {
 public:
  explicit Cropper(CropOptions options) : options_(options) {}

  CropStatus run(const CropTask& task) {
    JpegReader reader(task.bytes);
    const auto width = static_cast<std::uint32_t>(task.expected_width);
    const auto height = static_cast<std::uint32_t>(task.expected_height);
    if (const CropStatus status = open_plain(reader, width, height); status != CropStatus::done) return status;
    const auto side = static_cast<std::int32_t>(options_.side);
    const CropTarget target = task.target.value_or(CropTarget{side, side, 0, 0});
    const bool reduced = options_.reduced && !task.target && may_reduce(task.window, options_.side);
    reader.info.scale_num = 1;
    reader.info.scale_denom = reduced ? reduction_of(task, options_.side) : 1;
    if (const CropStatus status = start_plain(reader); status != CropStatus::done) return status;
    Source source = reduced ? box_of(task, reader.info.output_width, reader.info.output_height) : cut_of(task.window);
    if (!(source.x.from < source.x.to && source.y.from < source.y.to)) return CropStatus::elsewhere;
    make_taps(source.x, target.width, target.left, across_);
    make_taps(source.y, target.height, target.top, down_);
    const bool first_down = is_first_down(source, target);
    leave_columns(source.x);
    const bool good = first_down ? down_then_across(reader, source, task.out) : across_then_down(reader, source, task.out);
    return good ? end_of(reader) : failed(reader);
  }

 private:
  /// Pillow's rule: where the height shrinks by more than twice as many pixels as the width.
  bool is_first_down(const Source& source, const CropTarget& target) const {
    const std::int64_t narrower = std::max<std::int64_t>(0, std::int64_t{source.x.length} - target.width);
    return options_.tall_first_down && std::int64_t{source.y.length} - target.height > 2 * narrower;
  }

  void make_taps(const Axis& axis, std::int32_t size, std::int32_t begin, ResizeTaps& taps) const {
    const PlacesOf places{static_cast<std::uint32_t>(size), static_cast<std::uint32_t>(begin), options_.side};
    make_resize_taps(axis.length, axis.from, axis.to, places, taps);
  }

  /// Cuts off the columns that no place of the result takes.
  void leave_columns(Axis& x) {
    const std::uint32_t begin = across_.begin;
    for (std::uint32_t& first : across_.first) first -= begin;
    for (std::uint32_t& last : across_.last) last -= begin;
    x.origin += begin;
    x.length = across_.end - begin;
  }

  /// Decodes the lines up to a row, and throws them away.
  static bool skip(JpegReader& reader, std::uint32_t end, const std::array<std::uint8_t*, kBlock>& lines) {
    while (reader.info.output_scanline < end) {
      if (!jpeg_lines_step(reader, lines.data(), std::min(kBlock, end - reader.info.output_scanline))) return false;
    }
    return true;
  }

  /// Pointers to the rows that a row of the result is a sum of.
  const std::uint8_t* const* rows_of(std::uint32_t place, std::size_t offset) {
    summed_.resize(2 * std::size_t{down_.pairs});
    for (std::uint32_t k = 0; k < summed_.size(); ++k) {
      summed_[k] = rows_.at(std::min(down_.first[place] + k, down_.last[place] - 1)) + offset;
    }
    return summed_.data();
  }

  bool across_then_down(JpegReader& reader, const Source& source, std::uint8_t* out) {
    const std::size_t out_bytes = std::size_t{3} * options_.side;
    lines_.reset(std::size_t{3} * reader.info.output_width, kBlock, kDecodedAstray);
    rows_.reset(out_bytes, 2 * std::size_t{down_.pairs} + kBlock);
    const std::array<std::uint8_t*, kBlock> lines = lines_.block(0);
    std::array<const std::uint8_t*, kBlock> cut;
    for (std::size_t i = 0; i < kBlock; ++i) cut[i] = lines[i] + std::size_t{3} * source.x.origin;
    if (!skip(reader, source.y.origin + down_.begin, lines)) return false;
    std::uint32_t place = 0;
    for (std::uint32_t row = down_.begin; row < down_.end; row += kBlock) {
      const std::uint32_t count = std::min(kBlock, down_.end - row);
      if (!jpeg_lines_step(reader, lines.data(), count)) return false;
      resize_across(cut.data(), source.x.length, across_, scratch_, rows_.block(row).data());
      for (; place < options_.side && down_.last[place] <= row + count; ++place) {
        resize_down(rows_of(place, 0), down_, place, out_bytes, out + place * out_bytes);
      }
    }
    return true;
  }

  bool down_then_across(JpegReader& reader, const Source& source, std::uint8_t* out) {
    const std::size_t out_bytes = std::size_t{3} * options_.side;
    const std::size_t origin = std::size_t{3} * source.x.origin;
    const std::size_t cut_bytes = std::size_t{3} * source.x.length;
    rows_.reset(std::size_t{3} * reader.info.output_width, 2 * std::size_t{down_.pairs} + kBlock, kDecodedAstray);
    lines_.reset(cut_bytes, kBlock);
    results_.reset(out_bytes, kBlock);
    const std::array<std::uint8_t*, kBlock> sums = lines_.block(0), results = results_.block(0);
    const std::array<const std::uint8_t*, kBlock> summed = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7]};
    if (!skip(reader, source.y.origin + down_.begin, rows_.block(0))) return false;
    std::uint32_t place = 0;
    for (std::uint32_t row = down_.begin; row < down_.end; row += kBlock) {
      const std::uint32_t count = std::min(kBlock, down_.end - row);
      if (!jpeg_lines_step(reader, rows_.block(row).data(), count)) return false;
      for (; place < options_.side && down_.last[place] <= row + count; ++place) {
        const std::uint32_t ready = place % kBlock + 1;
        resize_down(rows_of(place, origin), down_, place, cut_bytes, sums[ready - 1]);
        if (ready < kBlock && place + 1 < options_.side) continue;
        resize_across(summed.data(), source.x.length, across_, scratch_, results.data());
        for (std::uint32_t i = 0; i < ready; ++i) std::memcpy(out + (place + 1 - ready + i) * out_bytes, results[i], out_bytes);
      }
    }
    return true;
  }

  CropOptions options_;
  ResizeTaps across_, down_;
  RecentRows lines_, rows_, results_;
  std::vector<std::uint8_t> scratch_;
  std::vector<const std::uint8_t*> summed_;
};

}  // namespace

void crop_resize(std::span<const CropTask> tasks, CropOptions options, unsigned threads, std::span<CropStatus> statuses,
                 const Poll& poll) {
  // one item a thread, each of which takes picture after picture: its buffers are made once
  const std::size_t workers = std::min<std::size_t>(resolve_threads(threads), tasks.size());
  std::atomic<std::size_t> next{0};
  parallel_for(workers, threads, [&](std::size_t, const Poll& check) {
    Cropper cropper(options);
    for (std::size_t i = next.fetch_add(1); i < tasks.size(); i = next.fetch_add(1)) {
      check();
      statuses[i] = cropper.run(tasks[i]);
    }
  }, poll);
}

CropStatus decode_rgb(std::span<const std::byte> bytes, std::uint32_t width, std::uint32_t height, std::uint8_t* out) {
  JpegReader reader(bytes);
  if (const CropStatus status = open_plain(reader, width, height); status != CropStatus::done) return status;
  if (const CropStatus status = start_plain(reader); status != CropStatus::done) return status;
  std::array<std::uint8_t*, kBlock> lines;
  for (std::uint32_t y = 0; y < height; y += kBlock) {
    for (std::uint32_t i = 0; i < kBlock; ++i) lines[i] = out + std::size_t{3} * width * std::min(y + i, height - 1);
    if (!jpeg_lines_step(reader, lines.data(), std::min(kBlock, height - y))) return failed(reader);
  }
  return end_of(reader);
}

}  // namespace dcfast
