#include "core/images/image.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <memory>

#include "core/images/image_decoders.hpp"
#include "core/images/perceptual_hash.hpp"
#include "core/system/error.hpp"
#include "core/system/file.hpp"

namespace dcfast {
namespace {

constexpr std::size_t kHashPiece = std::size_t{1} << 20;

Uid as_uid(const XXH128_hash_t& hash) { return {hash.high64, hash.low64}; }

/// A member too large to be held: its hash alone.
ImageSignature oversized_signature(const File& file, std::uint64_t offset, std::uint64_t size) {
  const auto piece = std::make_unique_for_overwrite<std::byte[]>(kHashPiece);
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  ImageSignature signature;
  for (std::uint64_t done = 0; done < size;) {
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(kHashPiece, size - done));
    const std::span<std::byte> part(piece.get(), length);
    file.pread_all(part, offset + done);
    if (done == 0) signature.format = image_format(part);
    XXH3_128bits_update(&state, part.data(), part.size());
    done += part.size();
  }
  signature.status = ImageStatus::too_large;
  signature.content = as_uid(XXH3_128bits_digest(&state));
  return signature;
}

struct Magic {
  ImageFormat format;
  std::size_t size;
  std::array<unsigned char, 12> bytes;
  std::array<unsigned char, 12> mask;  // 0 where any byte will do
};
constexpr unsigned char kAll = 0xFF;
constexpr std::array<Magic, 7> kMagics = {{
    {ImageFormat::jpeg, 3, {0xFF, 0xD8, 0xFF}, {kAll, kAll, kAll}},
    {ImageFormat::png, 8, {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'},
     {kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}},
    {ImageFormat::webp, 12, {'R', 'I', 'F', 'F', 0, 0, 0, 0, 'W', 'E', 'B', 'P'},
     {kAll, kAll, kAll, kAll, 0, 0, 0, 0, kAll, kAll, kAll, kAll}},
    {ImageFormat::gif, 4, {'G', 'I', 'F', '8'}, {kAll, kAll, kAll, kAll}},
    {ImageFormat::bmp, 2, {'B', 'M'}, {kAll, kAll}},
    {ImageFormat::tiff, 4, {'I', 'I', 42, 0}, {kAll, kAll, kAll, kAll}},
    {ImageFormat::tiff, 4, {'M', 'M', 0, 42}, {kAll, kAll, kAll, kAll}},
}};

bool begins_like(std::span<const std::byte> bytes, const Magic& magic) noexcept {
  const std::size_t count = std::min(bytes.size(), magic.size);
  for (std::size_t i = 0; i < count; ++i) {
    if (((static_cast<unsigned char>(bytes[i]) ^ magic.bytes[i]) & magic.mask[i]) != 0) return false;
  }
  return count > 0;
}

}  // namespace

const char* image_status_name(ImageStatus status) noexcept {
  static constexpr std::array<const char*, kNumImageStatuses> names = {"ok",        "empty",  "unsupported",
                                                                         "truncated", "broken", "too_large"};
  const auto index = static_cast<std::size_t>(status);
  return index < names.size() ? names[index] : "?";
}

const char* image_format_name(ImageFormat format) noexcept {
  static constexpr std::array<const char*, kNumImageFormats> names = {"unknown", "jpeg", "png", "webp",
                                                                        "gif",     "bmp",  "tiff"};
  const auto index = static_cast<std::size_t>(format);
  return index < names.size() ? names[index] : "?";
}

ImageFormat image_format(std::span<const std::byte> bytes) noexcept {
  for (const Magic& magic : kMagics) {
    if (bytes.size() >= magic.size && begins_like(bytes, magic)) return magic.format;
  }
  return ImageFormat::unknown;
}

GreyImage decode_grey(std::span<const std::byte> bytes, ImageOptions options) {
  GreyImage image;
  if (bytes.empty()) return image;
  image.format = image_format(bytes);
  switch (image.format) {
    case ImageFormat::jpeg:
      decode_jpeg(bytes, options, image);
      break;
    case ImageFormat::png:
      decode_png(bytes, image);
      break;
    case ImageFormat::webp:
      decode_webp(bytes, image);
      break;
    default: {
      // fewer bytes than the mark of a format, and so far they agree with it: cut off
      const bool cut = std::any_of(kMagics.begin(), kMagics.end(), [&](const Magic& magic) {
        return bytes.size() < magic.size && begins_like(bytes, magic);
      });
      image.status = cut ? ImageStatus::truncated : ImageStatus::unsupported;
    }
  }
  if (image.status != ImageStatus::ok) {
    image.grey_width = image.grey_height = 0;
    std::vector<std::uint8_t>().swap(image.grey);
  }
  return image;
}

ImageSignature image_signature(std::span<const std::byte> bytes, ImageOptions options) {
  const GreyImage image = decode_grey(bytes, options);
  ImageSignature signature;
  signature.status = image.status;
  signature.format = image.format;
  signature.width = image.width;
  signature.height = image.height;
  signature.content = as_uid(XXH3_128bits(bytes.data(), bytes.size()));
  if (image.status == ImageStatus::ok) {
    const PerceptualHash hash = perceptual_hash(image.grey, image.grey_width, image.grey_height);
    signature.phash = hash.bits;
    signature.flat = hash.flat;
  }
  return signature;
}

std::vector<ImageSignature> member_signatures(const std::string& path, std::span<const std::uint64_t> offsets,
                                                std::span<const std::uint64_t> sizes, ImageOptions options,
                                                unsigned threads, const Poll& poll) {
  if (offsets.size() != sizes.size()) {
    throw Error(Code::invalid_argument, "offsets and sizes must have one length; got " +
                                            std::to_string(offsets.size()) + " and " + std::to_string(sizes.size()));
  }
  const File file = File::open_read(path);
  const std::uint64_t file_size = file.size();
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] > file_size || sizes[i] > file_size - offsets[i]) {
      throw Error(Code::corrupt_data,
                  "member " + std::to_string(i) + " (" + std::to_string(sizes[i]) +
                      " bytes) reaches beyond the end of the file (" + std::to_string(file_size) +
                      " bytes): the file has changed since it was indexed, index it again",
                  path, offsets[i]);
    }
  }
  std::vector<ImageSignature> signatures(offsets.size());
  parallel_for(
      offsets.size(), threads,
      [&](std::size_t i) {
        if (sizes[i] > kMaxMemberBytes) {
          signatures[i] = oversized_signature(file, offsets[i], sizes[i]);
          return;
        }
        const auto size = static_cast<std::size_t>(sizes[i]);
        const auto buffer = std::make_unique_for_overwrite<std::byte[]>(size);
        file.pread_all({buffer.get(), size}, offsets[i]);
        signatures[i] = image_signature({buffer.get(), size}, options);
      },
      poll);
  return signatures;
}

}  // namespace dcfast
