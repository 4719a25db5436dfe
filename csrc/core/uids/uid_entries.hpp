// What one piece of a column has at each row: where its text or its bytes are, and whether it is null. For the inner loops
// of uid_column.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "core/system/error.hpp"
#include "core/uids/uid_column.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast::uid_column_detail {

using Bytes = std::span<const std::uint8_t>;

/// Arrow asks for aligned buffers, but those of a mapped file need not be.
template <typename T>
T load(const std::uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

/// The rows of a buffer that has `width` bytes for each; `more`: entries beyond the rows.
inline Bytes rows_of(const ColumnPiece& piece, std::size_t width, std::size_t more = 0) {
  if (piece.size == 0) return {};
  const Bytes buffer = piece.buffers.empty() ? Bytes{} : piece.buffers[0];
  const std::size_t entries = checked_add(checked_add(piece.offset, piece.size, "rows"), more, "rows");
  if (buffer.size() < checked_mul(entries, width, "rows")) {
    refuse_argument("texts has a buffer of ", buffer.size(), " bytes for ", entries, " rows of ", width, ": it is damaged");
  }
  return buffer.subspan(piece.offset * width, (piece.size + more) * width);
}

inline std::string_view text_of(Bytes bytes, std::uint64_t from, std::uint64_t size) {
  return {reinterpret_cast<const char*>(bytes.data()) + from, size};
}

/// GCC takes a function that does nothing but prefetch for one without effect, and leaves out the calls of it.
inline void ask_for(const void* at) {
  __builtin_prefetch(at);
  asm volatile("");
}

inline void prefetch_text(Bytes bytes, std::uint64_t from, std::uint64_t size) {
  if (from >= bytes.size() || size == 0 || size > bytes.size() - from) return;
  ask_for(bytes.data() + from);
  ask_for(bytes.data() + from + size - 1);
}

/// Texts of one size, one after another: no offset is read to find one.
class EvenTexts {
 public:
  EvenTexts(Bytes data, std::size_t size) : data_(data), size_(size) {}

  void prefetch_place(std::size_t) const {}
  void prefetch(std::size_t i) const { prefetch_text(data_, i * size_, size_); }
  bool parse(std::size_t i, Uid& out) const { return parse_uid_or_uuid(text_of(data_, i * size_, size_), out); }

 private:
  Bytes data_;
  std::size_t size_;
};

template <typename Offset>
class Texts {
 public:
  explicit Texts(const ColumnPiece& piece)
      : offsets_(rows_of(piece, sizeof(Offset), 1)), data_(piece.buffers.size() > 1 ? piece.buffers[1] : Bytes{}) {}

  void prefetch_place(std::size_t i) const { ask_for(offsets_.data() + i * sizeof(Offset)); }
  void prefetch(std::size_t i) const { prefetch_text(data_, offset(i), offset(i + 1) - offset(i)); }
  bool parse(std::size_t i, Uid& out) const {
    const std::uint64_t from = offset(i);
    const std::uint64_t to = offset(i + 1);
    if (from > to || to > data_.size()) {
      refuse_argument("offsets must ascend inside the text buffer of ", data_.size(), " bytes; got ", static_cast<std::int64_t>(from),
                      " to ", static_cast<std::int64_t>(to), " for text ", i);
    }
    return parse_uid_or_uuid(text_of(data_, from, to - from), out);
  }

  std::size_t size_of(std::size_t i) const { return static_cast<std::size_t>(offset(i + 1) - offset(i)); }
  /// How many of some texts are of this size.
  std::size_t count_of_size(std::size_t size, std::size_t begin, std::size_t end) const {
    std::size_t count = 0;
    for (std::size_t i = begin; i < end; ++i) count += size_of(i) == size ? 1 : 0;
    return count;
  }
  /// All `count` texts, which are of this size; one that is not in the buffer is refused.
  EvenTexts even(std::size_t size, std::size_t count) const {
    if (count == 0) return {{}, size};
    Uid uid;
    parse(0, uid);
    parse(count - 1, uid);
    return {data_.subspan(offset(0), count * size), size};
  }

 private:
  /// A negative one becomes huge, and fails the comparisons.
  std::uint64_t offset(std::size_t i) const {
    return static_cast<std::uint64_t>(std::int64_t{load<Offset>(offsets_.data() + i * sizeof(Offset))});
  }

  Bytes offsets_, data_;
};

class Views {
 public:
  explicit Views(const ColumnPiece& piece) : views_(rows_of(piece, kView)), buffers_(piece.buffers) {}

  void prefetch_place(std::size_t i) const { ask_for(views_.data() + i * kView); }
  void prefetch(std::size_t i) const {
    const View view = view_at(i);
    if (view.size > kInlined && view.buffer < buffers_.size() - 1) prefetch_text(buffers_[view.buffer + 1], view.from, view.size);
  }
  bool parse(std::size_t i, Uid& out) const {
    const View view = view_at(i);
    if (view.size <= kInlined) return parse_uid_or_uuid(text_of(views_, i * kView + 4, view.size), out);
    const std::size_t count = buffers_.size() - 1;
    const Bytes buffer = view.buffer < count ? buffers_[view.buffer + 1] : Bytes{};
    if (view.from > buffer.size() || view.size > buffer.size() - view.from) {
      refuse_argument("views must point inside their buffers; got buffer ", static_cast<std::int64_t>(view.buffer), " of ", count,
                      ", offset ", static_cast<std::int64_t>(view.from), " and size ", static_cast<std::int64_t>(view.size), " for text ", i);
    }
    return parse_uid_or_uuid(text_of(buffer, view.from, view.size), out);
  }

 private:
  static constexpr std::size_t kView = 16;
  static constexpr std::uint64_t kInlined = 12;
  /// Negative numbers become huge ones, and fail the comparisons.
  struct View {
    std::uint64_t size, buffer, from;
  };
  View view_at(std::size_t i) const {
    const auto number = [at = views_.data() + i * kView](std::size_t k) {
      return static_cast<std::uint64_t>(std::int64_t{load<std::int32_t>(at + 4 * k)});
    };
    return {number(0), number(2), number(3)};
  }

  Bytes views_;
  std::span<const Bytes> buffers_;
};

class Raw {
 public:
  explicit Raw(const ColumnPiece& piece) : bytes_(rows_of(piece, sizeof(Uid))) {}

  void prefetch_place(std::size_t) const {}
  void prefetch(std::size_t i) const { ask_for(bytes_.data() + i * sizeof(Uid)); }
  bool parse(std::size_t i, Uid& out) const {
    const std::uint8_t* const at = bytes_.data() + i * sizeof(Uid);
    out = {__builtin_bswap64(load<std::uint64_t>(at)), __builtin_bswap64(load<std::uint64_t>(at + 8))};
    return true;
  }

 private:
  Bytes bytes_;
};

/// Which rows of a piece have a value.
class Validity {
 public:
  explicit Validity(const ColumnPiece& piece) : bits_(piece.validity), offset_(piece.offset) {
    if (!bits_.empty() && piece.size > 0 && bits_.size() * 8 < checked_add(piece.offset, piece.size, "rows")) {
      refuse_argument("texts has ", bits_.size(), " bytes that say which of ", piece.offset + piece.size, " rows are null: it is damaged");
    }
  }
  bool operator[](std::size_t i) const { return bits_.empty() || ((bits_[(offset_ + i) / 8] >> ((offset_ + i) % 8)) & 1) != 0; }

 private:
  Bytes bits_;
  std::size_t offset_;
};

template <typename Source>
struct Entries {
  explicit Entries(const ColumnPiece& piece) : Entries(Source(piece), piece) {}
  Entries(Source of, const ColumnPiece& piece) : source(of), validity(piece), size(piece.size) {}

  bool parse(std::size_t i, Uid& out) const {
    if (validity[i]) return source.parse(i, out);
    out = Uid{};
    return false;
  }
  void prefetch_place(std::size_t i) const { source.prefetch_place(i); }
  void prefetch(std::size_t i) const { source.prefetch(i); }

  Source source;
  Validity validity;
  std::size_t size;
};

}  // namespace dcfast::uid_column_detail
