// Uids from a column as Arrow lays it out, in any number of pieces, of texts, of views, of 16 bytes, or of a dictionary of
// these: one pass over all pieces at once, in threads. Buffers are Arrow's, borrowed for the call, and nothing of them is
// trusted: what points outside of them is refused.
#pragma once

#include <span>
#include <vector>

#include "core/system/parallel.hpp"
#include "core/uids/uid.hpp"

namespace dcfast {

/// How a column keeps its uids: text with offsets of 32 or of 64 bits, string_view, or the bytes of fixed_size_binary(16).
enum class UidForm { text32, text64, view, bytes };

/// One piece of a column. Its rows are `size` from `offset` on, in buffers that may hold more.
struct ColumnPiece {
  std::size_t size = 0;
  std::size_t offset = 0;
  std::span<const std::uint8_t> validity;              // a bit a row; empty: every row has a value
  std::vector<std::span<const std::uint8_t>> buffers;  // offsets and texts; views and their texts; bytes; numbers of rows
};

/// Which integers number the entries of a dictionary.
struct RowType {
  unsigned bytes = 4;
  bool is_signed = true;
};

/// The uid of each row of all pieces, in order; a text is one by `parse_uid_or_uuid`. Where `rows` is not empty, texts[k] is
/// the dictionary of rows[k]. What is null or no uid has valid[i] false and out[i] zero. Returns how many are valid.
/// Cost: near the speed of memory; rows of a dictionary in random order cost a cache miss each, which is asked for ahead.
/// Memory: 32 bytes for each 32,768 rows, or for each piece where pieces are smaller; 17 bytes for each entry of
/// dictionaries of texts, which are parsed first, unless these have more than twice as many entries as there are
/// rows, or as many and in the order of the rows, or all texts are of one size.
/// Throws invalid_argument where sizes do not agree, or a row, an offset or a view points outside.
std::size_t parse_uids_column(UidForm form, std::span<const ColumnPiece> texts, std::span<const ColumnPiece> rows, RowType row_type,
                              std::span<Uid> out, std::span<bool> valid, unsigned threads, const Poll& poll = {});

}  // namespace dcfast
