// Strings end to end, and their numbers by open addressing: no string is kept twice, whatever a file makes of them.
#pragma once

#include <functional>
#include <vector>

#include "core/index/string_hash.hpp"
#include "core/system/error.hpp"

namespace dcfast {

/// String i is text[begin[i], begin[i + 1]).
struct StringTable {
  std::vector<std::uint64_t> begin{0};
  std::string text;

  std::size_t size() const noexcept { return begin.size() - 1; }
  void add(std::string_view s) {
    text.append(s);
    begin.push_back(text.size());
  }
  std::string_view operator[](std::size_t i) const {
    return std::string_view(text).substr(begin[i], begin[i + 1] - begin[i]);
  }
  void shrink_to_fit() {
    begin.shrink_to_fit();
    text.shrink_to_fit();
  }
};

/// Which strings of a table are known, and the number of the first of equal ones. 8 to 16 bytes a string.
template <typename Hash = StringHash, typename Equal = std::equal_to<>>
class StringIds {
 public:
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();

  explicit StringIds(const StringTable& strings, std::size_t slots = 64) : strings_(strings), slots_(slots, none) {}

  /// The number of the string that equals `s`, or none.
  std::uint32_t find(std::string_view s) const { return slots_[place_of(s)]; }
  /// Takes string `number`; returns the number of the equal one that came before it, or none.
  std::uint32_t add(std::size_t number) {
    if (number >= none) refuse_argument("a shard holds at most 4294967294 samples");
    if (2 * (count_ + 1) > slots_.size()) grow();
    std::uint32_t& slot = slots_[place_of(strings_[number])];
    if (slot != none) return slot;
    slot = static_cast<std::uint32_t>(number);
    ++count_;
    return none;
  }

 private:
  std::size_t place_of(std::string_view s) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = Hash{}(s) & mask;
    while (slots_[at] != none && !Equal{}(strings_[slots_[at]], s)) at = (at + 1) & mask;
    return at;
  }
  void grow() {
    std::vector<std::uint32_t> old(2 * slots_.size(), none);
    old.swap(slots_);
    for (const std::uint32_t number : old) {
      if (number != none) slots_[place_of(strings_[number])] = number;
    }
  }

  const StringTable& strings_;
  std::vector<std::uint32_t> slots_;
  std::size_t count_ = 0;
};

}  // namespace dcfast
