// The inner loops of the resampling for AVX2, in a file of their own: call them where the machine has it
// (core/system/cpu.hpp). Arguments as in core/images/resize.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast::avx2 {

/// Bytes of scratch a pair of pixels.
inline constexpr std::size_t kPairBytes = 96;

/// `pixels` is scratch for the pairs that the taps reach, and two more.
void resize_across(const std::uint8_t* const* rows, std::size_t width, const std::uint32_t* first, const std::int16_t* split,
                   std::uint32_t size, std::uint32_t slots, std::uint32_t pairs, std::uint8_t* pixels, std::uint8_t* const* out) noexcept;

/// Fewer bytes are not for this.
inline constexpr std::size_t kDownBytes = 32;

void resize_down(const std::uint8_t* const* rows, const std::int16_t* split, std::uint32_t pairs, std::size_t count,
                 std::uint8_t* out) noexcept;

}  // namespace dcfast::avx2
