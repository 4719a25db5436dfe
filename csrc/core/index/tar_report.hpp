// What is said about an archive, and which of it may cost samples: the one place that knows.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dcfast {

/// Something to say about an archive. Damage: members may be missing from `offset` on, where the first thing
/// that could not be used begins; all members before it are whole. A note: legal, or lost nothing we can tell.
struct TarReport {
  std::uint64_t offset = 0;
  bool damage = false;
  std::string message;  // valid UTF-8
  std::string member;   // the raw name of the member that is cut, where it is known
};

/// How each note begins, or what stands in it, that may hide samples. Segments keep messages, not kinds: a new wording
/// needs the old one beside it.
namespace tar_note {
constexpr std::string_view no_end = "no end-of-archive marker";
constexpr std::string_view data_behind = "data follow the end-of-archive marker";
constexpr std::string_view zeros_behind = "zeros follow the end-of-archive marker";
constexpr std::string_view joined = "another archive follows";
constexpr std::string_view several_joined = " other archives follow";
constexpr std::string_view same_key = " the key of an earlier one";
constexpr std::string_view not_plain = " is listed, but not readable as plain bytes";
constexpr std::string_view many_images = "several pictures in one sample";
constexpr std::string_view links = " links, which hold no data";
constexpr std::string_view no_sample = "no member belongs to a sample";
}  // namespace tar_note

/// What a report means for whoever uses the samples of a shard.
enum class SampleLoss : std::uint8_t {
  none = 0,     // nothing is hidden
  archive = 1,  // part of the archive may not have been read: damage, no end, bytes behind the end
  names = 2,    // all was read, but what was read may not be what was meant: members that stand in other samples than
              // their names or kinds were meant for, an archive behind the end of another
};
/// Whether a report may hide samples, for all who read, copy, train on or score shards. Cost: the message.
SampleLoss sample_loss(bool damage, std::string_view message);

}  // namespace dcfast
