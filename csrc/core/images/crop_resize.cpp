#include "core/images/crop_resize.hpp"

#include <algorithm>
#include <array>
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

/// Rows by number, of which the last ones are kept.
class RecentRows {
 public:
  void reset(std::size_t row_bytes, std::size_t rows) {
    row_bytes_ = row_bytes;
    rows_ = rows;
    bytes_.resize(row_bytes * rows);
  }
  std::uint8_t* at(std::size_t row) { return bytes_.data() + row % rows_ * row_bytes_; }

 private:
  std::size_t row_bytes_ = 0;
  std::size_t rows_ = 1;
  std::vector<std::uint8_t> bytes_;
};

/// One picture after another; buffers are kept from one to the next.
class Cropper {
 public:
  explicit Cropper(CropOptions options) : options_(options) {}

  CropStatus run(const CropTask& task) {
    if (task.bytes.size() > kMaxMemberBytes || image_format(task.bytes) != ImageFormat::jpeg) return CropStatus::elsewhere;
    JpegReader reader(task.bytes);
    reader.strict = true;
    if (!jpeg_open_step(reader)) return failed(reader);
    const jpeg_decompress_struct& info = reader.info;
    if (info.image_width != static_cast<JDIMENSION>(task.expected_width) ||
        info.image_height != static_cast<JDIMENSION>(task.expected_height)) {
      return CropStatus::other_size;
    }
    if (!is_plain(info)) return CropStatus::elsewhere;
    reader.info.out_color_space = JCS_RGB;
    const bool reduced = options_.reduced && may_reduce(task.window, options_.side);
    reader.info.scale_num = 1;
    reader.info.scale_denom = reduced ? reduction_of(task, options_.side) : 1;
    if (!jpeg_start_step(reader)) return failed(reader);
    if (has_missing_scans(info)) return CropStatus::elsewhere;
    const Source source = reduced ? box_of(task, info.output_width, info.output_height) : cut_of(task.window);
    if (!(source.x.from < source.x.to && source.y.from < source.y.to)) return CropStatus::elsewhere;
    make_resize_taps(source.x.length, source.x.from, source.x.to, options_.side, across_);
    make_resize_taps(source.y.length, source.y.from, source.y.to, options_.side, down_);
    if (!(is_first_down(source) ? down_then_across(reader, source, task.out) : across_then_down(reader, source, task.out))) {
      return failed(reader);
    }
    // What lies behind the window is not decoded, but a file that was cut off is not taken.
    const bool ended = info.output_scanline < info.output_height ? jpeg_has_end(reader) : jpeg_finish_step(reader);
    return ended ? CropStatus::done : CropStatus::damaged;
  }

 private:
  static CropStatus failed(const JpegReader& reader) {
    if (reader.out_of_memory) throw std::bad_alloc();
    const bool elsewhere = reader.failure == ImageStatus::unsupported || reader.failure == ImageStatus::too_large;
    return elsewhere ? CropStatus::elsewhere : CropStatus::damaged;
  }

  static bool is_plain(const jpeg_decompress_struct& info) {
    const bool grey = info.jpeg_color_space == JCS_GRAYSCALE && info.num_components == 1;
    const bool colour = (info.jpeg_color_space == JCS_YCbCr || info.jpeg_color_space == JCS_RGB) && info.num_components == 3;
    return (grey || colour) && info.data_precision == 8 && !info.arith_code;
  }

  /// Whether low frequencies are not known to the last bit: libjpeg then smooths, each release in its own way.
  static bool has_missing_scans(const jpeg_decompress_struct& info) {
    if (!info.progressive_mode || info.coef_bits == nullptr) return false;
    for (int component = 0; component < info.num_components; ++component) {
      const int* const bits = info.coef_bits[component];
      if (std::any_of(bits, bits + 10, [](int missing) { return missing != 0; })) return true;
    }
    return false;
  }

  /// Pillow's rule: where the height shrinks by more than twice as many pixels as the width.
  bool is_first_down(const Source& source) const {
    const std::int64_t side = options_.side;
    const std::int64_t narrower = std::max<std::int64_t>(0, source.x.length - side);
    return options_.tall_first_down && source.y.length - side > 2 * narrower;
  }

  /// Lines of the decoded picture up to a row, thrown away.
  bool skip(JpegReader& reader, std::uint32_t end, std::uint8_t* line) {
    const std::array<std::uint8_t*, kBlock> lines = {line, line, line, line};
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
    const std::size_t origin = std::size_t{3} * source.x.origin;
    const std::size_t line_bytes = padded_row(reader.info.output_width, across_);
    lines_.resize(kBlock * line_bytes);
    rows_.reset(out_bytes + kRowPadding, 2 * std::size_t{down_.pairs} + kBlock);
    std::array<std::uint8_t*, kBlock> lines, results;
    std::array<const std::uint8_t*, kBlock> cut;
    for (std::size_t i = 0; i < kBlock; ++i) {
      lines[i] = lines_.data() + i * line_bytes;
      cut[i] = lines[i] + origin;
    }
    if (!skip(reader, source.y.origin + down_.begin, lines_.data())) return false;
    std::uint32_t place = 0;
    for (std::uint32_t row = down_.begin; row < down_.end; row += kBlock) {
      const std::uint32_t count = std::min(kBlock, down_.end - row);
      if (!jpeg_lines_step(reader, lines.data(), count)) return false;
      for (std::size_t i = 0; i < kBlock; ++i) results[i] = rows_.at(row + i);
      resize_across(cut.data(), across_, results.data());
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
    const std::size_t sum_bytes = padded_row(source.x.length, across_);
    rows_.reset(padded_row(reader.info.output_width, across_), 2 * std::size_t{down_.pairs} + kBlock);
    lines_.resize(kBlock * (sum_bytes + out_bytes + kRowPadding));
    std::array<std::uint8_t*, kBlock> lines, sums, results;
    for (std::size_t i = 0; i < kBlock; ++i) {
      sums[i] = lines_.data() + i * sum_bytes;
      results[i] = lines_.data() + kBlock * sum_bytes + i * (out_bytes + kRowPadding);
    }
    if (!skip(reader, source.y.origin + down_.begin, rows_.at(0))) return false;
    std::uint32_t place = 0;
    for (std::uint32_t row = down_.begin; row < down_.end; row += kBlock) {
      const std::uint32_t count = std::min(kBlock, down_.end - row);
      for (std::size_t i = 0; i < kBlock; ++i) lines[i] = rows_.at(row + i);
      if (!jpeg_lines_step(reader, lines.data(), count)) return false;
      for (; place < options_.side && down_.last[place] <= row + count; ++place) {
        resize_down(rows_of(place, origin), down_, place, cut_bytes, sums[place % kBlock]);
        const std::uint32_t ready = place % kBlock + 1;
        if (ready < kBlock && place + 1 < options_.side) continue;
        resize_across(sums.data(), across_, results.data());
        for (std::uint32_t i = 0; i < ready; ++i) std::memcpy(out + (place + 1 - ready + i) * out_bytes, results[i], out_bytes);
      }
    }
    return true;
  }

  CropOptions options_;
  ResizeTaps across_, down_;
  RecentRows rows_;
  std::vector<std::uint8_t> lines_;
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

}  // namespace dcfast
