#include "core/index/tar_index.hpp"

#include <algorithm>

#include "core/hashing/hashing.hpp"
#include "core/images/image_header.hpp"
#include "core/index/json_uid.hpp"
#include "core/index/tar_limits.hpp"

namespace dcfast {

namespace {

static_assert(ReadWindow::padding >= UidReader::padding);

/// An image inside the archive. Its first bytes come through the walker's window, which wants the header that
/// follows next anyway; what lies further is read around the window.
class MemberImage final : public ImageBytes {
 public:
  MemberImage(ReadWindow& window, std::uint64_t begin, std::uint64_t size) : window_(window), begin_(begin), size_(size) {}

  std::span<const std::byte> at(std::uint64_t offset, std::size_t count) override {
    if (offset >= size_) return {};
    count = std::min(count, size_ - offset);
    if (offset + count <= window_bytes) return part(window_.view(begin_, std::min(window_bytes, size_)), offset, count);
    if (offset < aside_begin_ || offset + count > aside_begin_ + aside_length_) {
      aside_begin_ = offset;
      aside_length_ = window_.read_aside(std::span(aside_).first(std::min(aside_.size(), size_ - offset)), begin_ + offset);
    }
    return part(std::span(aside_).first(aside_length_), offset - aside_begin_, count);
  }

 private:
  // A baseline JPEG's frame header lies about 160 bytes in, one with a small comment or JFIF thumbnail under 1 KiB.
  static constexpr std::uint64_t window_bytes = 1024;

  static std::span<const std::byte> part(std::span<const std::byte> bytes, std::uint64_t begin, std::size_t count) {
    return begin >= bytes.size() ? std::span<const std::byte>() : bytes.subspan(begin, std::min(count, bytes.size() - begin));
  }

  ReadWindow& window_;
  std::uint64_t begin_;
  std::uint64_t size_;
  std::uint64_t aside_begin_ = 0;
  std::size_t aside_length_ = 0;
  std::array<std::byte, 512> aside_;
};

class ShardBuilder {
 public:
  ShardBuilder(TarWalker& walker, const IndexOptions& options, ShardIndex& out)
      : walker_(walker), options_(options), out_(out), exts_(out.exts), keys_(out.keys),
        uids_(options.uid_from == UidFrom::url ? "url" : "uid") {}

  void add(const TarMember& member) {
    std::string_view key;
    std::string_view ext;
    if (member.kind != MemberKind::regular || !split_member_name(member.name, key, ext)) {
      add_stray(member);
      return;
    }
    const std::uint32_t id = exts_.find(ext);
    // behind an end mark, too, a sample begins: members of two archives never make one
    const bool other = out_.flags.empty() || key != out_.keys[out_.flags.size() - 1] || walker_.joined().count != archives_;
    if (other || exts_.repeats(id, out_.flags.size())) {
      begin_sample(member, key, other ? std::uint16_t{0} : sample_flag::repeated_ext);
      exts_.repeats(id, out_.flags.size());
    }
    append_member(out_, member.data_offset, member.size, id, previous_end_);
    if (exts_[id].json) read_json(member);
    if (exts_[id].caption) out_.flags.back() &= static_cast<std::uint16_t>(~sample_flag::no_caption);
    crowded_.add(exts_[id]);
    if (exts_[id].image != 0) read_image(member);
  }

  /// Says once for the shard, whatever the number of samples: what of it may not stand where it was meant to.
  void add_notes() {
    crowded_.close(out_.flags.size() - 1);
    note_joined();
    note_repeated_keys();
    note_many_images();
    note_strays();
  }

  /// Marks the sample that damage may have robbed of members: unless the member that is cut is known and
  /// belongs elsewhere.
  void mark_cut() {
    for (const TarReport& report : walker_.reports()) {
      if (!report.damage || out_.flags.empty()) continue;
      std::string_view key;
      std::string_view ext;
      const bool known = !report.member.empty();
      const bool grouped = known && split_member_name(report.member, key, ext);
      if (!known || (grouped && key == out_.keys[out_.flags.size() - 1])) out_.flags.back() |= sample_flag::cut;
    }
  }

 private:
  template <typename... Parts>
  void note(std::uint64_t offset, const Parts&... parts) {
    out_.reports.push_back({offset, false, cat(parts...), {}});
  }

  /// Nothing tells archives that were joined from the rest of a longer file under a shorter one: the bytes are the same.
  void note_joined() {
    const TarWalker::Joined& joined = walker_.joined();
    if (joined.count == 0) return;
    const bool one = joined.count == 1;
    const bool one_sample = joined_samples_ == 1;
    note(joined.begin, one ? std::string(tar_note::joined) : cat(joined.count, tar_note::several_joined),
         " the end-of-archive marker at byte ", joined.mark, one ? ": its " : ": their ", joined_samples_,
         one_sample ? " sample" : " samples",
         joined_repeated_ == 0 ? "" : cat(", ", joined_repeated_, " of them with keys of earlier ones,"),
         one_sample ? " was" : " were",
         " read too, as tar -i does; if this is what an older, longer file left, rewrite the shard");
  }

  /// What flags say for each sample: parts of what was one sample must not pass for wholes.
  void note_repeated_keys() {
    if (repeated_keys_ == 0) return;
    const bool one = repeated_keys_ == 1;
    note(out_.base[first_repeated_], repeated_keys_, one ? " sample has" : " samples have", tar_note::same_key, ", ",
         one ? "" : "the first ", printable_name(out_.keys[first_repeated_]),
         ": written twice, or interleaved with others; each part is a sample of its own");
  }

  void note_many_images() {
    if (crowded_.count == 0) return;
    note(out_.base[crowded_.first], tar_note::many_images, ": ",
         crowded_.count == 1 ? "" : cat(crowded_.count, " samples, the first "),
         printable_name(out_.keys[crowded_.first]), " has ", crowded_.images_of_first,
         ": a sample's key ends at the first dot of a name (webdataset's rule), so a dot inside a name, "
         "as before a number, makes one sample of many; only the first picture of a sample is used");
  }

  void note_strays() {
    if (sparse_ > 0) {
      note(sparse_offset_, "sparse member ", printable_name(out_.stray_names[first_sparse_]), tar_note::not_plain,
           ": it belongs to no sample", sparse_ == 1 ? "" : cat("; it is the first of ", sparse_, " such members"));
    }
    if (links_ > 0) {
      note(0, links_, links_ == 1 ? " member is one of the" : " members are", tar_note::links,
           " and belong to no sample, the first ", printable_name(out_.stray_names[first_link_]),
           ": pack the files themselves (tar -h --hard-dereference)");
    }
    if (out_.flags.empty() && regular_strays_ > 0) {
      note(0, tar_note::no_sample, ": ", regular_strays_,
           " members have names without an extension, or that begin with a dot, the first ",
           printable_name(out_.stray_names[first_regular_]));
    }
  }

  void add_stray(const TarMember& member) {
    const std::size_t number = out_.stray_kind.size();
    std::string_view key;
    std::string_view ext;
    if (member.kind == MemberKind::regular && regular_strays_++ == 0) first_regular_ = number;
    const bool link = member.kind == MemberKind::hard_link || member.kind == MemberKind::symlink;
    if (link && split_member_name(member.name, key, ext) && links_++ == 0) first_link_ = number;
    out_.stray_names.add(member.name);
    out_.stray_offset.push_back(member.data_offset);
    out_.stray_size.push_back(member.size);
    out_.stray_kind.push_back(static_cast<std::uint8_t>(member.kind));
    if (member.kind == MemberKind::sparse && sparse_++ == 0) {
      first_sparse_ = number;
      sparse_offset_ = member.header_offset;
    }
  }

  void begin_sample(const TarMember& member, std::string_view key, std::uint16_t flags) {
    flags |= sample_flag::no_json | sample_flag::no_caption | sample_flag::no_image;
    if (!out_.flags.empty()) crowded_.close(out_.flags.size() - 1);
    archives_ = walker_.joined().count;
    joined_samples_ += archives_ > 0 ? 1 : 0;
    out_.keys.add(key);
    if (keys_.add(out_.flags.size()) != keys_.none) {
      joined_repeated_ += archives_ > 0 ? 1 : 0;
      flags |= sample_flag::repeated_key;
      if (repeated_keys_++ == 0) first_repeated_ = out_.flags.size();
    }
    out_.flags.push_back(flags);
    out_.uid.push_back({});
    out_.base.push_back(member.header_offset);
    out_.member_count.push_back(0);
    out_.width.push_back(0);
    out_.height.push_back(0);
    previous_end_ = member.header_offset;
  }

  void read_json(const TarMember& member) {
    std::uint16_t& flags = out_.flags.back();
    flags &= static_cast<std::uint16_t>(~sample_flag::no_json);
    if (!options_.read_uid) {
      flags |= sample_flag::no_uid;
      return;
    }
    UidStatus status = UidStatus::bad_json;
    ReadWindow& window = walker_.window();
    if (member.size <= ReadWindow::max_view) {
      const auto bytes = window.view(member.data_offset, member.size);
      if (bytes.size() == member.size) status = uids_.read(bytes, out_.uid.back());
    } else if (member.size <= tar_limits::max_json) {
      std::vector<std::byte> bytes(member.size + UidReader::padding);
      const std::span<std::byte> json(bytes.data(), member.size);
      if (window.read_aside(json, member.data_offset) == member.size) status = uids_.read(json, out_.uid.back());
    }
    if (status == UidStatus::missing) flags |= sample_flag::no_uid;
    if (status == UidStatus::malformed) flags |= sample_flag::bad_uid;
    if (status == UidStatus::bad_json) flags |= sample_flag::bad_json;
  }

  void read_image(const TarMember& member) {
    std::uint16_t& flags = out_.flags.back();
    if ((flags & sample_flag::no_image) == 0) return;  // not the first image
    flags &= static_cast<std::uint16_t>(~sample_flag::no_image);
    if (!options_.read_image_size) return;
    MemberImage image(walker_.window(), member.data_offset, member.size);
    const ImageSize size = read_image_size(image);
    out_.width.back() = size.width;
    out_.height.back() = size.height;
  }

  TarWalker& walker_;
  const IndexOptions& options_;
  ShardIndex& out_;
  ExtTable exts_;
  StringIds<> keys_;
  UidReader uids_;
  std::uint64_t previous_end_ = 0;
  std::uint64_t repeated_keys_ = 0;
  std::size_t first_repeated_ = 0;
  CrowdedSamples crowded_;
  // archives behind the first one
  std::uint64_t archives_ = 0, joined_samples_ = 0, joined_repeated_ = 0;
  // strays that may have been meant as members
  std::uint64_t links_ = 0, regular_strays_ = 0, sparse_ = 0, sparse_offset_ = 0;
  std::size_t first_link_ = 0, first_regular_ = 0, first_sparse_ = 0;
};

}  // namespace

void append_member(ShardIndex& shard, std::uint64_t data_offset, std::uint64_t size, std::uint32_t ext, std::uint64_t& previous_end) {
  using namespace packed_member;
  const std::uint64_t gap = (data_offset - previous_end) / block_size;
  if (gap >= gap_escape || size > largest_size || ext > largest_ext) {
    shard.members.push_back(gap_escape << 48 | shard.escapes.size());
    shard.escapes.push_back({data_offset, size, ext, 0});
  } else {
    shard.members.push_back(gap << 48 | std::uint64_t{ext} << 32 | size);
  }
  previous_end = data_offset + (size + block_size - 1) / block_size * block_size;
  ++shard.member_count.back();
}

bool split_member_name(std::string_view name, std::string_view& key, std::string_view& ext) {
  const std::string_view first = name.substr(0, name.find('/'));
  if (first.size() >= 4 && first.starts_with("__") && first.ends_with("__")) return false;
  const std::size_t begin = name.rfind('/') + 1;  // npos + 1 is 0
  const std::size_t dot = name.find('.', begin);
  if (dot == std::string_view::npos || dot == begin) return false;
  key = name.substr(0, dot);
  ext = name.substr(dot + 1);
  return true;
}

void set_key_uids(ShardIndex& shard, std::string_view shard_name) {
  std::string text(shard_name.substr(shard_name.rfind('/') + 1));  // npos + 1 is 0
  text.push_back('/');
  const std::size_t begin = text.size();
  for (std::size_t i = 0; i < shard.flags.size(); ++i) {
    text.resize(begin);
    text.append(shard.keys[i]);
    shard.uid[i] = xxh3_128(std::as_bytes(std::span(text)));
    shard.flags[i] &= static_cast<std::uint16_t>(~sample_flag::without_uid);
  }
}

ShardIndex index_tar(ByteReader& reader, const IndexOptions& options) {
  ShardIndex out;
  out.tar_size = reader.size();
  TarWalker walker(reader);
  ShardBuilder builder(walker, options, out);
  TarMember member;
  while (walker.next(member)) builder.add(member);
  builder.mark_cut();
  builder.add_notes();
  out.reports.insert(out.reports.end(), walker.reports().begin(), walker.reports().end());
  return out;
}

ShardIndex index_tar_file(const std::string& path, const IndexOptions& options) {
  const File file = File::open_read(path);
  FileReader reader(file);
  const FileVersion version = file.version();
  ShardIndex out = index_tar(reader, options);
  out.mtime_ns = version.mtime_ns;
  if (file.version() != FileVersion{out.tar_size, version.mtime_ns}) {
    out.reports.push_back({0, true, "the file changed while it was indexed: index it again", {}});
  } else if (!file.is_at_its_path()) {
    out.reports.push_back({0, true, "the file was replaced while it was indexed: index it again", {}});
  }
  return out;
}

}  // namespace dcfast
