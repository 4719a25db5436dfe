// Rows of embeddings in memory of the caller: what a search reads, in the dtype it was given.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast {

enum class Kind : std::uint8_t { float32, float16, bfloat16, int8 };

enum class Metric : std::uint8_t { ip, cos, l2 };

/// count rows of width numbers; the numbers of a row lie side by side, the rows `stride` bytes apart.
struct EmbeddingRows {
  const std::byte* data = nullptr;
  std::size_t count = 0;
  std::size_t width = 0;
  std::ptrdiff_t stride = 0;
  Kind kind = Kind::float32;

  const std::byte* row(std::size_t i) const noexcept { return data + static_cast<std::ptrdiff_t>(i) * stride; }
};

}  // namespace dcfast
