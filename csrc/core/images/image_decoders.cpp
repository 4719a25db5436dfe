#include "core/images/image_decoders.hpp"

#include <png.h>
#include <webp/decode.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <new>

#include "core/images/jpeg_reader.hpp"

namespace dcfast {
namespace {

// libpng keeps two rows, whatever the image's height.
constexpr std::size_t kMaxPngRowBytes = std::size_t{64} << 20;

std::uint32_t load_le32(const unsigned char* at) {
  std::uint32_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

std::uint32_t load_be32(const unsigned char* at) { return __builtin_bswap32(load_le32(at)); }

// BT.601 in 16-bit fixed point, rounded: the three weights add up to 65536.
std::uint8_t luma(unsigned red, unsigned green, unsigned blue) {
  return static_cast<std::uint8_t>((red * 19595U + green * 38470U + blue * 7471U + 32768U) >> 16);
}

/// Whether a PNG has more than kMaxParts chunks.
bool too_many_chunks(std::span<const unsigned char> data) {
  std::size_t at = 8;
  for (std::size_t parts = 0; parts <= kMaxParts; ++parts) {
    if (data.size() < at + 12 || std::memcmp(&data[at + 4], "IEND", 4) == 0) return false;
    const std::size_t length = load_be32(&data[at]);
    if (length > data.size() - at - 12) return false;
    at += 12 + length;
  }
  return true;
}

// ---- JPEG

/// The colours and the smallest scale that the options allow; false where the colours are none that are read.
bool choose_grey(JpegReader& reader, ImageOptions options) {
  jpeg_decompress_struct& info = reader.info;
  switch (info.jpeg_color_space) {
    case JCS_GRAYSCALE:
    case JCS_YCbCr:
    case JCS_RGB:
      info.out_color_space = JCS_GRAYSCALE;  // of YCbCr only Y is transformed back
      break;
    case JCS_CMYK:
    case JCS_YCCK:
      info.out_color_space = JCS_CMYK;
      break;
    default:
      reader.failure = ImageStatus::unsupported;
      return false;
  }
  const JDIMENSION side = std::min(info.image_width, info.image_height);
  info.scale_denom = 8;
  info.scale_num = 8;
  while (!options.full && info.scale_num > 1 && (side * (info.scale_num / 2) + 7) / 8 >= kMinSide) info.scale_num /= 2;
  return true;
}

/// All rows to grey levels.
bool grey_rows(JpegReader& reader, std::uint8_t* out) {
  const std::size_t width = reader.info.output_width;
  const bool inks = reader.info.out_color_space == JCS_CMYK;
  std::vector<std::uint8_t> row(inks ? width * 4 : 0);
  for (std::uint8_t* line = out; line != out + width * reader.info.output_height; line += width) {
    std::uint8_t* const to = inks ? row.data() : line;
    if (!jpeg_lines_step(reader, &to, 1)) return false;
    // Four-ink files hold 255 minus the amount of ink, as Adobe writes them and all readers assume.
    for (std::size_t x = 0; inks && x < width; ++x) {
      const std::uint8_t* ink = &row[4 * x];
      const unsigned key = ink[3];
      line[x] = luma((ink[0] * key + 127) / 255, (ink[1] * key + 127) / 255, (ink[2] * key + 127) / 255);
    }
  }
  return jpeg_finish_step(reader);
}

}  // namespace

void decode_jpeg(std::span<const std::byte> bytes, ImageOptions options, GreyImage& image) {
  JpegReader reader(bytes);
  bool good = jpeg_open_step(reader);
  image.width = reader.info.image_width;
  image.height = reader.info.image_height;
  good = good && choose_grey(reader, options) && jpeg_start_step(reader);
  if (good) {
    image.grey_width = reader.info.output_width;
    image.grey_height = reader.info.output_height;
    image.grey.resize(static_cast<std::size_t>(image.grey_width) * image.grey_height);
    good = grey_rows(reader, image.grey.data());
  }
  if (reader.out_of_memory) throw std::bad_alloc();
  image.status = good ? ImageStatus::ok : reader.failure;
}

namespace {

// ---- PNG, by the same rules.

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf escape{};
  const unsigned char* data = nullptr;
  std::size_t size = 0;
  std::size_t at = 0;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::size_t channels = 0;
  int passes = 1;
  ImageStatus failure = ImageStatus::broken;

  PngReader& operator=(PngReader&&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void png_leave(PngReader& reader, ImageStatus status) {
  reader.failure = status;
  std::longjmp(reader.escape, 1);
}

[[noreturn]] void png_on_error(png_structp png, png_const_charp) {
  png_leave(*static_cast<PngReader*>(png_get_error_ptr(png)), ImageStatus::broken);
}

void png_on_warning(png_structp, png_const_charp) {}

void png_on_read(png_structp png, png_bytep out, std::size_t count) {
  PngReader& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
  if (count > reader.size - reader.at) png_leave(reader, ImageStatus::truncated);
  std::memcpy(out, reader.data + reader.at, count);
  reader.at += count;
}

bool png_header_step(PngReader& reader) {
  if (setjmp(reader.escape) != 0) return false;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, png_on_error, png_on_warning);
  if (reader.png == nullptr) return false;
  reader.info = png_create_info_struct(reader.png);
  if (reader.info == nullptr) return false;
  png_set_read_fn(reader.png, &reader, png_on_read);
  png_set_user_limits(reader.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // our own bound is on the product
  // Colour profiles and texts do not change the grey levels; their errors must not cost the image.
  png_set_keep_unknown_chunks(reader.png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_read_info(reader.png, reader.info);
  reader.width = png_get_image_width(reader.png, reader.info);
  reader.height = png_get_image_height(reader.png, reader.info);
  if (!within_pixel_bound(reader.width, reader.height) || reader.width > kMaxPngRowBytes / 8) {
    reader.failure = ImageStatus::too_large;
    return false;
  }
  png_set_strip_16(reader.png);
  png_set_expand(reader.png);  // palette to RGB, less than 8 bits to 8
  png_set_strip_alpha(reader.png);
  reader.passes = png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  reader.channels = png_get_channels(reader.png, reader.info);
  return reader.channels == 1 || reader.channels == 3;
}

/// After the rows: reads up to the end chunk. What is wrong here does not touch the pixels, unless the file is cut.
bool png_end_step(PngReader& reader) {
  if (setjmp(reader.escape) != 0) return reader.failure != ImageStatus::truncated;
  png_read_end(reader.png, nullptr);
  return true;
}

/// Reads all rows. `pixels` holds the whole image if it is interlaced, else one row; width * channels a row.
bool png_rows_step(PngReader& reader, std::uint8_t* pixels, std::uint8_t* grey) {
  if (setjmp(reader.escape) != 0) return false;
  const std::size_t stride = reader.width * reader.channels;
  for (int pass = 0; pass < reader.passes; ++pass) {
    for (std::size_t y = 0; y < reader.height; ++y) {
      std::uint8_t* row = reader.passes > 1 ? pixels + y * stride : pixels;
      png_read_row(reader.png, row, nullptr);
      if (pass + 1 < reader.passes) continue;
      std::uint8_t* line = grey + y * reader.width;
      if (reader.channels == 1) {
        std::memcpy(line, row, reader.width);
      } else {
        for (std::size_t x = 0; x < reader.width; ++x) line[x] = luma(row[3 * x], row[3 * x + 1], row[3 * x + 2]);
      }
    }
  }
  return true;
}

}  // namespace

void decode_png(std::span<const std::byte> bytes, GreyImage& image) {
  PngReader reader;
  reader.data = reinterpret_cast<const unsigned char*>(bytes.data());
  reader.size = bytes.size();
  bool good = !too_many_chunks({reader.data, reader.size}) && png_header_step(reader);
  image.width = reader.width;
  image.height = reader.height;
  if (good) {
    image.grey_width = reader.width;
    image.grey_height = reader.height;
    image.grey.resize(static_cast<std::size_t>(reader.width) * reader.height);
    std::vector<std::uint8_t> pixels(reader.width * reader.channels * (reader.passes > 1 ? reader.height : 1));
    good = png_rows_step(reader, pixels.data(), image.grey.data()) && png_end_step(reader);
  }
  image.status = good ? ImageStatus::ok : reader.failure;
}

// ---- WebP

namespace {

/// Decodes to three bytes a pixel in `image.grey`; width and height are known where the header could be read.
ImageStatus webp_pixels(std::span<const std::byte> bytes, GreyImage& image) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  // as its RIFF header says
  const bool cut = bytes.size() < 12 || load_le32(data + 4) + std::uint64_t{8} > bytes.size();
  const auto failed = [&](VP8StatusCode code) {
    if (code == VP8_STATUS_OUT_OF_MEMORY) throw std::bad_alloc();
    // libwebp also says "not enough data" of corrupt codes; only the length tells a cut file
    if (cut) return ImageStatus::truncated;
    return code == VP8_STATUS_UNSUPPORTED_FEATURE ? ImageStatus::unsupported : ImageStatus::broken;
  };
  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0) return ImageStatus::unsupported;  // the library is older than its header
  if (const auto code = WebPGetFeatures(data, bytes.size(), &config.input); code != VP8_STATUS_OK) return failed(code);
  image.width = static_cast<std::uint32_t>(config.input.width);
  image.height = static_cast<std::uint32_t>(config.input.height);
  if (config.input.has_animation != 0) return ImageStatus::unsupported;
  if (!within_pixel_bound(image.width, image.height)) return ImageStatus::too_large;
  if (cut) return ImageStatus::truncated;
  image.grey.resize(std::size_t{3} * image.width * image.height);
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = image.grey.data();
  config.output.u.RGBA.stride = static_cast<int>(image.width * 3);
  config.output.u.RGBA.size = image.grey.size();
  const VP8StatusCode code = WebPDecode(data, bytes.size(), &config);
  WebPFreeDecBuffer(&config.output);
  return code == VP8_STATUS_OK ? ImageStatus::ok : failed(code);
}

}  // namespace

void decode_webp(std::span<const std::byte> bytes, GreyImage& image) {
  image.status = webp_pixels(bytes, image);
  if (image.status != ImageStatus::ok) return;
  std::vector<std::uint8_t>& levels = image.grey;
  const std::size_t pixels = levels.size() / 3;
  for (std::size_t i = 0; i < pixels; ++i) levels[i] = luma(levels[3 * i], levels[3 * i + 1], levels[3 * i + 2]);
  levels.resize(pixels);
  image.grey_width = image.width;
  image.grey_height = image.height;
}

}  // namespace dcfast
