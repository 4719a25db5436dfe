// The index files of NVIDIA DALI's tool wds2idx, version 1.2: docs/formats.md, "DALI's index files".
#pragma once

#include <cstdint>
#include <string>

#include "core/index/tar_segment.hpp"

namespace dcfast {

/// The text of the index file of one shard (shard < num_shards()): a line a sample. Throws invalid_argument where a
/// name has white space, which the format cannot hold, or where the shard has no samples, which DALI refuses.
/// Memory: the text, about 60 bytes a member.
std::string wds2idx_text(const SegmentFile& segment, std::uint64_t shard);

}  // namespace dcfast
