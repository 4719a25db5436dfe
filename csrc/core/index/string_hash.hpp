// A hash for tables of names that come out of files: seeded anew in each process, so that nobody can make names that
// all fall into one place of the table. Nothing that is stored or returned may depend on it.
#pragma once

#include <cstddef>
#include <string_view>

namespace dcfast {

struct StringHash {
  std::size_t operator()(std::string_view text) const noexcept;
};

}  // namespace dcfast
