#include <cstddef>

#include "bindings/boundary.hpp"
#include "core/images/image.hpp"
#include "core/images/perceptual_hash.hpp"

namespace dcfast::bindings {
namespace {

py::dict as_arrays(const std::vector<ImageSignature>& signatures) {
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
  py::dict out;
  out["status"] = own(std::move(status));
  out["format"] = own(std::move(format));
  out["width"] = own(std::move(width));
  out["height"] = own(std::move(height));
  out["content_hash"] = own(std::move(content));
  out["phash"] = own(std::move(phash));
  out["flat"] = own(std::move(flat)).attr("view")(py::dtype::of<bool>());
  return out;
}

std::span<const std::byte> view_of(const py::bytes& bytes) {
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr()));
  return {reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(bytes.ptr())), size};
}

py::dict image_signatures(const std::string& path, const py::array& offsets, const py::array& sizes,
                            unsigned threads, bool full) {
  const auto begin = borrow<std::uint64_t>(offsets, "offsets");
  const auto size = borrow<std::uint64_t>(sizes, "sizes");
  return as_arrays(enter_core([&](const Poll& poll) {
    return member_signatures(path, begin, size, {.full = full}, threads, poll);
  }));
}

// `images` holds the bytes objects alive, and bytes objects do not change.
py::dict image_signatures_of(const std::vector<py::bytes>& images, unsigned threads, bool full) {
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

std::span<const std::uint8_t> borrow_grey(const py::array& grey) {
  if (!grey.dtype().equal(py::dtype::of<std::uint8_t>()) || grey.ndim() != 2) {
    throw py::type_error("grey must be a two-dimensional uint8 array (height, width); got " +
                         std::string(py::str(grey.dtype())) + " of shape " + std::string(py::str(grey.attr("shape"))));
  }
  if ((grey.flags() & py::array::c_style) == 0) {
    throw py::value_error("grey must be contiguous; pass numpy.ascontiguousarray(grey)");
  }
  return {static_cast<const std::uint8_t*>(grey.data()), static_cast<std::size_t>(grey.size())};
}

py::tuple phash_grey(const py::array& grey) {
  const auto view = borrow_grey(grey);
  constexpr py::ssize_t limit = 0xFFFFFFFF;
  if (grey.shape(0) > limit || grey.shape(1) > limit) throw py::value_error("grey must have sides below 2^32");
  const auto height = static_cast<std::uint32_t>(grey.shape(0));
  const auto width = static_cast<std::uint32_t>(grey.shape(1));
  const PerceptualHash hash = enter_core([&](const Poll&) { return perceptual_hash(view, width, height); });
  return py::make_tuple(hash.bits, hash.flat);
}

/// (status, grey array); the array is 0 x 0 unless the status is ok. For tests and for looking at what is hashed.
py::tuple decode_grey_array(const py::bytes& image, bool full) {
  const auto view = view_of(image);
  GreyImage decoded = enter_core([&](const Poll&) { return decode_grey(view, {.full = full}); });
  const auto height = static_cast<py::ssize_t>(decoded.grey_height);
  const auto width = static_cast<py::ssize_t>(decoded.grey_width);
  return py::make_tuple(static_cast<int>(decoded.status), own(std::move(decoded.grey)).attr("reshape")(height, width));
}

}  // namespace

void bind_image(py::module_& m) {
  py::list statuses;
  for (std::size_t i = 0; i < kNumImageStatuses; ++i) {
    statuses.append(image_status_name(static_cast<ImageStatus>(i)));
  }
  py::list formats;
  for (std::size_t i = 0; i < kNumImageFormats; ++i) {
    formats.append(image_format_name(static_cast<ImageFormat>(i)));
  }
  m.attr("picture_statuses") = py::tuple(statuses);
  m.attr("picture_formats") = py::tuple(formats);
  m.attr("max_picture_pixels") = kMaxPixels;
  m.attr("max_picture_bytes") = kMaxMemberBytes;
  m.def("picture_signatures", &image_signatures, py::arg("path"), py::arg("offsets"), py::arg("sizes"),
        py::arg("threads"), py::arg("full"));
  m.def("picture_signatures_of", &image_signatures_of, py::arg("pictures"), py::arg("threads"), py::arg("full"));
  m.def("phash_grey", &phash_grey, py::arg("grey"));
  m.def("decode_grey", &decode_grey_array, py::arg("picture"), py::arg("full"));
}

}  // namespace dcfast::bindings
