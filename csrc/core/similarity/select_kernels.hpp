// The inner loops of a search, one table for each instruction set: integer products with the comparison against a
// threshold fused, and exact scores. All tables give the same bits.
//
// Exact sums have 16 lanes: lane l adds the products of elements l, l + 16, ... in rising order, in double precision, and
// the lanes are folded by halves (8, 4, 2, 1). A product of two inputs is exact in a double, so that only this order
// decides the bits; squared differences are rounded, multiplied and added one after the other (no fused operation).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/similarity/embedding_rows.hpp"

namespace dcfast {

inline constexpr std::size_t kRowPanel = 4;       // rows of queries that are multiplied at a time
inline constexpr std::size_t kColumnPanel = 16;   // rows of the database, side by side
inline constexpr std::size_t kStrip = 32;         // two column panels: what is compared between two looks at the hits
inline constexpr std::size_t kChunkQuads = 16;    // narrow codes: products of so many quads are added up in 16 bits
inline constexpr int kQueryOffset = 64;           // narrow codes of queries are stored as unsigned bytes above this

/// A score that may reach its threshold.
struct Hit {
  std::uint32_t row;     // in the block of queries
  std::uint32_t column;  // in the strip
  float value;           // the score by the codes
};

/// A block of queries against a strip of the database, both as codes (packed_rows.hpp).
/// value = (product of the codes * column_scale) * row_scale + column_bias, its sign dropped where `magnitudes`; a hit where
/// it is not below the row's threshold (a NaN is a hit).
struct Strip {
  const std::byte* queries;    // row panels one after the other: for each step 4 rows x 4 bytes
  const std::byte* columns;    // column panels one after the other: for each step 16 columns x 4 bytes
  std::size_t row_panels;
  std::size_t column_panels;
  std::size_t steps;           // of 4 bytes: two wide codes or four narrow ones
  const float* row_scale;
  const float* threshold;
  const float* column_scale;
  const float* column_bias;
  const std::int32_t* column_sums;  // narrow codes: sum of each column's
  bool magnitudes;
  Hit* hits;                   // room for all
};

/// Of a row: its largest magnitude, and the largest sum of squares of what goes into one 16-bit lane: of each four elements
/// of a chunk the first two, or the last two.
struct RowShape {
  double largest, longest_part;
};

struct SelectKernels {
  const char* name;
  RowShape (*shape)(const double* x, std::size_t width);
  /// codes = x * to_codes, rounded to the nearest; returns the sum of squares of what x is off by (codes * scale).
  double (*encode)(const double* x, std::size_t width, double to_codes, double scale, std::int16_t* codes);
  void (*to_double)(const std::byte* row, Kind kind, std::size_t width, double* out);
  double (*dot)(const double* x, const std::byte* y, Kind kind, std::size_t width);
  double (*squared_distance)(const double* x, const std::byte* y, Kind kind, std::size_t width);
  std::size_t (*wide_strip)(const Strip& strip);
  std::size_t (*narrow_strip)(const Strip& strip);
};

namespace baseline { extern const SelectKernels select_kernels; }
namespace avx2 { extern const SelectKernels select_kernels; }
namespace avx512 { extern const SelectKernels select_kernels; }
namespace vnni { extern const SelectKernels select_kernels; }

/// The table of the widest instruction set here; DCFAST_ISA=baseline, avx2 or avx512 asks for a narrower one.
const SelectKernels& select_kernels();

}  // namespace dcfast
