// Fields of a tar header block: where they lie, how their numbers are written, and the checksum. The usual forms take
// a few instructions each, because an index of a warm pool waits for little else.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>

namespace dcfast::tar_header {

constexpr std::uint64_t block_size = 512;
constexpr std::uint64_t max_size = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

// Fields of a header block: offset and length.
constexpr std::size_t name_at = 0, name_length = 100;
constexpr std::size_t size_at = 124, size_length = 12;
constexpr std::size_t checksum_at = 148, checksum_length = 8;
constexpr std::size_t type_at = 156;
constexpr std::size_t magic_at = 257;
constexpr std::size_t prefix_at = 345, prefix_length = 155, star_prefix_length = 131;
constexpr std::size_t gnu_extended_at = 482, gnu_more_at = 504;

// A field up to its first NUL.
inline std::string_view text_field(const char* block, std::size_t at, std::size_t length) {
  const void* end = std::memchr(block + at, 0, length);
  if (end != nullptr) length = static_cast<std::size_t>(static_cast<const char*>(end) - (block + at));
  return {block + at, length};
}

inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Octal digits between spaces, up to the first NUL; an empty field is 0.
inline bool parse_octal(std::string_view text, std::uint64_t& out) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  std::uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '7' || value > (max_size >> 3)) return false;
    value = value << 3 | static_cast<std::uint64_t>(c - '0');
  }
  out = value;
  return true;
}

inline std::uint64_t load_word(const char* at) {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

inline bool octal_digits(std::uint64_t word, std::uint64_t mask) {
  return ((word ^ 0x3030303030303030ULL) & 0xf8f8f8f8f8f8f8f8ULL & mask) == 0;
}

// The value of eight octal digits, the first in the lowest byte; only the low three bits of each byte count.
inline std::uint64_t octal_value(std::uint64_t word) {
  word &= 0x0707070707070707ULL;
  word = (word << 3 | word >> 8) & 0x003f003f003f003fULL;
  word = (word << 6 | word >> 16) & 0x00000fff00000fffULL;
  return (word << 12 | word >> 32) & 0xffffffULL;
}

// Numbers as nearly every writer has them, without a branch a digit: "ddddddddddd" and a NUL or space in 12 bytes,
// "dddddd" and a NUL in the checksum's 8. False where the field is anything else.
inline bool plain_size(const char* field, std::uint64_t& out) {
  const std::uint64_t first = load_word(field);
  const std::uint64_t last = load_word(field + 4);  // bytes 4 to 11
  const char end = field[11];
  if (!octal_digits(first, ~0ULL) || !octal_digits(last, 0x00ffffffffffffffULL) || (end != '\0' && end != ' ')) return false;
  out = octal_value(first) << 9 | (octal_value(last << 8) & 0x1ff);
  return true;
}

inline bool plain_checksum(const char* field, std::uint64_t& out) {
  const std::uint64_t word = load_word(field);
  if (!octal_digits(word, 0x0000ffffffffffffULL) || field[6] != '\0') return false;
  out = octal_value(word << 16);
  return true;
}

enum class Number { good, negative, too_large, malformed };

// Octal, or two's complement base 256 where the first byte has its high bit set.
inline Number parse_number(const char* field, std::size_t length, std::uint64_t& out) {
  const auto byte = [field](std::size_t i) { return static_cast<unsigned char>(field[i]); };
  if ((byte(0) & 0x80) == 0) {
    return parse_octal(text_field(field, 0, length), out) ? Number::good : Number::malformed;
  }
  if ((byte(0) & 0x40) != 0) return Number::negative;
  std::uint64_t value = byte(0) & 0x3f;
  for (std::size_t i = 1; i < length; ++i) {
    if (value > (max_size >> 8)) return Number::too_large;
    value = value << 8 | byte(i);
  }
  out = value;
  return Number::good;
}

// The sum of the eight bytes of a word.
inline std::uint32_t sum_word(std::uint64_t word) {
  constexpr std::uint64_t low = 0x00ff00ff00ff00ffULL;
  const std::uint64_t lanes = (word & low) + (word >> 8 & low);
  return static_cast<std::uint32_t>((lanes * 0x0001000100010001ULL) >> 48);
}

inline std::uint32_t sum_block(const char* block) {
#if defined(__SSE2__)
  const __m128i zero = _mm_setzero_si128();
  __m128i even = zero;
  __m128i odd = zero;
  for (std::size_t i = 0; i < block_size; i += 32) {
    even = _mm_add_epi64(even, _mm_sad_epu8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + i)), zero));
    odd = _mm_add_epi64(odd, _mm_sad_epu8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + i + 16)), zero));
  }
  const __m128i both = _mm_add_epi64(even, odd);
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(both) + _mm_cvtsi128_si32(_mm_srli_si128(both, 8)));
#else
  // pairs of bytes added in 16-bit lanes: 128 x 255 fits in each
  constexpr std::uint64_t low = 0x00ff00ff00ff00ffULL;
  std::uint64_t lanes = 0;
  for (std::size_t i = 0; i < block_size; i += 8) {
    const std::uint64_t word = load_word(block + i);
    lanes += (word & low) + (word >> 8 & low);
  }
  return static_cast<std::uint32_t>((lanes & 0xffff) + (lanes >> 16 & 0xffff) + (lanes >> 32 & 0xffff) + (lanes >> 48));
#endif
}

// The stored sum takes its own field as spaces; some old writers summed signed chars.
inline bool checksum_holds(const char* block) {
  const char* const stored_field = block + checksum_at;
  std::uint64_t stored = 0;
  if (!plain_checksum(stored_field, stored) && parse_number(stored_field, checksum_length, stored) != Number::good) return false;
  const std::uint32_t sum = sum_block(block) - sum_word(load_word(stored_field)) + 8 * ' ';
  if (stored == sum) return true;
  std::int64_t signed_sum = sum;
  for (std::size_t i = 0; i < block_size; ++i) {
    const bool in_field = i >= checksum_at && i < checksum_at + checksum_length;
    if (!in_field && static_cast<unsigned char>(block[i]) >= 128) signed_sum -= 256;
  }
  return static_cast<std::int64_t>(stored) == signed_sum;
}

}  // namespace dcfast::tar_header
