#include "core/similarity/packed_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace dcfast {
namespace {

// Products of codes are added up in 32 bits: by Cauchy and Schwarz no sum, of all or some elements, is above the
// product of the lengths, so that lengths below sqrt(2^31) cannot overflow. Rounding lengthens by sqrt(width) / 2.
constexpr double kWideLength = 46340.0;
constexpr double kWideLargest = 32767.0;
// Narrow: two products of a query's byte (0 to 127) and a column's (-127 to 127) fit 16 bits; so does the sum over the 32
// elements of a chunk that go into one 16-bit lane, by the same argument, where the two parts' lengths are at most 127
// and 255. Rounding lengthens a part by sqrt(32) / 2 < 3. The sum over all chunks is in 32 bits: from a million columns on
// the bound above is the stricter one. What the offset of the queries adds on the way may wrap: it is taken off again.
constexpr double kQueryLargest = 63.0, kQueryPart = 127.0 - 3.0;
constexpr double kColumnLargest = 127.0, kColumnPart = 255.0 - 3.0;
// Beyond these a scale or a score might leave the range of floats.
constexpr double kShortest = 1e-12, kLongest = 1e12;

std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }

double scale_for(const double* x, std::size_t width, double norm, Side side, CodeWidth code_width) {
  const RowShape shape = select_kernels().shape(x, width);
  const double of_all = (kWideLength - 1 - std::sqrt(static_cast<double>(width)) / 2) / norm;
  if (code_width == CodeWidth::wide) return std::min(of_all, kWideLargest / shape.largest);
  const bool is_query = side == Side::queries;
  return std::min({of_all, (is_query ? kQueryPart : kColumnPart) / std::sqrt(shape.longest_part),
                   (is_query ? kQueryLargest : kColumnLargest) / shape.largest});
}

struct Buffers {
  std::vector<double> values;
  std::vector<std::int16_t> codes;
  std::vector<std::byte> bytes;
};

/// Codes of row r of `out`, in buffers.codes; its scale, error, norm and state.
void encode_row(const EmbeddingRows& rows, std::size_t source, Side side, std::size_t r, Buffers& buffers, PackedRows& out) {
  const SelectKernels& kernels = select_kernels();
  const std::size_t width = rows.width;
  double* const x = buffers.values.data();
  std::int16_t* const codes = buffers.codes.data();
  kernels.to_double(rows.row(source), rows.kind, width, x);
  const double square = kernels.dot(x, rows.row(source), rows.kind, width);
  std::fill(buffers.codes.begin(), buffers.codes.end(), std::int16_t{0});
  out.scale[r] = out.error[r] = out.norm[r] = 0;
  out.state[r] = !std::isfinite(square) ? RowState::not_finite : square == 0 ? RowState::zero : RowState::usable;
  if (out.state[r] != RowState::usable) return;
  const double norm = std::sqrt(square);
  out.norm[r] = norm;
  if (norm < kShortest || norm > kLongest) {
    out.error[r] = std::numeric_limits<double>::infinity();
    return;
  }
  const double to_codes = scale_for(x, width, norm, side, out.width), scale = 1 / to_codes;
  const double rest = kernels.encode(x, width, to_codes, scale, codes);
  out.scale[r] = scale;
  out.error[r] = std::sqrt(rest) * (1 + 1e-6);
}

/// Puts each step's 4 bytes where the loops want them.
void scatter(const std::byte* from, std::size_t steps, std::byte* to, std::size_t stride) {
  for (std::size_t step = 0; step < steps; ++step) std::memcpy(to + step * stride, from + 4 * step, 4);
}

void store_narrow_column(std::size_t r, Buffers& buffers, std::byte* to, PackedRows& out) {
  constexpr std::size_t stride = 4 * kColumnPanel;
  const std::int16_t* codes = buffers.codes.data();
  std::int32_t total = 0;
  for (std::size_t step = 0; step < out.steps; step += kChunkQuads, codes += 4 * kChunkQuads) {
    std::int32_t parts[2] = {0, 0};
    for (std::size_t quad = 0; quad < kChunkQuads; ++quad) {
      parts[0] += codes[4 * quad] + codes[4 * quad + 1];
      parts[1] += codes[4 * quad + 2] + codes[4 * quad + 3];
    }
    total += parts[0] + parts[1];
    for (std::size_t half = 0; half < 2; ++half) {
      const auto wrapped = static_cast<std::uint16_t>(-kQueryOffset * parts[half]);
      std::memcpy(to + 2 * half, &wrapped, 2);
    }
    scatter(buffers.bytes.data() + 4 * step, kChunkQuads, to + stride, stride);
    to += (kChunkQuads + 1) * stride;
  }
  out.sums[r] = total;
}

void store_row(std::size_t r, Side side, Buffers& buffers, PackedRows& out) {
  const std::size_t panel_rows = side == Side::queries ? kRowPanel : kColumnPanel;
  std::byte* const to = out.codes + r / panel_rows * out.panel_bytes(side) + 4 * (r % panel_rows);
  if (out.width == CodeWidth::wide) {
    scatter(reinterpret_cast<const std::byte*>(buffers.codes.data()), out.steps, to, 4 * panel_rows);
    return;
  }
  const int offset = side == Side::queries ? kQueryOffset : 0;
  buffers.bytes.resize(4 * out.steps);
  for (std::size_t i = 0; i < buffers.bytes.size(); ++i) buffers.bytes[i] = static_cast<std::byte>(buffers.codes[i] + offset);
  if (side == Side::queries) scatter(buffers.bytes.data(), out.steps, to, 4 * panel_rows);
  else store_narrow_column(r, buffers, to, out);
}

}  // namespace

std::size_t PackedRows::panel_bytes(Side side) const noexcept {
  if (side == Side::queries) return 4 * kRowPanel * steps;
  return 4 * kColumnPanel * (width == CodeWidth::narrow ? steps + steps / kChunkQuads : steps);
}

void PackedRows::reserve(std::size_t bytes) {
  if (memory_.size() < bytes + 64) memory_ = std::vector<std::byte>(bytes + 64);
  void* start = memory_.data();
  std::size_t room = memory_.size();
  codes = static_cast<std::byte*>(std::align(64, bytes, start, room));
}

void pack_rows(const EmbeddingRows& rows, std::size_t begin, std::size_t end, Side side, CodeWidth width, unsigned threads,
               PackedRows& out, const Poll& poll) {
  const bool narrow = width == CodeWidth::narrow;
  out.count = end - begin;
  out.padded = round_up(out.count, side == Side::queries ? kRowPanel : kStrip);
  out.steps = narrow ? round_up(rows.width, 4 * kChunkQuads) / 4 : round_up(rows.width, 2) / 2;
  out.width = width;
  out.scale.resize(out.padded);
  out.error.resize(out.padded);
  out.norm.resize(out.padded);
  out.state.resize(out.padded);
  if (narrow && side == Side::database) out.sums.resize(out.padded);
  const std::size_t panel_rows = side == Side::queries ? kRowPanel : kColumnPanel;
  out.reserve(out.padded / panel_rows * out.panel_bytes(side));
  const std::size_t items = (out.padded + kStrip - 1) / kStrip;
  parallel_for(items, threads, [&](std::size_t item) {
    thread_local Buffers buffers;
    buffers.values.resize(rows.width);
    buffers.codes.resize((narrow ? 4 : 2) * out.steps);
    for (std::size_t r = item * kStrip; r < std::min(out.padded, (item + 1) * kStrip); ++r) {
      if (r < out.count) {
        encode_row(rows, begin + r, side, r, buffers, out);
      } else {
        std::ranges::fill(buffers.codes, std::int16_t{0});
        out.scale[r] = out.error[r] = out.norm[r] = 0;
        out.state[r] = RowState::not_finite;
      }
      store_row(r, side, buffers, out);
    }
  }, poll);
}

std::optional<BadRow> first_bad_row(const PackedRows& rows, bool zeros) {
  for (std::size_t r = 0; r < rows.count; ++r) {
    if (rows.state[r] == RowState::not_finite || (zeros && rows.state[r] == RowState::zero)) return BadRow{r, rows.state[r]};
  }
  return std::nullopt;
}

std::optional<BadRow> first_bad_row(const EmbeddingRows& rows, bool zeros, unsigned threads, const Poll& poll) {
  constexpr std::size_t kItem = 1024;
  std::vector<std::optional<BadRow>> found((rows.count + kItem - 1) / kItem);
  parallel_for(found.size(), threads, [&](std::size_t item) {
    std::vector<double> x(rows.width);
    for (std::size_t r = item * kItem; r < std::min(rows.count, (item + 1) * kItem) && !found[item]; ++r) {
      select_kernels().to_double(rows.row(r), rows.kind, rows.width, x.data());
      const double square = select_kernels().dot(x.data(), rows.row(r), rows.kind, rows.width);
      if (!std::isfinite(square)) found[item] = BadRow{r, RowState::not_finite};
      else if (zeros && square == 0) found[item] = BadRow{r, RowState::zero};
    }
  }, poll);
  const auto first = std::ranges::find_if(found, [](const std::optional<BadRow>& bad) { return bad.has_value(); });
  return first == found.end() ? std::nullopt : *first;
}

PackedDatabase::PackedDatabase(const EmbeddingRows& rows, unsigned threads, const Poll& poll) : rows_(rows) {
  pack_rows(rows_, 0, rows_.count, Side::database, CodeWidth::narrow, threads, narrow_, poll);
}

const PackedRows& PackedDatabase::codes(CodeWidth width) const {
  if (width == CodeWidth::narrow) return narrow_;
  std::call_once(wide_made_, [&] {
    pack_rows(rows_, 0, rows_.count, Side::database, CodeWidth::wide, 1, wide_);
    has_wide_.store(true, std::memory_order_release);
  });
  return wide_;
}

std::size_t PackedDatabase::bytes() const {
  const std::size_t panels = narrow_.padded / kColumnPanel;
  std::size_t total = panels * narrow_.panel_bytes(Side::database) + narrow_.padded * 29;
  if (has_wide_.load(std::memory_order_acquire)) total += panels * wide_.panel_bytes(Side::database) + wide_.padded * 25;
  return total;
}

}  // namespace dcfast
