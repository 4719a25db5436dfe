#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast::avx2 {

/// Adds count values (a multiple of 8) times `one`, rounded to whole numbers, to sums; whether all values are within
/// `most`. most * one must be below 2^31.
bool add_whole(const float* values, std::int64_t* sums, std::size_t count, float one, float most) noexcept;

}  // namespace dcfast::avx2
