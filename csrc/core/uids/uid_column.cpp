#include "core/uids/uid_column.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <type_traits>

#include "core/system/error.hpp"
#include "core/uids/uid_entries.hpp"
#include "core/uids/uid_sort.hpp"

namespace dcfast {

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 15;
constexpr std::size_t kStep = 1024;   // rows of a dictionary that are looked at before their texts
constexpr std::size_t kAhead = 24;    // rows: as many loads as a core has on their way, or somewhat more
constexpr std::uint64_t kNull = ~std::uint64_t{0};

using namespace uid_column_detail;

/// The numbers of rows of one piece.
class Rows {
 public:
  Rows(const ColumnPiece& piece, RowType type) : numbers_(rows_of(piece, type.bytes)), validity_(piece), type_(type) {}

  /// The entry of each of some rows, kNull for none. `first`: the piece's first row among all, for messages.
  void read(std::size_t begin, std::span<std::uint64_t> entries, std::size_t of, std::size_t first) const {
    switch (type_.bytes) {
      case 1: return type_.is_signed ? read_as<std::int8_t>(begin, entries, of, first) : read_as<std::uint8_t>(begin, entries, of, first);
      case 2: return type_.is_signed ? read_as<std::int16_t>(begin, entries, of, first) : read_as<std::uint16_t>(begin, entries, of, first);
      case 4: return type_.is_signed ? read_as<std::int32_t>(begin, entries, of, first) : read_as<std::uint32_t>(begin, entries, of, first);
      default: return type_.is_signed ? read_as<std::int64_t>(begin, entries, of, first) : read_as<std::uint64_t>(begin, entries, of, first);
    }
  }

 private:
  template <typename T>
  void read_as(std::size_t begin, std::span<std::uint64_t> entries, std::size_t of, std::size_t first) const {
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const T number = load<T>(numbers_.data() + (begin + i) * sizeof(T));
      entries[i] = static_cast<std::uint64_t>(number);  // a negative one becomes huge
      if (!validity_[begin + i]) {
        entries[i] = kNull;
      } else if (entries[i] >= of) {
        refuse_argument("texts has a dictionary of ", of, " entries, and row ", first + begin + i, " points outside, at ", number, ": repair it");
      }
    }
  }

  Bytes numbers_;
  Validity validity_;
  RowType type_;
};

struct Block {
  std::size_t piece, begin, end, at;  // rows of the piece, and where its uids are
};

std::vector<Block> blocks_of(std::span<const ColumnPiece> pieces, std::size_t rows) {
  std::vector<Block> blocks;
  std::size_t at = 0;
  for (std::size_t k = 0; k < pieces.size(); ++k) {
    const std::size_t size = pieces[k].size;
    if (size > rows - at) refuse_argument("texts has more rows than the ", rows, " that were counted");
    for (std::size_t begin = 0; begin < size; begin += kBlock) {
      blocks.push_back({k, begin, std::min(size, begin + kBlock), at + begin});
    }
    at += size;
  }
  if (at != rows) refuse_argument("texts has ", at, " rows; ", rows, " were counted");
  return blocks;
}

template <typename Source>
std::size_t parse_plain(const Entries<Source>& entries, const Block& block, std::span<Uid> out, std::span<bool> valid) {
  std::size_t good = 0;
  for (std::size_t i = block.begin, to = block.at; i < block.end; ++i, ++to) {
    valid[to] = entries.parse(i, out[to]);
    good += valid[to] ? 1 : 0;
  }
  return good;
}

template <typename Dictionary>
std::size_t parse_rows(const Dictionary& entries, const Rows& rows, const Block& block, std::span<Uid> out, std::span<bool> valid) {
  std::array<std::uint64_t, kStep> memory;
  std::size_t good = 0;
  for (std::size_t begin = block.begin; begin < block.end; begin += kStep) {
    const std::span<std::uint64_t> of(memory.data(), std::min(kStep, block.end - begin));
    const std::size_t to = block.at + begin - block.begin;
    rows.read(begin, of, entries.size, block.at - block.begin);
    const auto look = [&](std::size_t i) {
      if (i + kAhead < of.size() && of[i + kAhead] != kNull) entries.prefetch_place(of[i + kAhead]);
      if (i < of.size() && of[i] != kNull) entries.prefetch(of[i]);
    };
    for (std::size_t i = 0; i < kAhead && i < of.size(); ++i) {
      if (of[i] != kNull) entries.prefetch_place(of[i]);
    }
    for (std::size_t i = 0; i < kAhead; ++i) look(i);
    for (std::size_t i = 0; i < of.size(); ++i) {
      look(i + kAhead);
      Uid uid;
      valid[to + i] = of[i] != kNull && entries.parse(of[i], uid);
      out[to + i] = uid;
      good += valid[to + i] ? 1 : 0;
    }
  }
  return good;
}

/// What the parsing of a dictionary's texts made.
class Made {
 public:
  Made(std::span<const Uid> uids, const bool* valid) : size(uids.size()), uids_(uids.data()), valid_(valid) {}

  void prefetch_place(std::size_t i) const {
    if (valid_ != nullptr) ask_for(valid_ + i);
  }
  void prefetch(std::size_t i) const { ask_for(uids_ + i); }
  bool parse(std::size_t i, Uid& out) const {
    out = uids_[i];
    return valid_ == nullptr || valid_[i];
  }

  std::size_t size;

 private:
  const Uid* uids_;
  const bool* valid_;  // null: all are
};

/// Calls work(block) for blocks of the rows of all pieces; the sum of what it gives back.
template <typename Work>
std::size_t for_blocks(std::span<const ColumnPiece> pieces, std::size_t rows, unsigned threads, const Poll& poll, const Work& work) {
  const std::vector<Block> blocks = blocks_of(pieces, rows);
  std::atomic<std::size_t> total{0};
  parallel_for(blocks.size(), threads, [&](std::size_t k) { total.fetch_add(work(blocks[k]), std::memory_order_relaxed); }, poll);
  return total.load();
}

bool is_same(const ColumnPiece& a, const ColumnPiece& b) {
  const auto same = [](Bytes x, Bytes y) { return x.data() == y.data() && x.size() == y.size(); };
  return a.size == b.size && a.offset == b.offset && same(a.validity, b.validity) && std::ranges::equal(a.buffers, b.buffers, same);
}

template <typename Source>
std::vector<Entries<Source>> entries_of(std::span<const ColumnPiece> texts) {
  std::vector<Entries<Source>> entries;
  entries.reserve(texts.size());
  for (const ColumnPiece& piece : texts) entries.emplace_back(piece);
  return entries;
}

template <typename Source>
std::size_t parse_texts(std::span<const ColumnPiece> texts, std::span<Uid> out, std::span<bool> valid, unsigned threads, const Poll& poll) {
  const std::vector<Entries<Source>> entries = entries_of<Source>(texts);
  return for_blocks(texts, out.size(), threads, poll, [&](const Block& block) { return parse_plain(entries[block.piece], block, out, valid); });
}

/// Whether most rows follow the row before in the dictionary, as where it was made of a column of distinct texts: a look at
/// some of them.
bool are_in_order(std::span<const ColumnPiece> rows, std::span<const Rows> numbers, std::span<const std::size_t> sizes) {
  constexpr std::size_t looks = 16;
  constexpr std::uint64_t near = 4;
  std::size_t steps = 0;
  std::size_t short_steps = 0;
  std::array<std::uint64_t, 64> memory;
  for (std::size_t look = 0; look < std::max(looks, rows.size()); look += std::max<std::size_t>(1, rows.size() / looks)) {
    const std::size_t k = look % rows.size();
    const std::size_t size = rows[k].size;
    const std::span<std::uint64_t> some(memory.data(), std::min(size, memory.size()));
    numbers[k].read((size - some.size()) * (look % looks) / looks, some, sizes[k], 0);
    for (std::size_t i = 1; i < some.size(); ++i) short_steps += some[i] - some[i - 1] <= near ? 1 : 0;
    steps += some.empty() ? 0 : some.size() - 1;
  }
  return short_steps * 4 > steps * 3;
}

/// The dictionaries where all texts of all are of one size, that of uids; else none. One look at each offset.
template <typename Source>
std::vector<Entries<EvenTexts>> even_texts(std::span<const Entries<Source>> entries, std::span<const ColumnPiece> texts,
                                           std::size_t count, unsigned threads, const Poll& poll) {
  std::vector<Entries<EvenTexts>> even;
  if constexpr (requires(const Source& source) { source.even(0, 0); }) {
    const auto first = std::ranges::find_if(entries, [](const auto& of) { return of.size > 0; });
    const std::size_t size = first == entries.end() ? 0 : first->source.size_of(0);
    if (size != kUidTextSize && size != kUuidTextSize) return even;
    const auto of_size = [&](const Block& block) { return entries[block.piece].source.count_of_size(size, block.begin, block.end); };
    if (for_blocks(texts, count, threads, poll, of_size) != count) return even;
    for (std::size_t k = 0; k < texts.size(); ++k) even.emplace_back(entries[k].source.even(size, texts[k].size), texts[k]);
  }
  return even;
}

/// What makes the uids of rows of dictionaries: `dictionaries[of[k]]` is that of the piece rows[k].
template <typename Dictionary>
std::size_t gather(std::span<const Dictionary> dictionaries, std::span<const std::size_t> of, std::span<const ColumnPiece> rows,
                   std::span<const Rows> numbers, std::span<Uid> out, std::span<bool> valid, unsigned threads, const Poll& poll) {
  return for_blocks(rows, out.size(), threads, poll, [&](const Block& block) {
    return parse_rows(dictionaries[of[block.piece]], numbers[block.piece], block, out, valid);
  });
}

template <typename Source>
std::size_t parse_as(std::span<const ColumnPiece> texts, std::span<const ColumnPiece> rows, RowType row_type, std::span<Uid> out,
                     std::span<bool> valid, unsigned threads, const Poll& poll) {
  if (rows.empty()) return parse_texts<Source>(texts, out, valid, threads, poll);
  std::vector<ColumnPiece> distinct;  // pieces of a column often have one dictionary
  std::vector<std::size_t> of;
  std::vector<std::size_t> sizes;
  std::size_t count = 0;
  for (const ColumnPiece& piece : texts) {
    if (distinct.empty() || !is_same(distinct.back(), piece)) {
      distinct.push_back(piece);
      count = checked_add(count, piece.size, "entries");
    }
    of.push_back(distinct.size() - 1);
    sizes.push_back(piece.size);
  }
  std::vector<Rows> numbers;
  numbers.reserve(rows.size());
  for (const ColumnPiece& piece : rows) numbers.emplace_back(piece, row_type);
  const std::vector<Entries<Source>> entries = entries_of<Source>(distinct);
  if (std::is_same_v<Source, Raw> || count / 2 > out.size() || (count > out.size() / 2 && are_in_order(rows, numbers, sizes))) {
    return gather<Entries<Source>>(entries, of, rows, numbers, out, valid, threads, poll);
  }
  if (count > out.size() - out.size() / 8) {  // of fewer, what follows is faster
    const auto even = even_texts<Source>(entries, distinct, count, threads, poll);
    if (!even.empty()) return gather<Entries<EvenTexts>>(even, of, rows, numbers, out, valid, threads, poll);
  }
  // texts at random places cost several cache misses each, in pages of 4 KiB; these numbers one
  uid_detail::Scratch<Uid> uids(count);
  uid_detail::Scratch<bool> are_uids(count);
  const bool all = parse_texts<Source>(distinct, {uids.data(), count}, {are_uids.data(), count}, threads, poll) == count;
  std::vector<Made> made;
  std::size_t at = 0;
  for (const ColumnPiece& piece : distinct) {
    made.emplace_back(std::span<const Uid>(uids.data() + at, piece.size), all ? nullptr : are_uids.data() + at);
    at += piece.size;
  }
  return gather<Made>(made, of, rows, numbers, out, valid, threads, poll);
}

}  // namespace

std::size_t parse_uids_column(UidForm form, std::span<const ColumnPiece> texts, std::span<const ColumnPiece> rows, RowType row_type,
                              std::span<Uid> out, std::span<bool> valid, unsigned threads, const Poll& poll) {
  if (out.size() != valid.size() || (!rows.empty() && rows.size() != texts.size())) {
    refuse_argument("texts must have a dictionary for each piece of rows, and valid an entry for each uid");
  }
  switch (form) {
    case UidForm::text32: return parse_as<Texts<std::int32_t>>(texts, rows, row_type, out, valid, threads, poll);
    case UidForm::text64: return parse_as<Texts<std::int64_t>>(texts, rows, row_type, out, valid, threads, poll);
    case UidForm::view: return parse_as<Views>(texts, rows, row_type, out, valid, threads, poll);
    case UidForm::bytes: return parse_as<Raw>(texts, rows, row_type, out, valid, threads, poll);
  }
  refuse_argument("form must be one of four");
}

}  // namespace dcfast
