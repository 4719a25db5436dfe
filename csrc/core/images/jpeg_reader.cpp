#include "core/images/jpeg_reader.hpp"

#include <jerror.h>

#include <cstring>

#define DCFAST_TEXT_OF(value) #value
#define DCFAST_TEXT(value) DCFAST_TEXT_OF(value)

namespace dcfast {
namespace {

/// Whether a JPEG has more than kMaxParts segments before its first scan. dcfast.images.costs counts the same.
bool too_many_segments(std::span<const unsigned char> data) {
  std::size_t at = 2;
  for (std::size_t parts = 0; parts <= kMaxParts; ++parts) {
    const auto marks = [&](std::size_t i) {  // other bytes between segments are skipped, filling and restarts too
      const unsigned next = data[i + 1];
      return data[i] == 0xff && next != 0 && next != 0xff && (next < 0xd0 || next > 0xd7);
    };
    while (at + 1 < data.size() && !marks(at)) ++at;
    if (data.size() < at + 4) return false;
    const unsigned marker = data[at + 1];
    at += 2;
    if (marker == 0x01 || marker == 0xd8) continue;  // stand alone
    const std::size_t length = static_cast<std::size_t>(data[at]) << 8 | data[at + 1];
    if (marker < 0xc0 || marker == 0xd9 || marker == 0xda || length < 2 || length > data.size() - at) return false;
    at += length;
  }
  return true;
}

JpegReader& reader_of(j_common_ptr info) { return *static_cast<JpegReader*>(info->client_data); }

[[noreturn]] void leave(j_common_ptr info, ImageStatus status) {
  JpegReader& reader = reader_of(info);
  reader.failure = status;
  std::longjmp(reader.escape, 1);
}

[[noreturn]] void on_error(j_common_ptr info) {
  switch (info->err->msg_code) {
    case JERR_OUT_OF_MEMORY:
      reader_of(info).out_of_memory = true;
      leave(info, ImageStatus::too_large);
    case JERR_IMAGE_TOO_BIG:
    case JERR_WIDTH_OVERFLOW:
    case JERR_NO_BACKING_STORE:
      leave(info, ImageStatus::too_large);
    case JERR_BAD_PRECISION:
    case JERR_SOF_UNSUPPORTED:
    case JERR_ARITH_NOTIMPL:
    case JERR_CONVERSION_NOTIMPL:
    case JERR_NOT_COMPILED:
      leave(info, ImageStatus::unsupported);
    default:
      leave(info, ImageStatus::broken);
  }
}

void on_message(j_common_ptr) {}

void on_warning(j_common_ptr info, int level) {  // traces have levels from 0 on
  if (level < 0 && reader_of(info).strict) leave(info, ImageStatus::broken);
}

void on_source(j_decompress_ptr) {}

// libjpeg would be content with an invented end-of-image marker; for us the bytes have ended too early.
boolean on_end(j_decompress_ptr info) { leave(reinterpret_cast<j_common_ptr>(info), ImageStatus::truncated); }

void on_skip(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  if (static_cast<unsigned long>(count) > info->src->bytes_in_buffer) on_end(info);
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
}

void on_progress(j_common_ptr info) {
  const auto scans = reinterpret_cast<j_decompress_ptr>(info)->input_scan_number;
  if (scans > 0 && static_cast<std::uint64_t>(scans) > reader_of(info).max_scans) leave(info, ImageStatus::broken);
}

}  // namespace

bool jpeg_open_step(JpegReader& reader) {
  if (too_many_segments({reader.data, reader.size})) return false;
  reader.info.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = on_error;
  reader.errors.output_message = on_message;
  reader.errors.emit_message = on_warning;
  reader.info.client_data = &reader;
  if (setjmp(reader.escape) != 0) return false;
  jpeg_create_decompress(&reader.info);
  reader.source.init_source = on_source;
  reader.source.fill_input_buffer = on_end;
  reader.source.skip_input_data = on_skip;
  reader.source.resync_to_restart = jpeg_resync_to_restart;
  reader.source.term_source = on_source;
  reader.source.next_input_byte = reader.data;
  reader.source.bytes_in_buffer = reader.size;
  reader.info.src = &reader.source;
  reader.progress.progress_monitor = on_progress;
  reader.info.progress = &reader.progress;
  jpeg_read_header(&reader.info, TRUE);
  reader.info.dct_method = JDCT_ISLOW;
  if (!within_pixel_bound(reader.info.image_width, reader.info.image_height)) {
    reader.failure = ImageStatus::too_large;
    return false;
  }
  reader.max_scans = max_scans(std::uint64_t{reader.info.image_width} * reader.info.image_height);
  return true;
}

bool jpeg_start_step(JpegReader& reader) {
  if (setjmp(reader.escape) != 0) return false;
  return jpeg_start_decompress(&reader.info) != FALSE;
}

bool jpeg_lines_step(JpegReader& reader, std::uint8_t* const* lines, std::size_t count) {
  if (setjmp(reader.escape) != 0) return false;
  jpeg_decompress_struct& info = reader.info;
  const JDIMENSION end = info.output_scanline + static_cast<JDIMENSION>(count);
  while (info.output_scanline < end) {
    const JDIMENSION left = end - info.output_scanline;
    if (jpeg_read_scanlines(&info, const_cast<JSAMPARRAY>(lines) + (count - left), left) == 0) return false;
  }
  return true;
}

bool jpeg_finish_step(JpegReader& reader) {
  if (setjmp(reader.escape) != 0) return false;
  return jpeg_finish_decompress(&reader.info) != FALSE;
}

bool jpeg_has_end(JpegReader& reader) noexcept {
  if (jpeg_input_complete(&reader.info) || reader.info.unread_marker == JPEG_EOI) return true;
  const unsigned char* at = reader.source.next_input_byte;
  const unsigned char* const end = at + reader.source.bytes_in_buffer;
  while (end - at >= 2) {
    at = static_cast<const unsigned char*>(std::memchr(at, 0xff, static_cast<std::size_t>(end - at - 1)));
    if (at == nullptr) return false;
    if (*++at == 0xd9) return true;
  }
  return false;
}

const char* jpeg_library() noexcept {
#ifdef LIBJPEG_TURBO_VERSION
  return "libjpeg-turbo " DCFAST_TEXT(LIBJPEG_TURBO_VERSION);
#else
  return "libjpeg " DCFAST_TEXT(JPEG_LIB_VERSION);
#endif
}

}  // namespace dcfast
