// The index of one shard: members grouped into samples by webdataset's rule, with uid and image size.
// Neighbouring members with one key are a sample. Key: the name up to the first dot after its last slash;
// extension: the rest. A member without a dot there, or whose last part begins with a dot, or whose path
// begins with a part like __x__, or that is not a regular file, belongs to no sample and does not end one:
// it is a stray, listed apart.
#pragma once

#include "core/index/ext_table.hpp"
#include "core/index/tar_walk.hpp"
#include "core/uids/uid.hpp"

namespace dcfast {

/// Bits of a sample's flags (u16).
namespace sample_flag {
constexpr std::uint16_t no_json = 1;
constexpr std::uint16_t no_caption = 2;    // no txt
constexpr std::uint16_t no_image = 4;      // no member with an image's extension
constexpr std::uint16_t no_uid = 8;        // json without uid (or json not read, as asked)
constexpr std::uint16_t bad_uid = 16;      // uid is not 32 hexadecimal digits
constexpr std::uint16_t bad_json = 32;     // not json, or more than 8 MiB of it
constexpr std::uint16_t repeated_ext = 64;   // began because an extension came a second time
constexpr std::uint16_t cut = 128;           // the shard is damaged inside or right behind this sample
constexpr std::uint16_t repeated_key = 256;  // an earlier sample of the shard has the same key
constexpr std::uint16_t without_uid = no_json | no_uid | bad_uid | bad_json;
}  // namespace sample_flag

/// How one member is packed into 8 bytes: size in bits 0..31, extension in 32..47, and in 48..63 the number of
/// 512-byte blocks from the end of the sample's previous member (padding included; for the first member: from
/// the sample's base) to the data. 0xffff there: bits 0..31 are an index into the table of escapes.
namespace packed_member {
constexpr std::uint64_t gap_escape = 0xffff;
constexpr std::uint64_t largest_size = 0xffffffff;
constexpr std::uint64_t largest_ext = 0xffff;
constexpr std::uint64_t block_size = 512;
}  // namespace packed_member

struct MemberEscape {
  std::uint64_t data_offset;
  std::uint64_t size;
  std::uint32_t ext;
  std::uint32_t zero;
};
static_assert(sizeof(MemberEscape) == 24);

/// Where the uid of a sample comes from (docs/formats.md, "Uids of pools without uids").
enum class UidFrom : std::uint8_t {
  json,  // "uid" of the json member
  url,   // XXH3-128 of "url" of the json member
  key,   // XXH3-128 of the shard's file name, a slash and the sample's key
};

struct IndexOptions {
  bool read_uid = true;         // parse json members
  bool read_image_size = true;  // read image headers
  UidFrom uid_from = UidFrom::json;
};

/// Columns of one shard, in tar order. Extensions are in their original case.
struct ShardIndex {
  std::uint64_t tar_size = 0;
  std::int64_t mtime_ns = 0;
  // samples
  std::vector<Uid> uid;  // 0 where flags & without_uid
  std::vector<std::uint64_t> base;
  std::vector<std::uint32_t> member_count;
  std::vector<std::uint16_t> flags;
  std::vector<std::uint32_t> width;
  std::vector<std::uint32_t> height;
  StringTable keys;
  // members of samples
  std::vector<std::uint64_t> members;
  std::vector<MemberEscape> escapes;
  StringTable exts;
  // everything else
  StringTable stray_names;
  std::vector<std::uint64_t> stray_offset;
  std::vector<std::uint64_t> stray_size;
  std::vector<std::uint8_t> stray_kind;
  std::vector<TarReport> reports;
};

/// Appends a member to the shard's last sample. `previous_end`: where the sample's previous member ends, padding
/// included (for its first member: its base); moved on behind this one.
void append_member(ShardIndex& shard, std::uint64_t data_offset, std::uint64_t size, std::uint32_t ext, std::uint64_t& previous_end);

/// Key and extension of a member's name; false where it belongs to no sample.
bool split_member_name(std::string_view name, std::string_view& key, std::string_view& ext);
/// Gives each sample its uid by UidFrom::key. `shard_name`: what is before its last slash does not count.
void set_key_uids(ShardIndex& shard, std::string_view shard_name);

/// Indexes one archive. UidFrom::key is for set_key_uids, which knows the shard's name. Damage ends the walk and is in `reports`; only Error{io} is thrown.
/// Memory: what TarWalker states, a json member as it is parsed, and the columns: see tar_limits.hpp.
ShardIndex index_tar(ByteReader& reader, const IndexOptions& options);
/// The same of a file. A file that changes under the walk is reported as damage.
ShardIndex index_tar_file(const std::string& path, const IndexOptions& options);

}  // namespace dcfast
