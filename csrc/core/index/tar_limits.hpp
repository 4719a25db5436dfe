// What a tar may cost its reader: the bounds on what strangers write, in one place (docs/formats.md, "What a tar may
// cost"). A member takes at least 512 bytes of its file; beside its name it costs a fixed number of bytes of memory,
// which tests/cpp/index/test_tar_memory.cpp measures. Where names lie in the file, they cost what they take there.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcfast::tar_limits {

/// Of one member, from a GNU long name or a pax header. More is damage.
inline constexpr std::uint64_t max_name = 1 << 20;
/// A name that a global pax header gives to all members that follow: as long as one in a header of their own may be
/// (prefix, slash, name), so that no file makes names which it does not hold. More is damage.
inline constexpr std::uint64_t max_global_name = 256;
/// A pax header while it is parsed. More is damage.
inline constexpr std::uint64_t max_pax_header = 16 << 20;
/// A json member that is read for its uid. More counts as json that cannot be read.
inline constexpr std::uint64_t max_json = 8 << 20;
/// Memory for each byte of the largest json of a shard, the parser's included.
inline constexpr std::uint64_t bytes_per_json_byte = 20;
/// Zeros behind an end mark that are taken for the padding of a record; tars pad to 10 KiB, as a rule.
inline constexpr std::uint64_t max_padding = 1 << 20;
/// Memory of a shard while it is indexed, beside the walker's buffers: for each member, and for each byte of names.
/// Whatever is noted is noted once a shard and kind, with a count.
inline constexpr std::size_t bytes_per_member = 256;
inline constexpr std::size_t bytes_per_name_byte = 3;

}  // namespace dcfast::tar_limits
