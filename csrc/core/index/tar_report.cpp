#include "core/index/tar_report.hpp"

namespace dcfast {

SampleLoss sample_loss(bool damage, std::string_view message) {
  if (damage) return SampleLoss::archive;
  for (const std::string_view start : {tar_note::no_end, tar_note::data_behind, tar_note::zeros_behind}) {
    if (message.starts_with(start)) return SampleLoss::archive;
  }
  for (const std::string_view start : {tar_note::no_sample, tar_note::many_images, tar_note::joined}) {
    if (message.starts_with(start)) return SampleLoss::names;
  }
  for (const std::string_view part : {tar_note::same_key, tar_note::not_plain, tar_note::links, tar_note::several_joined}) {
    if (message.find(part) != std::string_view::npos) return SampleLoss::names;
  }
  return SampleLoss::none;
}

}  // namespace dcfast
