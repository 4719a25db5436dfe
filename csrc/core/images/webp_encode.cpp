#include "core/images/webp_encode.hpp"

#include <webp/encode.h>

#include <algorithm>
#include <memory>
#include <new>

#include "core/system/error.hpp"

namespace dcfast {
namespace {

struct FreePicture {
  void operator()(WebPPicture* picture) const { WebPPictureFree(picture); }
};

int append(const std::uint8_t* data, std::size_t size, const WebPPicture* picture) noexcept {
  auto* const out = static_cast<std::vector<std::uint8_t>*>(picture->custom_ptr);
  try {
    out->insert(out->end(), data, data + size);
  } catch (const std::bad_alloc&) {
    return 0;
  }
  return 1;
}

}  // namespace

std::vector<std::uint8_t> encode_webp(std::span<const std::uint8_t> pixels, std::size_t height, std::size_t width,
                                      std::size_t channels, int quality) {
  const std::string size = cat(width, " x ", height, " pixels");
  if (height == 0 || width == 0 || std::max(height, width) > kMaxWebpSide) {
    refuse_argument("image of ", size, ": WebP has sides of 1 to ", kMaxWebpSide);
  }
  if ((channels != 3 && channels != 4) || pixels.size() != height * width * channels || quality < 0 || quality > 100) {
    refuse_argument("image of ", size, " with ", channels, " channels, ", pixels.size(), " bytes and quality ", quality,
                    ": expected 3 or 4 channels, as many bytes, and 0 to 100");
  }
  WebPConfig config;
  WebPPicture picture;
  if (WebPConfigPreset(&config, WEBP_PRESET_DEFAULT, static_cast<float>(quality)) == 0 || WebPPictureInit(&picture) == 0) {
    refuse_argument("libwebp of another version than dcfast was built with");
  }
  config.method = 4;
  config.segments = 1;
  config.partition_limit = 100;
  std::vector<std::uint8_t> out;
  const std::unique_ptr<WebPPicture, FreePicture> owner(&picture);
  picture.width = static_cast<int>(width);
  picture.height = static_cast<int>(height);
  picture.writer = append;
  picture.custom_ptr = &out;
  const int stride = static_cast<int>(width * channels);
  const auto import = channels == 4 ? WebPPictureImportRGBA : WebPPictureImportRGB;
  if (import(&picture, pixels.data(), stride) == 0 || WebPEncode(&config, &picture) == 0) {
    const WebPEncodingError code = picture.error_code;
    if (code == VP8_ENC_ERROR_OUT_OF_MEMORY || code == VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY || code == VP8_ENC_ERROR_BAD_WRITE) {
      throw std::bad_alloc();
    }
    refuse_argument("image of ", size, " cannot be encoded as WebP (libwebp's error ", static_cast<int>(code), ")");
  }
  return out;
}

}  // namespace dcfast
