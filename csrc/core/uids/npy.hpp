// The header of a one-dimensional .npy file of uids or uid records: written byte for byte as NumPy does
// (version 1.0), read in versions 1.0 and 2.0. Format: NumPy's documentation of numpy.lib.format.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>

#include "core/system/file.hpp"
#include "core/uids/uid_set.hpp"

namespace dcfast::npy {

inline constexpr std::string_view kMagic{"\x93NUMPY", 6};

template <typename T>
constexpr std::string_view descr();
template <>
constexpr std::string_view descr<Uid>() {
  return "[('f0', '<u8'), ('f1', '<u8')]";
}
template <>
constexpr std::string_view descr<UidRecord>() {
  return "[('f0', '<u8'), ('f1', '<u8'), ('f2', '<u8')]";
}

/// The whole header, a multiple of 64 bytes, of the same length for every count.
template <typename T>
std::string header(std::uint64_t count) {
  const std::string digits = std::to_string(count);
  std::string text = cat("{'descr': ", descr<T>(), ", 'fortran_order': False, 'shape': (", digits, ",), }");
  // NumPy leaves room for the count to grow to 21 digits in place
  text.append(21 - std::min<std::size_t>(21, digits.size()), ' ');
  constexpr std::size_t before = 10;  // magic, version, length
  text.append(64 - (before + text.size() + 1) % 64, ' ');  // 1 to 64, as NumPy pads
  text += '\n';
  std::string out(kMagic);
  out += '\x01';
  out += '\x00';
  out += static_cast<char>(text.size() & 0xFF);
  out += static_cast<char>(text.size() >> 8);
  return out + text;
}

struct Info {
  std::size_t item_size = 0;  // 16 or 24
  std::uint64_t count = 0;
  std::uint64_t data_offset = 0;
};

/// Reads and checks the header, and that the file is exactly as long as it says. Throws corrupt_data.
inline Info read_header(const File& file) {
  const auto fail = [&](std::uint64_t offset, const auto&... parts) {
    throw Error(Code::corrupt_data, cat(parts...), file.path(), offset);
  };
  constexpr std::size_t kMost = 4096;  // a header of these dtypes takes 128 bytes
  std::array<char, kMost> bytes;
  const std::size_t got = file.pread_some(std::as_writable_bytes(std::span(bytes)), 0);
  const std::string_view all(bytes.data(), got);
  if (all.substr(0, 6) != kMagic || got < 12) {
    fail(0, "expected an .npy file of uids or uid records; got ",
         got == 0 ? "an empty file" : "a file that does not begin with its magic bytes");
  }
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])); };
  const std::size_t version = byte(6);
  if ((version != 1 && version != 2) || byte(7) != 0) {
    fail(6, "expected .npy version 1.0 or 2.0; got ", version, ".", byte(7));
  }
  const std::size_t start = version == 1 ? 10 : 12;
  std::size_t length = byte(8) | byte(9) << 8;
  if (version == 2) length |= byte(10) << 16 | byte(11) << 24;
  if (length > kMost - start) fail(8, "the .npy header of ", length, " bytes is longer than any of uids");
  if (start + length > got) fail(got, "the file ends inside its .npy header");
  const std::string_view text = all.substr(start, length);
  Info info;
  info.data_offset = start + length;
  const auto after = [&](std::string_view key) {
    const std::size_t at = text.find(key);
    if (at == std::string_view::npos) fail(start, "the .npy header lacks ", key);
    std::string_view rest = text.substr(at + key.size());
    while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
    return rest;
  };
  const std::string_view dtype = after("'descr':");
  if (dtype.starts_with(descr<Uid>())) {
    info.item_size = sizeof(Uid);
  } else if (dtype.starts_with(descr<UidRecord>())) {
    info.item_size = sizeof(UidRecord);
  } else {
    const std::string_view shown = dtype.substr(0, dtype.find(", 'fortran_order'"));
    fail(start, "expected dtype ", descr<Uid>(), " or ", descr<UidRecord>(), "; got ", shown.substr(0, 200));
  }
  const std::string_view shape = after("'shape':");
  const char* const end = shape.data() + shape.size();
  if (shape.empty() || shape.front() != '(') fail(start, "the .npy header has no shape");
  const auto [stop, error] = std::from_chars(shape.data() + 1, end, info.count);
  const std::string_view tail(stop, static_cast<std::size_t>(end - stop));
  if (error != std::errc() || !tail.starts_with(",)")) {
    fail(start, "expected a one-dimensional array; got shape ", shape.substr(0, shape.find(')') + 1));
  }
  if (info.count > (std::numeric_limits<std::uint64_t>::max() - info.data_offset) / info.item_size) {
    fail(start, "the .npy header says ", info.count, " rows, more than any file holds");
  }
  const std::uint64_t want = info.count * info.item_size + info.data_offset;
  const std::uint64_t size = file.size();
  if (size != want) {
    fail(std::min(size, want), "the header says ", info.count, " rows (", want, " bytes), the file has ", size, " bytes: it is ",
         size < want ? "truncated" : "followed by other bytes");
  }
  return info;
}

}  // namespace dcfast::npy
