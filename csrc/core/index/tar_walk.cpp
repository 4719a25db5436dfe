#include "core/index/tar_walk.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "core/index/tar_header.hpp"
#include "core/index/tar_limits.hpp"

namespace dcfast {

namespace {

using namespace tar_header;
using namespace tar_limits;

constexpr std::size_t min_window = 4 << 10;
constexpr std::size_t max_window = 256 << 10;
// Reading on over a gap this small costs less than a system call saves.
constexpr std::uint64_t near_gap = 4 << 10;
// As far as tars are padded by most writers, and as much again.
constexpr std::uint64_t near_padding = 20 << 10;

std::uint64_t round_up(std::uint64_t n) { return (n + (block_size - 1)) & ~(block_size - 1); }

const char* chars(std::span<const std::byte> bytes) { return reinterpret_cast<const char*>(bytes.data()); }

bool all_zero(std::span<const std::byte> bytes) {
  // each byte equals the one before, and the first is 0: as fast as memory
  return bytes.empty() || (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// GNU's magic "ustar  " means that access and change times lie where POSIX has the prefix. Go 1.7 and older wrote
// the prefix nevertheless: then these are no numbers.
bool gnu_times(const char* block) {
  constexpr std::size_t time_length = 12;
  std::uint64_t ignored = 0;
  for (const std::size_t at : {prefix_at, prefix_at + time_length}) {
    if (block[at] != '\0' && parse_number(block + at, time_length, ignored) == Number::malformed) return false;
  }
  return true;
}

std::string foreign_format(std::string_view start) {
  const std::array<std::pair<std::string_view, const char*>, 5> known{{
      {"\x1f\x8b", "gzip"}, {"BZh", "bzip2"}, {{"\xfd" "7zXZ\0", 6}, "xz"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"PK\x03\x04", "zip"}}};
  for (const auto& [magic, name] : known) {
    if (start.starts_with(magic)) return cat("not a tar file: it starts like ", name, "; decompress it first");
  }
  return {};
}

void strip_slashes(std::string& name) {
  while (!name.empty() && name.back() == '/') name.pop_back();
}

}  // namespace

ReadWindow::ReadWindow(ByteReader& reader)
    : reader_(reader), size_(reader.size()), hint_(min_window), next_(2 * min_window) {
  // buffer_ grows with the window: an archive of a few members should not cost 256 KiB
  buffer_.resize(min_window + padding);
}

std::span<const std::byte> ReadWindow::refill(std::uint64_t offset, std::size_t count) {
  if (offset >= size_) return {};
  const std::uint64_t left = size_ - offset;
  count = std::min(count, left);
  const std::uint64_t end = begin_ + length_;
  std::size_t length;
  if (offset >= begin_ && offset <= end + near_gap) {
    length = next_;
    next_ = std::min(2 * next_, max_window);
  } else {
    const std::size_t stretch = std::min(touched_ - stretch_begin_, max_view);
    hint_ = stretch > hint_ ? stretch : hint_ - (hint_ - stretch) / 8;
    hint_ = std::clamp(hint_, min_window, max_view);
    length = hint_;
    next_ = 2 * hint_;
    stretch_begin_ = touched_ = offset;
  }
  length = std::min(std::max(length, count), left);
  if (buffer_.size() < length + padding) buffer_.resize(length + padding);
  length_ = reader_.read({buffer_.data(), length}, offset);
  begin_ = offset;
  count = std::min(count, length_);
  touched_ = std::max(touched_, offset + count);
  return {buffer_.data(), count};
}

std::size_t ReadWindow::read_aside(std::span<std::byte> out, std::uint64_t offset) {
  if (offset >= size_) return 0;
  return reader_.read(out.first(std::min(out.size(), size_ - offset)), offset);
}

bool TarWalker::fail(std::uint64_t offset, std::string message, std::string_view member) {
  reports_.push_back({offset, true, std::move(message), std::string(member)});
  done_ = true;
  return false;
}

void TarWalker::note(std::uint64_t offset, std::string message) { reports_.push_back({offset, false, std::move(message), {}}); }

bool TarWalker::next(TarMember& member) {
  if (done_) return false;
  if (next_whole(member)) return true;
  done_ = true;
  note_headers(malformed_, "malformed pax record: the rest of this pax header is ignored");
  note_headers(unended_, "a pax record does not end in a newline: taken as it is");
  return false;
}

void TarWalker::note_headers(const Repeated& headers, std::string message) {
  if (headers.count == 0) return;
  if (headers.count > 1) append(message, ", as in ", headers.count, " headers, of which this is the first");
  note(headers.first, std::move(message));
}

bool TarWalker::next_whole(TarMember& member) {
  local_ = {};
  in_chain_ = false;
  for (;;) {
    const std::uint64_t at = position_;
    const auto block = window_.view(at, block_size);
    if (block.size() < block_size || all_zero(block)) {
      if (!end_here()) return false;
      continue;
    }
    const char* const text = chars(block);
    const std::uint64_t begin = in_chain_ ? chain_begin_ : at;
    if (!checksum_holds(text)) {
      if (at > 0) return fail(begin, cat("header checksum is wrong at offset ", at, ": nothing from there on is indexed"));
      const std::string foreign = foreign_format({text, block_size});
      return fail(0, foreign.empty() ? "not a tar file: the first header's checksum is wrong" : foreign);
    }
    const char type = text[type_at];
    const bool announces = type == 'L' || type == 'K' || type == 'x' || type == 'X' || type == 'g';
    if (!announces) return fill_member(member, block, begin);
    std::uint64_t size = 0;
    if (!plain_size(text + size_at, size) && parse_number(text + size_at, size_length, size) != Number::good) {
      return fail(begin, "size field of an extended header is not a valid number");
    }
    if (!in_chain_ && type != 'g') {
      in_chain_ = true;
      chain_begin_ = at;
    }
    const std::uint64_t data = at + block_size;
    const bool good = type == 'L' || type == 'K' ? long_name(data, size, type == 'L') : pax_header(data, size, type == 'g');
    if (!good) return false;
    position_ = data + round_up(size);
  }
}

// There is no whole non-zero block at position_: the end of the archive, or a cut. True where another archive follows.
bool TarWalker::end_here() {
  const std::uint64_t at = position_;
  const std::uint64_t size = window_.size();
  if (size == 0) return fail(0, "empty file");
  const auto rest = window_.view(at, 2 * block_size);
  if (in_chain_) return fail(chain_begin_, "the archive ends after an extended header, before the member it describes");
  if (at > size) return fail(size, "the file ends inside the padding of its last block");
  if (rest.empty()) {
    note(at, cat(tar_note::no_end, ": the file ends after a whole member; members may have been lost to a cut"));
    return false;
  }
  if (rest.size() < block_size) {
    if (at == 0) {
      const std::string foreign = foreign_format({chars(rest), rest.size()});
      if (!foreign.empty()) return fail(0, foreign);
      return fail(0, cat("not a tar file: it has ", rest.size(), " bytes, less than one header"));
    }
    if (all_zero(rest)) {
      note(at, "the end-of-archive marker is cut short");
      return false;
    }
    return fail(at, cat("header cut off: ", rest.size(), " of 512 bytes"));
  }
  if (rest.size() < 2 * block_size) {
    if (!all_zero(rest)) return fail(at, "a single zero block is followed by a partial block: is this the end?");
    note(at, "the end-of-archive marker is cut short");
    return false;
  }
  if (!all_zero(rest)) return fail(at, "a single zero block is followed by data: nothing from there on is indexed");
  return next_archive();
}

// Behind the two zero blocks at position_ an archive is padded with zeros to the size of a record. Another header there
// is that of an archive joined to it by cat, or by a cloud's "compose".
bool TarWalker::next_archive() {
  const std::uint64_t end = position_;
  std::uint64_t at = end + 2 * block_size;
  std::span<const std::byte> part;
  do {
    // the usual padding block by block, out of the window: a view of its own for each of many small archives adds up
    part = window_.view(at, at - end < near_padding ? block_size : ReadWindow::max_view);
    if (!all_zero(part)) break;
    at += part.size();
  } while (!part.empty());
  if (part.empty()) {
    if (at - end > max_padding) {
      note(end, cat(tar_note::zeros_behind, ": ", at - end,
                    " bytes of them, more than padding; a download that did not finish leaves such"));
    }
    return false;
  }
  const auto other = std::ranges::find_if(part, [](std::byte b) { return b != std::byte{0}; });
  // blocks begin at multiples of their size from the start of the file: every header and all data are padded to them
  at = (at + static_cast<std::uint64_t>(other - part.begin())) / block_size * block_size;
  const auto block = window_.view(at, block_size);
  if (block.size() < block_size || !checksum_holds(chars(block))) {
    note(end, cat(tar_note::data_behind, ": they are not indexed"));
    return false;
  }
  if (joined_.count++ == 0) joined_ = {1, end, at};
  global_ = {};  // a global header is for its own archive
  position_ = at;
  return true;
}

// The data of an extended header, none where reports_ tells why. Valid until the next look at the window.
std::optional<std::string_view> TarWalker::extended_data(std::uint64_t begin, std::uint64_t at, std::uint64_t size,
                                                         const char* what, std::uint64_t most_mebibytes) {
  std::span<const std::byte> bytes;
  if (size > most_mebibytes << 20) {
    fail(begin, cat(what, " of ", size, " bytes: more than ", most_mebibytes, " MiB"));
    return std::nullopt;
  }
  if (at > window_.size() || size > window_.size() - at) {
    fail(begin, cat(what, " cut off by the end of the file"));
    return std::nullopt;
  }
  if (size <= ReadWindow::max_view) {
    bytes = window_.view(at, size);
  } else {
    scratch_.resize(size);
    bytes = {scratch_.data(), window_.read_aside(scratch_, at)};
  }
  if (bytes.size() == size) return std::string_view(chars(bytes), size);
  fail(begin, "the file shrank while it was read");
  return std::nullopt;
}

bool TarWalker::long_name(std::uint64_t at, std::uint64_t size, bool is_name) {
  const auto data = extended_data(chain_begin_, at, size, "GNU long name", max_name >> 20);
  if (data && is_name && !local_.path) local_.path.emplace(data->substr(0, data->find('\0')));
  return data.has_value();
}

bool TarWalker::pax_header(std::uint64_t at, std::uint64_t size, bool global) {
  const std::uint64_t begin = in_chain_ ? chain_begin_ : at - block_size;
  const auto data = extended_data(begin, at, size, "pax header", max_pax_header >> 20);
  if (!data) return false;
  Extended records;
  bool unended = false;
  std::string_view text = *data;
  while (!text.empty() && text.front() != '\0') {
    // "LENGTH KEYWORD=VALUE\n", LENGTH counting all of it
    std::size_t length = 0;
    const char* const digits_end = std::from_chars(text.data(), text.data() + std::min<std::size_t>(text.size(), 9), length).ptr;
    const auto i = static_cast<std::size_t>(digits_end - text.data());
    const bool framed = i > 0 && i < text.size() && text[i] == ' ' && length > i + 2 && length <= text.size();
    const std::string_view record = framed ? text.substr(i + 1, length - i - 1) : std::string_view();
    const std::size_t equals = record.find('=');
    if (!framed || equals == std::string_view::npos || equals == 0) {
      // tarfile, too, keeps what it read so far; a wrong size shows as a bad checksum at the next header
      malformed_.add(begin);
      break;
    }
    if (record.back() != '\n' && !unended) {
      unended = true;  // once a header
      unended_.add(begin);
    }
    const std::string_view keyword = record.substr(0, equals);
    const std::string_view value = record.substr(equals + 1, record.size() - equals - 2);
    if (keyword == "path") {
      records.path.emplace(value);
      strip_slashes(*records.path);
    } else if (keyword == "size") {
      records.size.emplace(value);
    } else if (keyword.starts_with("GNU.sparse.")) {
      records.sparse = true;
      if (keyword == "GNU.sparse.name") records.sparse_name.emplace(value);
    }
    text.remove_prefix(length);
  }
  // of global headers the last counts, of a member's own the first
  Extended& known = global ? global_ : local_;
  const auto take = [global](auto& into, auto& from) {
    if (from && (global || !into)) into = std::move(from);
  };
  take(known.path, records.path);
  take(known.size, records.size);
  take(known.sparse_name, records.sparse_name);
  known.sparse = known.sparse || records.sparse;
  return true;
}

// Old GNU sparse files list further holes in blocks of their own between the header and the data.
bool TarWalker::skip_sparse_blocks(std::uint64_t& at) {
  for (;;) {
    const auto block = window_.view(at, block_size);
    if (block.size() < block_size) return false;
    at += block_size;
    if (block[gnu_more_at] == std::byte{0}) return true;
  }
}

bool TarWalker::fill_member(TarMember& member, std::span<const std::byte> block, std::uint64_t header_begin) {
  const char* const text = chars(block);
  const char type = text[type_at];
  const std::string_view short_name = text_field(text, name_at, name_length);
  const bool extended_sparse = type == 'S' && text[gnu_extended_at] != 0;

  // The name: pax or GNU long name, else a global pax path, else prefix and name of the block itself.
  const auto& path = local_.path ? local_.path : global_.path;
  const auto& sparse_name = local_.sparse_name ? local_.sparse_name : global_.sparse_name;
  const bool plain_type = type == '0' || type == '\0' || type == '7';
  const bool sparse = type == 'S' || (plain_type && (local_.sparse || global_.sparse));
  const auto too_long = [&](const char* what, const std::string& name, std::uint64_t most) {
    if (name.size() <= most) return false;
    fail(header_begin, cat(what, name.size(), " bytes: more than ", most));
    return true;
  };
  if (sparse && sparse_name && !sparse_name->empty()) {
    if (!local_.sparse_name && too_long("global pax sparse name of ", *sparse_name, max_global_name)) return false;
    if (too_long("pax sparse name of ", *sparse_name, max_name)) return false;
    name_ = *sparse_name;
  } else if (path && !path->empty()) {
    if (!local_.path && too_long("global pax path of ", *path, max_global_name)) return false;
    if (too_long("pax path of ", *path, max_name)) return false;
    name_ = *path;
  } else {
    name_.clear();
    const std::string_view magic(text + magic_at, 7);
    if (magic.starts_with("ustar") && (magic != "ustar  " || !gnu_times(text))) {
      const bool star = std::memcmp(text + 508, "tar", 4) == 0;  // its NUL too
      const std::string_view prefix = text_field(text, prefix_at, star ? star_prefix_length : prefix_length);
      if (!prefix.empty()) name_.append(prefix).push_back('/');
    }
    name_.append(short_name);
  }

  member.kind = MemberKind::other;
  if (sparse) member.kind = MemberKind::sparse;
  else if (type == '\0' && short_name.ends_with('/')) member.kind = MemberKind::directory;
  else if (plain_type) member.kind = MemberKind::regular;
  else if (type == '1') member.kind = MemberKind::hard_link;
  else if (type == '2') member.kind = MemberKind::symlink;
  else if (type == '5') member.kind = MemberKind::directory;
  if (member.kind == MemberKind::directory) strip_slashes(name_);
  member.name = name_;
  member.header_offset = header_begin;

  std::uint64_t size = 0;
  const Number number = plain_size(text + size_at, size) ? Number::good : parse_number(text + size_at, size_length, size);
  const auto& pax_size = local_.size ? local_.size : global_.size;
  std::uint64_t data = position_ + block_size;
  if (pax_size && !pax_size->empty()) {
    const char* const end = pax_size->data() + pax_size->size();
    const auto parsed = std::from_chars(pax_size->data(), end, size);
    if (parsed.ptr != end || parsed.ec != std::errc() || size > max_size) {
      return fail(header_begin, cat("pax size of member ", printable_name(name_),
                                    " is not a valid size: ", printable_name(*pax_size)));
    }
  } else if (number != Number::good) {
    const char* const why = number == Number::negative ? "negative" : number == Number::too_large ? "absurdly large" : "not a number";
    return fail(header_begin, cat("size of member ", printable_name(name_), " is ", why));
  }
  // `block` may be gone after this: the window moves
  if (extended_sparse && !skip_sparse_blocks(data)) {
    return fail(header_begin, cat("sparse map of member ", printable_name(name_), " cut off by the end of the file"), name_);
  }
  // Links, devices, directories and fifos have no data, whatever their size field says; unknown types do.
  const bool has_data = member.kind != MemberKind::directory && (type < '1' || type > '6');
  member.data_offset = data;
  member.size = has_data ? size : 0;
  if (member.size > max_size - data) return fail(header_begin, cat("size of member ", printable_name(name_), " is absurdly large"));
  if (data + member.size > window_.size()) {
    return fail(header_begin, cat("member ", printable_name(name_), " cut off: its data end at byte ", data + member.size,
                ", the file at ", window_.size()), name_);
  }
  position_ = data + round_up(member.size);
  return true;
}

}  // namespace dcfast
