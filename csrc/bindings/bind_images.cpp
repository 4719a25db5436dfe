// dcfast._core.images. dcfast.images is the public face.
#include "bindings/boundary.hpp"
#include "core/images/blur.hpp"
#include "core/images/crop_resize.hpp"
#include "core/images/image.hpp"
#include "core/images/image_header.hpp"
#include "core/images/jpeg_reader.hpp"
#include "core/images/perceptual_hash.hpp"
#include "core/images/shrink.hpp"
#include "core/images/wide_hash.hpp"
#include "core/system/cpu.hpp"

namespace dcfast::bindings {
namespace {

/// A column of what `get` says of each row.
template <typename T, typename Row, typename Get>
Array<T> column_of(const std::vector<Row>& rows, const Get& get) {
  std::vector<std::conditional_t<std::is_same_v<T, bool>, std::uint8_t, T>> column;  // a vector of bool has no bytes
  column.reserve(rows.size());
  for (const Row& row : rows) column.push_back(static_cast<T>(std::invoke(get, row)));
  return own_as<T>(std::move(column));
}

/// status, format, width, height, content hash, perceptual hash and flatness of each image; four words of 256-bit hash and
/// quality of each, or none
using SignatureArrays = std::tuple<Array<std::uint8_t>, Array<std::uint8_t>, Array<std::uint32_t>, Array<std::uint32_t>, Array<Uid>,
                                   Array<std::uint64_t>, Array<bool>, Array<std::uint64_t>, Array<std::uint8_t>>;

SignatureArrays as_arrays(const std::vector<ImageSignature>& signatures, bool wide) {
  using Signature = ImageSignature;
  std::vector<std::uint64_t> words;
  std::vector<std::uint8_t> quality;
  if (wide) {
    words.reserve(4 * signatures.size());
    quality.reserve(signatures.size());
    for (const Signature& signature : signatures) {
      words.insert(words.end(), signature.wide.words.begin(), signature.wide.words.end());
      quality.push_back(signature.wide.quality);
    }
  }
  return {column_of<std::uint8_t>(signatures, &Signature::status), column_of<std::uint8_t>(signatures, &Signature::format),
          column_of<std::uint32_t>(signatures, &Signature::width), column_of<std::uint32_t>(signatures, &Signature::height),
          column_of<Uid>(signatures, &Signature::content),         column_of<std::uint64_t>(signatures, &Signature::phash),
          column_of<bool>(signatures, &Signature::flat),           own(std::move(words)),
          own(std::move(quality))};
}

std::span<const std::byte> view_of(const py::bytes& bytes) {
  return std::as_bytes(std::span(PyBytes_AS_STRING(bytes.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr()))));
}

SignatureArrays image_signatures(const RawText& path, const Input<std::uint64_t, "offsets">& offsets,
                                 const Input<std::uint64_t, "sizes">& sizes, unsigned threads, bool full, bool wide) {
  return as_arrays(enter_core([&](const Poll& poll) {
    return member_signatures(path, offsets.view, sizes.view, {.full = full, .wide = wide}, threads, poll);
  }), wide);
}

// `images` holds the bytes objects alive, and bytes objects do not change.
SignatureArrays image_signatures_of(const std::vector<py::bytes>& images, unsigned threads, bool full, bool wide) {
  std::vector<std::span<const std::byte>> views;
  views.reserve(images.size());
  for (const py::bytes& image : images) views.push_back(view_of(image));
  return as_arrays(enter_core([&](const Poll& poll) {
    std::vector<ImageSignature> signatures(views.size());
    const ImageOptions options{.full = full, .wide = wide};
    parallel_for(views.size(), threads, [&](std::size_t i) { signatures[i] = image_signature(views[i], options); }, poll);
    return signatures;
  }), wide);
}

std::span<const std::uint8_t> borrow_grey(const Array<std::uint8_t>& grey) {
  if (!grey.dtype().equal(py::dtype::of<std::uint8_t>()) || grey.ndim() != 2) {
    throw py::type_error(cat("grey must be a two-dimensional uint8 array (height, width); got ", std::string(py::str(grey.dtype())),
                         " of shape ", std::string(py::str(grey.attr("shape")))));
  }
  if ((grey.flags() & py::array::c_style) == 0) {
    throw py::value_error("grey must be contiguous; pass numpy.ascontiguousarray(grey)");
  }
  return {static_cast<const std::uint8_t*>(grey.data()), static_cast<std::size_t>(grey.size())};
}

CellSums cells_of(const Array<std::uint8_t>& grey) {
  const auto view = borrow_grey(grey);
  constexpr py::ssize_t limit = 0xFFFFFFFF;
  if (grey.shape(0) > limit || grey.shape(1) > limit) throw py::value_error("grey must have sides below 2^32");
  const auto height = static_cast<std::uint32_t>(grey.shape(0));
  const auto width = static_cast<std::uint32_t>(grey.shape(1));
  return enter_core([&](const Poll&) { return cell_sums(view, width, height); });
}

std::tuple<std::uint64_t, bool> phash_grey(const Array<std::uint8_t>& grey) {
  const PerceptualHash hash = perceptual_hash(cells_of(grey));
  return {hash.bits, hash.flat};
}

std::tuple<Array<std::uint64_t>, int> phash256_grey(const Array<std::uint8_t>& grey) {
  const WideHash hash = wide_hash(cells_of(grey));
  return {own(std::vector(hash.words.begin(), hash.words.end())), hash.quality};
}

/// The eight hashes of each, one after another; `words` are four a hash.
Array<std::uint64_t> hash_variants(const Input<std::uint64_t, "words">& words) {
  if (words.view.size() % 4 != 0) throw py::value_error(cat("words must be four a hash; got ", words.view.size()));
  return own(enter_core([&](const Poll&) {
    std::vector<std::uint64_t> variants;
    variants.reserve(8 * words.view.size());
    for (std::size_t i = 0; i < words.view.size(); i += 4) {
      for (const WideWords& turned : wide_variants({words.view[i], words.view[i + 1], words.view[i + 2], words.view[i + 3]})) {
        variants.insert(variants.end(), turned.begin(), turned.end());
      }
    }
    return variants;
  }));
}

/// (status, grey array); the array is 0 x 0 unless the status is ok. For tests and for looking at what is hashed.
std::tuple<int, Array<std::uint8_t>> decode_grey_array(const py::bytes& image, bool full) {
  const auto view = view_of(image);
  GreyImage decoded = enter_core([&](const Poll&) { return decode_grey(view, {.full = full}); });
  const auto height = static_cast<py::ssize_t>(decoded.grey_height);
  const auto width = static_cast<py::ssize_t>(decoded.grey_width);
  return {static_cast<int>(decoded.status), Array<std::uint8_t>(own(std::move(decoded.grey)).attr("reshape")(height, width))};
}

using Pixels = Input<std::uint8_t, "pixels">;

/// One after another, as `pixels` are; none where nothing is blurred.
Array<std::uint8_t> blurred_boxes(const Pixels& pixels, std::size_t height, std::size_t width, std::size_t channels,
                                  const Input<double, "boxes">& boxes) {
  const auto corners = boxes.view;
  if (corners.size() % 4 != 0) throw py::value_error(cat("boxes must hold four numbers each; got ", corners.size()));
  std::vector<BlurBox> blur;
  for (std::size_t i = 0; i < corners.size(); i += 4) blur.push_back({corners[i], corners[i + 1], corners[i + 2], corners[i + 3]});
  return own(enter_core([&](const Poll& poll) { return blur_boxes(pixels.view, height, width, channels, blur, poll); }));
}

/// Three bytes a pixel, one after another.
Array<std::uint8_t> shrunk(const Pixels& pixels, std::size_t height, std::size_t width, std::size_t new_height, std::size_t new_width) {
  return own(enter_core([&](const Poll&) { return shrink(pixels.view, {height, width}, {new_height, new_width}); }));
}

py::bytes webp_of(const Pixels& pixels, std::size_t height, std::size_t width, std::size_t channels, int quality) {
  return bytes_of(enter_core([&](const Poll&) { return encode_webp(pixels.view, height, width, channels, quality); }));
}

/// (width, height) by the header; 0 where it does not say.
std::tuple<std::uint32_t, std::uint32_t> image_size(const py::bytes& data) {
  const ImageSize size = read_image_size(view_of(data));
  return {size.width, size.height};
}

/// A C-contiguous array of exactly T with so many columns, or a ValueError or TypeError that names it.
template <typename T>
std::span<const T> borrow_rows(const char* name, const Array<T>& array, py::ssize_t columns) {
  if (!array.dtype().equal(py::dtype::of<T>())) {
    throw py::type_error(cat(name, " must have dtype ", std::string(py::str(py::dtype::of<T>())), "; got ", std::string(py::str(array.dtype()))));
  }
  if (array.ndim() != 2 || array.shape(1) != columns) {
    throw py::value_error(cat(name, " must have ", columns, " columns; got shape ", std::string(py::str(array.attr("shape")))));
  }
  if ((array.flags() & py::array::c_style) == 0 || reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    throw py::value_error(cat(name, " must be contiguous and aligned; pass numpy.ascontiguousarray(", name, ")"));
  }
  return {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

/// (n, side, side, 3) of pictures, to be written to.
std::uint8_t* borrow_pictures(Array<std::uint8_t>& out) {
  if (!out.dtype().equal(py::dtype::of<std::uint8_t>()) || out.ndim() != 4 || out.shape(1) != out.shape(2) || out.shape(3) != 3 ||
      out.shape(1) < 1 || out.shape(1) > 0xFFFF) {
    throw py::value_error(cat("out must be a uint8 array of shape (n, side, side, 3) with a side of 1 to 65535; got ",
                              std::string(py::str(out.dtype())), " of shape ", std::string(py::str(out.attr("shape")))));
  }
  if ((out.flags() & py::array::c_style) == 0 || !out.writeable()) throw py::value_error("out must be contiguous and writable");
  return static_cast<std::uint8_t*>(out.mutable_data());
}

using Encoded = Buffer<std::byte, "encoded">;

/// Every number of a row, checked against the others.
CropTask crop_task(std::size_t i, std::span<const std::byte> encoded, std::int64_t begin, std::int64_t size,
                   const std::int32_t* window, const std::int32_t* expected) {
  const auto length = static_cast<std::int64_t>(encoded.size());
  if (begin < 0 || size < 0 || begin > length || size > length - begin) {
    throw py::value_error(cat("picture ", i, " must lie in encoded, which has ", length, " bytes; got begin ", begin, " and size ", size));
  }
  const auto inside = [](std::int64_t from, std::int64_t count, std::int64_t whole) {
    return from >= 0 && count >= 1 && from + count <= whole;
  };
  if (!inside(window[0], window[2], expected[0]) || !inside(window[1], window[3], expected[1])) {
    throw py::value_error(cat("window ", i, " (left, top, width, height) must lie in the expected picture of ", expected[0], " x ",
                              expected[1], "; got ", window[0], ", ", window[1], ", ", window[2], ", ", window[3]));
  }
  return {encoded.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(size)),
          {window[0], window[1], window[2], window[3]}, expected[0], expected[1], nullptr};
}

/// The whole of the expected picture, of whose resampled pixels a square is made.
CropTask square_task(std::size_t i, std::span<const std::byte> encoded, std::int64_t begin, std::int64_t size,
                     const std::int32_t* target, const std::int32_t* expected, std::int64_t side) {
  const std::int32_t window[] = {0, 0, expected[0], expected[1]};
  CropTask task = crop_task(i, encoded, begin, size, window, expected);
  const auto inside = [side](std::int32_t from, std::int32_t whole) { return from >= 0 && from + side <= whole; };
  if (!inside(target[2], target[0]) || !inside(target[3], target[1])) {
    throw py::value_error(cat("target ", i, " (width, height, left, top) must hold a square of ", side, " at left and top; got ", target[0],
                              ", ", target[1], ", ", target[2], ", ", target[3]));
  }
  task.target = CropTarget{target[0], target[1], target[2], target[3]};
  return task;
}

/// Where pictures lie in `encoded`, and where in `out` they go to.
struct BatchPlaces {
  const Encoded& encoded;
  const Input<std::int64_t, "begin">& begin;
  const Input<std::int64_t, "size">& size;
  const Input<std::int64_t, "at">& at;
};

/// Pictures of a batch; `make` makes the task of picture i from its row of four numbers.
Array<std::uint8_t> batch_of(const BatchPlaces& places, const char* name, const Array<std::int32_t>& numbers,
                             const Array<std::int32_t>& expected, Array<std::uint8_t>& out, unsigned threads, CropOptions options,
                             const auto& make) {
  const auto& [encoded, begin, size, at] = places;
  check_one_length("begin, size and at must have one length", begin, size, at);
  const std::size_t count = begin.view.size();
  const auto rows = borrow_rows(name, numbers, 4);
  const auto sizes = borrow_rows("expected", expected, 2);
  if (rows.size() != 4 * count || sizes.size() != 2 * count) {
    throw py::value_error(cat(name, " and expected must have a row a picture, ", count, "; got ", rows.size() / 4, " and ", sizes.size() / 2));
  }
  if (threads == 0) throw py::value_error("threads must be 1 or more; got 0");
  std::uint8_t* const pictures = borrow_pictures(out);
  options.side = static_cast<std::uint32_t>(out.shape(1));
  std::vector<CropTask> tasks;
  tasks.reserve(count);
  std::vector<bool> taken(static_cast<std::size_t>(out.shape(0)));
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t row = at.view[i];
    if (row < 0 || row >= out.shape(0)) throw py::value_error(cat("at[", i, "] must be a row of out, 0 to ", out.shape(0) - 1, "; got ", row));
    if (taken[static_cast<std::size_t>(row)]) throw py::value_error(cat("at must name each row once; got ", row, " again at ", i));
    taken[static_cast<std::size_t>(row)] = true;
    tasks.push_back(make(i, encoded.view, begin.view[i], size.view[i], &rows[4 * i], &sizes[2 * i]));
    tasks.back().out = pictures + static_cast<std::size_t>(row) * options.side * options.side * 3;
  }
  return own_as<std::uint8_t>(enter_core([&](const Poll& poll) {
    std::vector<CropStatus> statuses(count);
    crop_resize(tasks, options, threads, statuses, poll);
    return statuses;
  }));
}

/// See dcfast.images.crops.
Array<std::uint8_t> crops_of(const Encoded& encoded, const Input<std::int64_t, "begin">& begin, const Input<std::int64_t, "size">& size,
                             const Array<std::int32_t>& windows, const Array<std::int32_t>& expected, Array<std::uint8_t> out,
                             const Input<std::int64_t, "at">& at, unsigned threads, bool reduced, bool tall_first_down) {
  const CropOptions options{.reduced = reduced, .tall_first_down = tall_first_down};
  return batch_of({encoded, begin, size, at}, "windows", windows, expected, out, threads, options, crop_task);
}

/// See dcfast.images.squares.
Array<std::uint8_t> squares_of(const Encoded& encoded, const Input<std::int64_t, "begin">& begin, const Input<std::int64_t, "size">& size,
                               const Array<std::int32_t>& targets, const Array<std::int32_t>& expected, Array<std::uint8_t> out,
                               const Input<std::int64_t, "at">& at, unsigned threads, bool tall_first_down) {
  const std::int64_t side = out.ndim() == 4 ? out.shape(1) : 0;  // other shapes are refused
  const auto make = [side](std::size_t i, auto bytes, std::int64_t from, std::int64_t length, const std::int32_t* target,
                           const std::int32_t* whole) { return square_task(i, bytes, from, length, target, whole, side); };
  return batch_of({encoded, begin, size, at}, "targets", targets, expected, out, threads, {.tall_first_down = tall_first_down}, make);
}

int decode_rgb_into(const py::bytes& image, Array<std::uint8_t> out) {
  if (!out.dtype().equal(py::dtype::of<std::uint8_t>()) || out.ndim() != 3 || out.shape(2) != 3 || out.shape(0) > 0xFFFF || out.shape(1) > 0xFFFF) {
    throw py::value_error(cat("out must be a uint8 array of shape (height, width, 3); got ", std::string(py::str(out.dtype())),
                              " of shape ", std::string(py::str(out.attr("shape")))));
  }
  if ((out.flags() & py::array::c_style) == 0 || !out.writeable()) throw py::value_error("out must be contiguous and writable");
  const auto height = static_cast<std::uint32_t>(out.shape(0));
  const auto width = static_cast<std::uint32_t>(out.shape(1));
  const auto view = view_of(image);
  auto* const pixels = static_cast<std::uint8_t*>(out.mutable_data());
  return static_cast<int>(enter_core([&](const Poll&) { return decode_rgb(view, width, height, pixels); }));
}

std::vector<std::string> texts_of(const auto& names) { return {names.begin(), names.end()}; }

}  // namespace

void bind_images(py::module_& m) {
  m.attr("max_image_pixels") = kMaxPixels;
  m.attr("max_image_bytes") = kMaxMemberBytes;
  m.attr("max_image_parts") = kMaxParts;
  m.def("max_scans", &max_scans, "pixels"_a, "The scans that a JPEG of this many pixels may have.");
  m.def("status_names", [] { return texts_of(kImageStatusNames); }, "Names of the numbers in `status`.");
  m.def("format_names", [] { return texts_of(kImageFormatNames); }, "Names of the numbers in `format`.");
  m.def("image_signatures", &image_signatures, "path"_a, "offsets"_a, "sizes"_a, "threads"_a, "full"_a, "wide"_a,
        "(status, format, width, height, content hash, phash, flat, words, quality) of members of a file.");
  m.def("image_signatures_of", &image_signatures_of, "images"_a, "threads"_a, "full"_a, "wide"_a,
        "(status, format, width, height, content hash, phash, flat, words, quality) of encoded images.");
  m.def("phash_grey", &phash_grey, "grey"_a, "(perceptual hash, flat) of grey levels.");
  m.attr("flat_quality") = kFlatQuality;
  m.def("phash256_grey", &phash256_grey, "grey"_a, "(four words of the 256-bit hash, quality) of grey levels.");
  m.def("hash_variants", &hash_variants, "words"_a, "Eight hashes for each, of the image turned and mirrored.");
  m.def("decode_grey", &decode_grey_array, "image"_a, "full"_a, "(status, grey levels).");
  m.attr("max_blur_side") = kMaxBlurSide;
  m.def("blur_boxes", &blurred_boxes, "pixels"_a, "height"_a, "width"_a, "channels"_a, "boxes"_a,
        "Bytes of an image with boxes blurred, none where no box reaches over a pixel.");
  m.attr("shrinks_fast") = have_avx2();
  m.def("shrink", &shrunk, "pixels"_a, "height"_a, "width"_a, "new_height"_a, "new_width"_a,
        "Pixels of three bytes made fewer by areas.");
  m.def("encode_webp", &webp_of, "pixels"_a, "height"_a, "width"_a, "channels"_a, "quality"_a,
        "A lossy WebP of RGB or RGBA pixels.");
  m.def("crop_resize", &crops_of, "encoded"_a, "begin"_a, "size"_a, "windows"_a, "expected"_a, "out"_a, "at"_a, "threads"_a,
        "reduced"_a, "tall_first_down"_a = true,
        "Statuses of JPEGs whose crops are written into a batch: 0 done, 1 not read here, 2 another size, 3 damaged.");
  m.def("resize_squares", &squares_of, "encoded"_a, "begin"_a, "size"_a, "targets"_a, "expected"_a, "out"_a, "at"_a, "threads"_a,
        "tall_first_down"_a = true,
        "Statuses as crop_resize has them, of whole JPEGs that are resampled to a size of which a square is written.");
  m.def("decode_rgb", &decode_rgb_into, "image"_a, "out"_a, "The status of a whole JPEG, decoded into out as crop_resize decodes it.");
  m.def("jpeg_version", [] { return std::string(jpeg_library()); }, "The JPEG library of the core.");
  m.def("image_size", &image_size, "data"_a, "(width, height) by the image's header, 0 where unknown.");
}

}  // namespace dcfast::bindings
