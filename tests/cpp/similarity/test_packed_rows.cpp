// Codes of very wide rows: products of two of them have to stay within 32 bits.
#include "core/similarity/packed_rows.hpp"

#include <cmath>
#include <cstddef>
#include <vector>

#include "check.hpp"

using namespace dcfast;

int main() {
  constexpr double kLongest = 46340;  // its square is the last below 2^31
  for (const std::size_t width : {std::size_t{64}, std::size_t{5'000'000}}) {
    const std::vector<std::byte> ones(width, std::byte{1});
    const EmbeddingRows rows{ones.data(), 1, width, 0, Kind::int8};
    for (const CodeWidth codes : {CodeWidth::narrow, CodeWidth::wide}) {
      PackedRows packed;
      pack_rows(rows, 0, 1, Side::queries, codes, 1, packed);
      CHECK(packed.state[0] == RowState::usable);
      CHECK(std::isfinite(packed.error[0]));
      CHECK((packed.norm[0] + packed.error[0]) / packed.scale[0] <= kLongest);
    }
  }
  return failures();
}
