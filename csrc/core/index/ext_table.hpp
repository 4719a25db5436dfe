// The extensions of a shard, and which of its samples have several pictures that were meant as samples of their own.
#pragma once

#include <array>

#include "core/index/string_table.hpp"

namespace dcfast {

/// The last dotted parts, in lower case, of the extensions that images have: of all kinds that dcfast.images.decode reads.
/// The size of what is no JPEG, PNG, WebP, GIF, BMP or TIFF is unknown to the index.
std::vector<std::string_view> image_exts();
/// Whether an extension's last dotted part, lower-cased, is one of `image_exts`.
bool is_image_ext(std::string_view ext);

/// With ASCII letters in lower case.
std::string folded(std::string_view text);

/// What an extension says of its members.
struct ExtTraits {
  bool json = false, caption = false;
  std::uint8_t image = 0;  // the kind of image, 0 for none: jpg and jpeg are one, tif and tiff, ...
  bool numbered = false;   // an image whose extension begins with a number: 000001.jpg
  bool text = false;       // its last dotted part is json or txt
  std::uint32_t stem = 0;  // a number for what stands before its last dot; 0: nothing does
};

struct FoldedHash {
  std::size_t operator()(std::string_view text) const;
};
struct FoldedSame {
  bool operator()(std::string_view a, std::string_view b) const noexcept;
};

/// The extensions come in the same few, in the same order: the one after the last is tried first.
/// Memory: about 60 bytes an extension, and their text twice.
class ExtTable {
 public:
  explicit ExtTable(StringTable& names) : names_(names), ids_(names), folded_(names), stem_ids_(stems_) { stems_.add({}); }

  std::uint32_t find(std::string_view ext) {
    if (!entries_.empty()) {
      const std::uint32_t guess = last_ + 1 < entries_.size() ? last_ + 1 : 0;
      if (names_[guess] == ext) return last_ = guess;
      const std::uint32_t known = ids_.find(ext);
      if (known != ids_.none) return last_ = known;
    }
    return last_ = add(ext);
  }
  const ExtTraits& operator[](std::uint32_t id) const { return entries_[id].traits; }
  /// Notes that `sample`, counted from 1, has extension `id`; true where it had it already.
  bool repeats(std::uint32_t id, std::uint64_t sample) {
    auto& last = entries_[entries_[id].first].last_sample;
    const bool again = last == sample;
    last = sample;
    return again;
  }

 private:
  struct Entry {
    ExtTraits traits;
    std::uint32_t first;             // the number for all cases of an extension
    std::uint64_t last_sample = 0;  // of the first one's entry: the sample that has it
  };
  std::uint32_t add(std::string_view ext);

  StringTable& names_;
  StringIds<> ids_;
  StringIds<FoldedHash, FoldedSame> folded_;
  StringTable stems_;
  StringIds<FoldedHash, FoldedSame> stem_ids_;
  std::vector<Entry> entries_;
  std::uint32_t last_ = 0;
};

/// A dot before the last one of a name makes one sample of many, by webdataset's rule. Told by their pictures: two that are
/// numbered; more than four; two of one kind where none stands alone as KEY.jpg; or one, beside another, that has a text
/// of its own (a.old.jpg with a.old.txt). Masks, views and thumbnails beside a KEY.jpg are fewer, and have none.
class CrowdedSamples {
 public:
  static constexpr std::uint32_t most_images = 4;

  void add(const ExtTraits& ext);
  /// Ends sample number `sample`.
  void close(std::size_t sample);

  std::uint64_t count = 0;  // samples that are crowded
  std::size_t first = 0;
  std::uint32_t images_of_first = 0;

 private:
  static constexpr std::size_t image_kinds = 11;
  struct Stem {
    std::uint64_t image = 0, text = 0;  // the last sample that has it before either
  };

  std::uint64_t sample_ = 1;
  std::uint32_t images_ = 0, numbered_ = 0, alone_ = 0;
  bool own_text_ = false;
  std::array<std::uint32_t, image_kinds> of_kind_{};
  std::vector<Stem> stems_;
};

}  // namespace dcfast
