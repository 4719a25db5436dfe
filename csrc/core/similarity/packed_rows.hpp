// Embeddings as integer codes, packed for the loops of select_kernels.hpp, with what is needed to bound their error.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "core/similarity/embedding_rows.hpp"
#include "core/similarity/select_kernels.hpp"
#include "core/system/parallel.hpp"

namespace dcfast {

enum class RowState : std::uint8_t { usable, zero, not_finite };

enum class Side : std::uint8_t { queries, database };

/// Narrow codes are 8 bits, at twice the speed; wide ones 16 bits, with a hundredth of the error.
enum class CodeWidth : std::uint8_t { narrow, wide };

/// Row r is scale[r] times its codes, but for a rest of Euclidean length error[r] at most (infinite where the row is too
/// long or too short for float: nothing is said of its scores then).
struct PackedRows {
  std::size_t count = 0;   // rows
  std::size_t padded = 0;  // a multiple of a panel (queries) or strip (database); rows beyond count are not usable
  std::size_t steps = 0;   // of 4 bytes
  CodeWidth width = CodeWidth::wide;
  std::vector<double> scale, error, norm;  // norm: Euclidean length
  std::vector<RowState> state;
  std::vector<std::int32_t> sums;          // of the narrow codes of a database's rows
  std::byte* codes = nullptr;              // on a 64-byte boundary

  /// Bytes of codes from one row panel or column panel to the next.
  std::size_t panel_bytes(Side side) const noexcept;
  void reserve(std::size_t bytes);

 private:
  std::vector<std::byte> memory_;
};

/// Codes of rows [begin, end) into `out`, whose memory is used again.
void pack_rows(const EmbeddingRows& rows, std::size_t begin, std::size_t end, Side side, CodeWidth width, unsigned threads,
               PackedRows& out, const Poll& poll = {});

/// The first row that is not finite, or zero where `zeros` count too; nothing where all are fine.
struct BadRow {
  std::size_t row;
  RowState state;
};
std::optional<BadRow> first_bad_row(const PackedRows& rows, bool zeros);
std::optional<BadRow> first_bad_row(const EmbeddingRows& rows, bool zeros, unsigned threads, const Poll& poll = {});

/// Rows to search in, with codes of both widths, made when first asked for. The rows must stay as they are.
class PackedDatabase {
 public:
  PackedDatabase(const EmbeddingRows& rows, unsigned threads, const Poll& poll);

  const EmbeddingRows& rows() const noexcept { return rows_; }
  /// May be called by several threads.
  const PackedRows& codes(CodeWidth width) const;
  /// Whether a search found the narrow codes too coarse for this database.
  bool is_coarse() const noexcept { return is_coarse_.load(std::memory_order_relaxed); }
  void set_coarse() const noexcept { is_coarse_.store(true, std::memory_order_relaxed); }
  std::size_t bytes() const;

 private:
  EmbeddingRows rows_;
  PackedRows narrow_;
  mutable PackedRows wide_;
  mutable std::once_flag wide_made_;
  mutable std::atomic<bool> has_wide_{false};
  mutable std::atomic<bool> is_coarse_{false};
};

}  // namespace dcfast
