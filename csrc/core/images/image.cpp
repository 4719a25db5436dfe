#include "core/images/image.hpp"

#include <algorithm>
#include <memory>
#include <string_view>

#include "core/hashing/hashing.hpp"
#include "core/images/image_decoders.hpp"
#include "core/images/perceptual_hash.hpp"

namespace dcfast {
namespace {

/// How the files of a format begin; '?' stands for any byte.
struct Magic {
  ImageFormat format;
  std::string_view bytes;
};
constexpr std::size_t kLongestMagic = 12;
constexpr Magic kMagics[] = {
    {ImageFormat::jpeg, "\xFF\xD8\xFF"}, {ImageFormat::png, "\x89PNG\r\n\x1A\n"}, {ImageFormat::webp, "RIFF????WEBP"},
    {ImageFormat::gif, "GIF8"},         {ImageFormat::bmp, "BM"},                   {ImageFormat::tiff, {"II*\0", 4}},
    {ImageFormat::tiff, {"MM\0*", 4}},
};

/// As far as there are bytes.
bool begins_like(std::span<const std::byte> bytes, const Magic& magic) noexcept {
  const std::size_t count = std::min(bytes.size(), magic.bytes.size());
  for (std::size_t i = 0; i < count; ++i) {
    if (magic.bytes[i] != '?' && magic.bytes[i] != static_cast<char>(bytes[i])) return false;
  }
  return count > 0;
}

/// A member too large to be held: its hash alone.
ImageSignature oversized_signature(const File& file, std::uint64_t offset, std::uint64_t size, const Poll& poll) {
  std::byte start[kLongestMagic];
  file.pread_all(start, offset);
  ImageSignature signature;
  signature.format = image_format(start);
  signature.status = ImageStatus::too_large;
  signature.content = hash_range(file, offset, size, poll);
  return signature;
}

}  // namespace

ImageFormat image_format(std::span<const std::byte> bytes) noexcept {
  for (const Magic& magic : kMagics) {
    if (bytes.size() >= magic.bytes.size() && begins_like(bytes, magic)) return magic.format;
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
      const bool cut = std::ranges::any_of(kMagics, [&](const Magic& magic) {
        return bytes.size() < magic.bytes.size() && begins_like(bytes, magic);
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
  PerceptualHash hash;
  WideHash wide;
  if (image.status == ImageStatus::ok) {
    const CellSums cells = cell_sums(image.grey, image.grey_width, image.grey_height);
    hash = perceptual_hash(cells);
    if (options.wide) wide = wide_hash(cells);
  }
  return {image.status, image.format, image.width, image.height, xxh3_128(bytes), hash.bits, hash.flat, wide};
}

std::vector<ImageSignature> member_signatures(const std::string& path, std::span<const std::uint64_t> offsets,
                                                std::span<const std::uint64_t> sizes, ImageOptions options,
                                                unsigned threads, const Poll& poll) {
  if (offsets.size() != sizes.size()) {
    refuse_argument("offsets and sizes must have one length; got ", offsets.size(), " and ", sizes.size());
  }
  const File file = File::open_read(path);
  const std::uint64_t file_size = file.size();
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (offsets[i] > file_size || sizes[i] > file_size - offsets[i]) {
      throw Error(Code::corrupt_data, cat("member ", i, " (", sizes[i], " bytes) reaches beyond the end of the file (", file_size,
                  " bytes): the file has changed since it was indexed, index it again"), path, offsets[i]);
    }
  }
  std::vector<ImageSignature> signatures(offsets.size());
  parallel_for(offsets.size(), threads, [&](std::size_t i, const Poll& check) {
    if (sizes[i] > kMaxMemberBytes) {
      signatures[i] = oversized_signature(file, offsets[i], sizes[i], check);
      return;
    }
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(sizes[i]);
    file.pread_all({buffer.get(), sizes[i]}, offsets[i]);
    signatures[i] = image_signature({buffer.get(), sizes[i]}, options);
  }, poll);
  return signatures;
}

}  // namespace dcfast
