#include "core/index/ext_table.hpp"

#include <algorithm>
#include <utility>

namespace dcfast {

namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string_view last_part(std::string_view ext) { return ext.substr(ext.rfind('.') + 1); }  // npos + 1 is 0

constexpr auto known_images = std::to_array<std::pair<std::string_view, std::uint8_t>>({
    {"jpg", 1}, {"jpeg", 1}, {"png", 2}, {"webp", 3}, {"gif", 4}, {"bmp", 5}, {"tif", 6}, {"tiff", 6},
    {"jpe", 1}, {"jfif", 1}, {"apng", 2}, {"avif", 7},
    {"jp2", 8}, {"j2k", 8}, {"j2c", 8}, {"jpc", 8}, {"jpf", 8}, {"jpx", 8},
    {"pbm", 9}, {"pgm", 9}, {"ppm", 9}, {"pnm", 9}, {"ico", 10},
});

/// Which kind of image an extension stands for, 0 for none.
std::uint8_t image_kind(std::string_view ext) {
  const std::string_view part = last_part(ext);
  if (part.size() < 3 || part.size() > 4) return 0;
  for (const auto& [name, kind] : known_images) {
    if (FoldedSame{}(part, name)) return kind;
  }
  return 0;
}

/// Whether digits stand before the first dot.
bool begins_with_number(std::string_view ext) {
  const std::size_t dot = ext.find('.');
  if (dot == std::string_view::npos || dot == 0) return false;
  return std::ranges::all_of(ext.substr(0, dot), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string folded(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), lower);
  return out;
}

std::vector<std::string_view> image_exts() {
  std::vector<std::string_view> exts;
  for (const auto& [name, kind] : known_images) exts.push_back(name);
  return exts;
}

bool is_image_ext(std::string_view ext) { return image_kind(ext) != 0; }

std::size_t FoldedHash::operator()(std::string_view text) const { return StringHash{}(folded(text)); }

bool FoldedSame::operator()(std::string_view a, std::string_view b) const noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return lower(x) == lower(y); });
}

std::uint32_t ExtTable::add(std::string_view ext) {
  const auto id = static_cast<std::uint32_t>(entries_.size());
  names_.add(ext);
  ids_.add(id);
  const std::uint32_t same = folded_.add(id);
  const std::string whole = folded(ext);
  const std::string_view part = last_part(whole);
  ExtTraits traits{whole == "json", whole == "txt", image_kind(ext), false, part == "json" || part == "txt", 0};
  traits.numbered = traits.image != 0 && begins_with_number(ext);
  if (part.size() < whole.size() && (traits.image != 0 || traits.text)) {
    const std::string_view stem = std::string_view(whole).substr(0, whole.size() - part.size());
    traits.stem = stem_ids_.find(stem);
    if (traits.stem == stem_ids_.none) {
      traits.stem = static_cast<std::uint32_t>(stems_.size());
      stems_.add(stem);
      stem_ids_.add(traits.stem);
    }
  }
  entries_.push_back({traits, same == folded_.none ? id : same});
  return id;
}

void CrowdedSamples::add(const ExtTraits& ext) {
  if (ext.image == 0 && !(ext.text && ext.stem != 0)) return;
  if (ext.image != 0) {
    ++images_;
    numbered_ += ext.numbered ? 1 : 0;
    if (ext.stem == 0) ++alone_;
    else ++of_kind_[ext.image];
  }
  if (ext.stem == 0) return;
  if (ext.stem >= stems_.size()) stems_.resize(ext.stem + 1);
  Stem& stem = stems_[ext.stem];
  (ext.image != 0 ? stem.image : stem.text) = sample_;
  own_text_ = own_text_ || stem.image == stem.text;
}

void CrowdedSamples::close(std::size_t sample) {
  ++sample_;
  const bool pair = alone_ == 0 && std::ranges::any_of(of_kind_, [](std::uint32_t n) { return n >= 2; });
  if (images_ >= 2 && (numbered_ >= 2 || images_ > most_images || own_text_ || pair) && count++ == 0) {
    first = sample;
    images_of_first = images_;
  }
  if (images_ != 0 || own_text_) {
    images_ = numbered_ = alone_ = 0;
    own_text_ = false;
    of_kind_.fill(0);
  }
}

}  // namespace dcfast
