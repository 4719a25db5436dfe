// dcfast._core.images. dcfast.images is the public face.
#include <cstddef>

#include "bindings/boundary.hpp"
#include "core/images/blur.hpp"
#include "core/images/image.hpp"
#include "core/images/image_header.hpp"
#include "core/images/perceptual_hash.hpp"
#include "core/images/webp_encode.hpp"

namespace dcfast::bindings {
namespace {

/// status, format, width, height, content hash, perceptual hash and flatness of each image
using SignatureArrays = std::tuple<Array<std::uint8_t>, Array<std::uint8_t>, Array<std::uint32_t>, Array<std::uint32_t>, Array<Uid>,
                                   Array<std::uint64_t>, Array<bool>>;

SignatureArrays as_arrays(const std::vector<ImageSignature>& signatures) {
  const std::size_t n = signatures.size();
  std::vector<std::uint8_t> status(n);
  std::vector<std::uint8_t> format(n);
  std::vector<std::uint32_t> width(n);
  std::vector<std::uint32_t> height(n);
  std::vector<Uid> content(n);
  std::vector<std::uint64_t> phash(n);
  std::vector<std::uint8_t> flat(n);
  for (std::size_t i = 0; i < n; ++i) {
    const ImageSignature& signature = signatures[i];
    status[i] = static_cast<std::uint8_t>(signature.status);
    format[i] = static_cast<std::uint8_t>(signature.format);
    width[i] = signature.width;
    height[i] = signature.height;
    content[i] = signature.content;
    phash[i] = signature.phash;
    flat[i] = signature.flat ? 1 : 0;
  }
  return {own(std::move(status)),  own(std::move(format)), own(std::move(width)), own(std::move(height)),
          own(std::move(content)), own(std::move(phash)),  Array<bool>(own(std::move(flat)).attr("view")(py::dtype::of<bool>()))};
}

std::span<const std::byte> view_of(const py::bytes& bytes) {
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr()));
  return {reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(bytes.ptr())), size};
}

SignatureArrays image_signatures(const RawText& path, const Array<std::uint64_t>& offsets, const Array<std::uint64_t>& sizes,
                                 unsigned threads, bool full) {
  const auto begin = borrow(offsets, "offsets");
  const auto size = borrow(sizes, "sizes");
  return as_arrays(enter_core([&](const Poll& poll) {
    return member_signatures(path, begin, size, {.full = full}, threads, poll);
  }));
}

// `images` holds the bytes objects alive, and bytes objects do not change.
SignatureArrays image_signatures_of(const std::vector<py::bytes>& images, unsigned threads, bool full) {
  std::vector<std::span<const std::byte>> views;
  views.reserve(images.size());
  for (const py::bytes& image : images) {
    views.push_back(view_of(image));
  }
  return as_arrays(enter_core([&](const Poll& poll) {
    std::vector<ImageSignature> signatures(views.size());
    parallel_for(
        views.size(), threads, [&](std::size_t i) { signatures[i] = image_signature(views[i], {.full = full}); },
        poll);
    return signatures;
  }));
}

std::span<const std::uint8_t> borrow_grey(const Array<std::uint8_t>& grey) {
  if (!grey.dtype().equal(py::dtype::of<std::uint8_t>()) || grey.ndim() != 2) {
    throw py::type_error("grey must be a two-dimensional uint8 array (height, width); got " +
                         std::string(py::str(grey.dtype())) + " of shape " + std::string(py::str(grey.attr("shape"))));
  }
  if ((grey.flags() & py::array::c_style) == 0) {
    throw py::value_error("grey must be contiguous; pass numpy.ascontiguousarray(grey)");
  }
  return {static_cast<const std::uint8_t*>(grey.data()), static_cast<std::size_t>(grey.size())};
}

std::tuple<std::uint64_t, bool> phash_grey(const Array<std::uint8_t>& grey) {
  const auto view = borrow_grey(grey);
  constexpr py::ssize_t limit = 0xFFFFFFFF;
  if (grey.shape(0) > limit || grey.shape(1) > limit) throw py::value_error("grey must have sides below 2^32");
  const auto height = static_cast<std::uint32_t>(grey.shape(0));
  const auto width = static_cast<std::uint32_t>(grey.shape(1));
  const PerceptualHash hash = enter_core([&](const Poll&) { return perceptual_hash(view, width, height); });
  return {hash.bits, hash.flat};
}

/// (status, grey array); the array is 0 x 0 unless the status is ok. For tests and for looking at what is hashed.
std::tuple<int, Array<std::uint8_t>> decode_grey_array(const py::bytes& image, bool full) {
  const auto view = view_of(image);
  GreyImage decoded = enter_core([&](const Poll&) { return decode_grey(view, {.full = full}); });
  const auto height = static_cast<py::ssize_t>(decoded.grey_height);
  const auto width = static_cast<py::ssize_t>(decoded.grey_width);
  return {static_cast<int>(decoded.status), Array<std::uint8_t>(own(std::move(decoded.grey)).attr("reshape")(height, width))};
}

/// One after another, as `pixels` are; none where nothing is blurred.
Array<std::uint8_t> blurred_boxes(const Array<std::uint8_t>& pixels, std::size_t height, std::size_t width, std::size_t channels,
                                  const Array<double>& boxes) {
  const auto view = borrow(pixels, "pixels");
  const auto corners = borrow(boxes, "boxes");
  if (corners.size() % 4 != 0) throw py::value_error("boxes must hold four numbers each; got " + std::to_string(corners.size()));
  std::vector<BlurBox> made;
  made.reserve(corners.size() / 4);
  for (std::size_t i = 0; i < corners.size(); i += 4) {
    made.push_back({corners[i], corners[i + 1], corners[i + 2], corners[i + 3]});
  }
  return own(enter_core([&](const Poll& poll) { return blur_boxes(view, height, width, channels, made, poll); }));
}

py::bytes webp_of(const Array<std::uint8_t>& pixels, std::size_t height, std::size_t width, std::size_t channels, int quality) {
  const auto view = borrow(pixels, "pixels");
  const auto made = enter_core([&](const Poll&) { return encode_webp(view, height, width, channels, quality); });
  return {reinterpret_cast<const char*>(made.data()), made.size()};
}

/// (width, height) by the header; 0 where it does not say.
std::tuple<std::uint32_t, std::uint32_t> image_size(const py::bytes& data) {
  const ImageSize size = read_image_size(view_of(data));
  return {size.width, size.height};
}

std::vector<std::string> status_names() {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kNumImageStatuses; ++i) names.emplace_back(image_status_name(static_cast<ImageStatus>(i)));
  return names;
}

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kNumImageFormats; ++i) names.emplace_back(image_format_name(static_cast<ImageFormat>(i)));
  return names;
}

}  // namespace

void bind_images(py::module_& m) {
  m.attr("max_image_pixels") = kMaxPixels;
  m.attr("max_image_bytes") = kMaxMemberBytes;
  m.attr("max_image_parts") = kMaxParts;
  m.def("max_scans", &max_scans, py::arg("pixels"), "The scans that a JPEG of this many pixels may have.");
  m.def("status_names", &status_names, "Names of the numbers in `status`.");
  m.def("format_names", &format_names, "Names of the numbers in `format`.");
  m.def("image_signatures", &image_signatures, py::arg("path"), py::arg("offsets"), py::arg("sizes"), py::arg("threads"),
        py::arg("full"), "(status, format, width, height, content hash, phash, flat) of members of a file.");
  m.def("image_signatures_of", &image_signatures_of, py::arg("images"), py::arg("threads"), py::arg("full"),
        "(status, format, width, height, content hash, phash, flat) of encoded images.");
  m.def("phash_grey", &phash_grey, py::arg("grey"), "(perceptual hash, flat) of grey levels.");
  m.def("decode_grey", &decode_grey_array, py::arg("image"), py::arg("full"), "(status, grey levels).");
  m.attr("max_blur_side") = kMaxBlurSide;
  m.def("blur_boxes", &blurred_boxes, py::arg("pixels"), py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("boxes"),
        "Bytes of an image with boxes blurred, none where no box reaches over a pixel.");
  m.def("encode_webp", &webp_of, py::arg("pixels"), py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("quality"),
        "A lossy WebP of RGB or RGBA pixels.");
  m.def("image_size", &image_size, py::arg("data"), "(width, height) by the image's header, 0 where unknown.");
}

}  // namespace dcfast::bindings
