// The text form of one uid: 32 hexadecimal digits, the high half first; zeros may be missing on the left. Inline, for the
// inner loops of parsers. Both variants are always compiled where they can be; tests hold them equal.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#if defined(__SSE4_1__)
#include <smmintrin.h>
#endif

#include "core/uids/uid.hpp"

namespace dcfast {

inline constexpr std::size_t kUidTextSize = 32;
inline constexpr std::size_t kUuidTextSize = 36;  // 8-4-4-4-12 digits, dashes between

namespace uid_text_detail {

/// Eight hex digits, the first one most significant. False where any byte is not a hex digit.
inline bool parse_8(const char* text, std::uint32_t& out) noexcept {
  constexpr std::uint64_t ones = 0x0101010101010101ULL;
  constexpr std::uint64_t tops = 0x80 * ones;
  std::uint64_t x;
  std::memcpy(&x, text, 8);
  // With all bytes below 0x80 the additions below cannot carry into the next byte: the top bit of
  // (byte + 0x80 - k) says byte >= k.
  const std::uint64_t low = x & ~tops;
  const std::uint64_t lower = low | (0x20 * ones);
  const std::uint64_t digit = (low + (0x80 - '0') * ones) & ~(low + (0x80 - '9' - 1) * ones) & tops;
  const std::uint64_t alpha = (lower + (0x80 - 'a') * ones) & ~(lower + (0x80 - 'f' - 1) * ones) & tops;
  const bool good = ((digit | alpha) == tops) && (x & tops) == 0;
  std::uint64_t v = (x & (0x0F * ones)) + (alpha >> 7) * 9;
  v = ((v << 4) | (v >> 8)) & 0x00FF00FF00FF00FFULL;
  v = (v | (v >> 8)) & 0x0000FFFF0000FFFFULL;
  v = v | (v >> 16);
  out = __builtin_bswap32(static_cast<std::uint32_t>(v));
  return good;
}

}  // namespace uid_text_detail

/// Reads 32 bytes at `text`. Where one is not a hex digit: false, and `out` holds zeros.
inline bool parse_uid_32_scalar(const char* text, Uid& out) noexcept {
  std::array<std::uint32_t, 4> w{};
  bool good = true;
  for (std::size_t i = 0; i < 4; ++i) good &= uid_text_detail::parse_8(text + 8 * i, w[i]);
  const Uid uid{(static_cast<std::uint64_t>(w[0]) << 32) | w[1], (static_cast<std::uint64_t>(w[2]) << 32) | w[3]};
  out = good ? uid : Uid{};
  return good;
}

/// Reads 36 bytes at `text`: the digits of a dashed UUID. The dashes are not looked at: `has_uuid_dashes`.
inline bool parse_uuid_36_scalar(const char* text, Uid& out) noexcept {
  std::array<char, kUidTextSize> digits;
  std::memcpy(digits.data(), text, 8);
  std::memcpy(digits.data() + 8, text + 9, 4);
  std::memcpy(digits.data() + 12, text + 14, 4);
  std::memcpy(digits.data() + 16, text + 19, 4);
  std::memcpy(digits.data() + 20, text + 24, 12);
  return parse_uid_32_scalar(digits.data(), out);
}

inline bool has_uuid_dashes_scalar(const char* text) noexcept {
  return text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-';
}

/// Writes 32 lower-case hex digits at `out`.
inline void format_uid_32_scalar(const Uid& uid, char* out) noexcept {
  constexpr const char* digits = "0123456789abcdef";
  for (int i = 0; i < 16; ++i) {
    out[i] = digits[(uid.hi >> (60 - 4 * i)) & 15];
    out[16 + i] = digits[(uid.lo >> (60 - 4 * i)) & 15];
  }
}

#if defined(__SSE4_1__)

namespace uid_text_detail {

/// 16 digits to 8 words, each of two digits; `good` loses the bits of bytes that are no digit.
inline __m128i digits_to_words(__m128i text, __m128i& good) noexcept {
  const __m128i digit = _mm_sub_epi8(text, _mm_set1_epi8('0'));
  const __m128i alpha = _mm_sub_epi8(_mm_or_si128(text, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
  const __m128i is_digit = _mm_cmpeq_epi8(_mm_min_epu8(digit, _mm_set1_epi8(9)), digit);
  const __m128i is_alpha = _mm_cmpeq_epi8(_mm_min_epu8(alpha, _mm_set1_epi8(5)), alpha);
  good = _mm_and_si128(good, _mm_or_si128(is_digit, is_alpha));
  const __m128i value =
      _mm_add_epi8(_mm_and_si128(text, _mm_set1_epi8(15)), _mm_and_si128(is_alpha, _mm_set1_epi8(9)));
  return _mm_maddubs_epi16(value, _mm_set1_epi16(0x0110));  // first digit * 16 + second
}

}  // namespace uid_text_detail

namespace uid_text_detail {

/// A uid from its first and its last 16 digits.
inline bool parse_digits(__m128i first, __m128i last, Uid& out) noexcept {
  __m128i good = _mm_set1_epi8(-1);
  const __m128i high = digits_to_words(first, good);
  const __m128i low = digits_to_words(last, good);
  const __m128i big_endian = _mm_packus_epi16(high, low);
  const __m128i swap = _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  const bool whole = _mm_movemask_epi8(good) == 0xFFFF;
  const __m128i keep = _mm_set1_epi8(whole ? -1 : 0);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&out), _mm_and_si128(_mm_shuffle_epi8(big_endian, swap), keep));
  return whole;
}

inline __m128i load_16(const char* text) noexcept { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(text)); }

}  // namespace uid_text_detail

inline bool parse_uid_32(const char* text, Uid& out) noexcept {
  return uid_text_detail::parse_digits(uid_text_detail::load_16(text), uid_text_detail::load_16(text + 16), out);
}

inline bool has_uuid_dashes(const char* text) noexcept {
  constexpr int places = 0x8421;  // of the dashes, from the first one on
  const __m128i is_dash = _mm_cmpeq_epi8(uid_text_detail::load_16(text + 8), _mm_set1_epi8('-'));
  return (_mm_movemask_epi8(is_dash) & places) == places;
}

/// The groups of digits lie shifted by the dashes before them: loads as much further on bring each to its place.
inline bool parse_uuid_36(const char* text, Uid& out) noexcept {
  using uid_text_detail::load_16;
  const __m128i first = _mm_blend_epi16(_mm_blend_epi16(load_16(text), load_16(text + 1), 0x30), load_16(text + 2), 0xC0);
  const __m128i last = _mm_blend_epi16(load_16(text + 19), load_16(text + 20), 0xFC);
  return uid_text_detail::parse_digits(first, last, out);
}

inline void format_uid_32(const Uid& uid, char* out) noexcept {
  const __m128i swap = _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m128i digits = _mm_setr_epi8('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f');
  const __m128i nibble = _mm_set1_epi8(15);
  const __m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(&uid)), swap);
  const __m128i first = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
  const __m128i second = _mm_and_si128(bytes, nibble);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(digits, _mm_unpacklo_epi8(first, second)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_shuffle_epi8(digits, _mm_unpackhi_epi8(first, second)));
}

#else

inline bool parse_uid_32(const char* text, Uid& out) noexcept { return parse_uid_32_scalar(text, out); }
inline bool has_uuid_dashes(const char* text) noexcept { return has_uuid_dashes_scalar(text); }
inline bool parse_uuid_36(const char* text, Uid& out) noexcept { return parse_uuid_36_scalar(text, out); }
inline void format_uid_32(const Uid& uid, char* out) noexcept { format_uid_32_scalar(uid, out); }

#endif

/// A uid from text of any length: false (and zeros) unless it is 1 to 32 hex digits of either case. Fewer than 32 are the
/// last ones, as DataComp's resharder takes them.
inline bool parse_uid(std::string_view text, Uid& out) noexcept {
  if (text.size() == kUidTextSize) return parse_uid_32(text.data(), out);
  out = Uid{};
  if (text.empty() || text.size() > kUidTextSize) return false;
  std::array<char, kUidTextSize> padded;
  padded.fill('0');
  std::memcpy(padded.data() + kUidTextSize - text.size(), text.data(), text.size());
  return parse_uid_32(padded.data(), out);
}

/// The same, or the 36 characters of a dashed UUID: what people's tables hold, of whom not all have been DataComp's.
inline bool parse_uid_or_uuid(std::string_view text, Uid& out) noexcept {
  if (text.size() == kUuidTextSize && has_uuid_dashes(text.data())) return parse_uuid_36(text.data(), out);
  return parse_uid(text, out);
}

/// 32 lower-case hex digits.
inline std::string format_uid(const Uid& uid) {
  std::string text(kUidTextSize, '0');
  format_uid_32(uid, text.data());
  return text;
}

}  // namespace dcfast
