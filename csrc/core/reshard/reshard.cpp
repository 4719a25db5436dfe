#include "core/reshard/reshard.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>

#include "core/access/scattered_read.hpp"
#include "core/index/printable_name.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast {
namespace {

constexpr std::size_t block_bytes = 512;
constexpr std::size_t record_bytes = 10'240;  // tarfile and GNU tar pad an archive to whole records
constexpr std::size_t name_field = 100;
constexpr std::uint64_t octal_size_limit = std::uint64_t{1} << 33;  // 11 octal digits end at 8 GiB
// Reading over a gap costs its bytes once more; a second system call costs about as much as 8 KiB from cache.
constexpr std::uint64_t max_gap = 8192;

using Block = std::array<char, block_bytes>;

std::size_t padding(std::uint64_t size) { return (block_bytes - size % block_bytes) % block_bytes; }

void put_text(Block& block, std::size_t at, std::string_view text) { text.copy(block.data() + at, text.size()); }

// digits octal digits and a NUL
void put_octal(Block& block, std::size_t at, std::size_t digits, std::uint64_t value) {
  for (std::size_t i = digits; i-- > 0; value >>= 3) block[at + i] = static_cast<char>('0' + (value & 7));
  block[at + digits] = '\0';
}

void put_size(Block& block, std::uint64_t size) {
  constexpr std::size_t at = 124;
  if (size < octal_size_limit) return put_octal(block, at, 11, size);
  block[at] = static_cast<char>(0x80);  // base-256: a set top bit, then the number, big-endian
  for (std::size_t i = 12; i-- > 1; size >>= 8) block[at + i] = static_cast<char>(size & 0xff);
}

Block header_block(std::string_view name, char type, std::uint64_t mode, std::uint64_t size, std::string_view owner) {
  Block block{};
  put_text(block, 0, name);
  put_octal(block, 100, 7, mode);
  put_octal(block, 108, 7, 0);  // uid
  put_octal(block, 116, 7, 0);  // gid
  put_size(block, size);
  put_octal(block, 136, 11, 0);  // mtime
  block[156] = type;
  put_text(block, 257, std::string_view("ustar\00000", 8));
  put_text(block, 265, owner);  // user name
  put_text(block, 297, owner);  // group name
  std::memset(block.data() + 148, ' ', 8);
  std::uint64_t sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  put_octal(block, 148, 6, sum);  // six digits, NUL; the eighth byte stays a space
  return block;
}

// "LENGTH path=NAME\n", where LENGTH counts its own digits too
std::string pax_path_record(std::string_view name) {
  const std::size_t rest = std::string_view(" path=\n").size() + name.size();
  std::size_t length = rest + std::to_string(rest).size();
  length = rest + std::to_string(length).size();
  return std::to_string(length) + " path=" + std::string(name) + "\n";
}

}  // namespace

std::vector<std::byte> tar_member_header(std::string_view name, std::uint64_t size) {
  if (name.empty()) refuse_argument("a member name must not be empty");
  if (name.find('\0') != std::string_view::npos) refuse_argument("a member name must not hold a NUL byte");
  std::string visible;  // for readers that know no pax: one '?' for each character that is not ASCII
  bool ascii = true;
  bool utf8 = true;
  for (std::size_t i = 0; i < name.size();) {
    const std::size_t length = utf8_length(name.substr(i));
    utf8 = utf8 && length > 0;
    ascii = ascii && length == 1;
    visible += length == 1 ? name[i] : '?';
    i += length > 0 ? length : 1;
  }
  std::vector<std::byte> out;
  const auto append = [&out](std::string_view bytes) {
    const auto* first = reinterpret_cast<const std::byte*>(bytes.data());
    out.insert(out.end(), first, first + bytes.size());
  };
  if (!ascii || name.size() > name_field) {
    const std::string records = (utf8 ? std::string() : std::string("21 hdrcharset=BINARY\n")) + pax_path_record(name);
    const Block block = header_block("././@PaxHeader", 'x', 0, records.size(), {});
    append({block.data(), block.size()});
    append(records);
    append(std::string(padding(records.size()), '\0'));
  }
  visible.resize(std::min(visible.size(), name_field));
  const Block block = header_block(visible, '0', 0444, size, "bigdata");
  append({block.data(), block.size()});
  return out;
}

void sample_member_names(std::span<const Uid> uid, std::span<const std::uint64_t> copy,
                         std::span<const std::uint32_t> member_sample, std::span<const std::uint32_t> member_ext,
                         std::span<const std::string> exts, std::vector<std::uint8_t>& names,
                         std::vector<std::uint64_t>& name_begin) {
  if (uid.size() != copy.size()) refuse_argument("uid and copy must have one length");
  if (member_sample.size() != member_ext.size()) refuse_argument("member_sample and member_ext must have one length");
  name_begin.reserve(name_begin.size() + member_sample.size() + 1);
  names.reserve(names.size() + member_sample.size() * 40);
  name_begin.push_back(names.size());
  std::array<char, kUidTextSize + 1> key{};
  key.back() = '-';
  for (std::size_t i = 0; i < member_sample.size(); ++i) {
    const std::size_t sample = member_sample[i];
    if (sample >= uid.size()) refuse_argument("member_sample: ", sample, " is out of range");
    if (member_ext[i] >= exts.size()) refuse_argument("member_ext: ", member_ext[i], " is out of range");
    format_uid_32(uid[sample], key.data());
    names.insert(names.end(), key.begin(), key.end());
    const std::string number = std::to_string(copy[sample]);
    names.insert(names.end(), number.begin(), number.end());
    names.push_back('.');
    const std::string& ext = exts[member_ext[i]];
    names.insert(names.end(), ext.begin(), ext.end());
    name_begin.push_back(names.size());
  }
}

namespace {

// Open sources, the least recently used closed beyond a limit. A source that changes between its opening and its
// closing is an error: what was copied from it would be a mixture.
class SourceFiles {
 public:
  SourceFiles(std::span<const CopySource> sources, std::size_t limit)
      : sources_(sources), limit_(std::max<std::size_t>(limit, 1)), open_(sources.size()) {}

  const File& get(std::uint32_t id) {
    if (open_[id] != nullptr) {
      if (id != recent_.back()) {  // a search of at most `limit` entries, only where the source changes
        recent_.erase(std::find(recent_.begin(), recent_.end(), id));
        recent_.push_back(id);
      }
      return open_[id]->file;
    }
    if (recent_.size() >= limit_) {
      retire(recent_.front());
      recent_.pop_front();
    }
    const CopySource& source = sources_[id];
    File file = File::open_read(source.path);
    const FileVersion version = file.version();
    file.check_version(source.size.value_or(version.size), source.mtime_ns, "source", "since it was indexed");
    open_[id] = std::make_unique<Entry>(Entry{std::move(file), version});
    recent_.push_back(id);
    return open_[id]->file;
  }

  void retire_all() {
    for (const std::uint32_t id : recent_) retire(id);
    recent_.clear();
  }

 private:
  struct Entry {
    File file;
    FileVersion version;
  };

  void retire(std::uint32_t id) {
    const std::unique_ptr<Entry> entry = std::move(open_[id]);
    if (entry->file.version() == entry->version) return;
    throw Error(Code::corrupt_data, "source changed while it was being read; index it again", entry->file.path(), 0);
  }

  std::span<const CopySource> sources_;
  std::size_t limit_;
  std::vector<std::unique_ptr<Entry>> open_;
  std::deque<std::uint32_t> recent_;
};

// The next window_bytes of the output: small pieces are copied in, payloads are noted and read when it is full.
class Window {
 public:
  Window(File& out, std::uint64_t begin, std::span<const CopySource> sources, const WriteShardOptions& options, const Poll& poll)
      : out_(out), written_(begin), sources_(sources, options.max_open_sources), poll_(poll),
        buffer_(std::max<std::size_t>(options.window_bytes, 4096)) {}

  void put(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t n = take(bytes.size());
      std::memcpy(buffer_.data() + used_, bytes.data(), n);
      used_ += n;
      bytes = bytes.subspan(n);
    }
  }

  void put_zeros(std::uint64_t count) {
    while (count > 0) {
      const std::size_t n = take(count);
      std::memset(buffer_.data() + used_, 0, n);
      used_ += n;
      count -= n;
    }
  }

  void put_payload(std::uint32_t source, std::uint64_t offset, std::uint64_t size) {
    std::uint64_t done = 0;
    while (done < size) {
      const std::size_t n = take(size - done);
      reads_.push_back({source, offset + done, n, buffer_.data() + used_});
      used_ += n;
      done += n;
    }
  }

  std::uint64_t position() const { return written_ + used_; }

  void finish() {
    flush();
    sources_.retire_all();
  }

 private:
  // Room for up to `count` bytes, at least one, after writing a full window out.
  std::size_t take(std::uint64_t count) {
    if (used_ == buffer_.size()) flush();
    return std::min(count, buffer_.size() - used_);
  }

  void flush() {
    poll_();
    read_payloads();
    out_.pwrite_all({buffer_.data(), used_}, written_);
    written_ += used_;
    used_ = 0;
    reads_.clear();
  }

  void read_payloads() {
    std::sort(reads_.begin(), reads_.end());
    for (std::span<const FileRange> rest(reads_); !rest.empty();) {
      const auto stretch = rest.first(count_neighbours(rest, max_gap));
      const File& file = sources_.get(stretch.front().file);
      if (const std::uint64_t missing = read_neighbours(file, stretch, scratch_); missing > 0) {
        throw Error(Code::corrupt_data,
                    cat("source ends ", missing, " bytes before the payload that was indexed there"), file.path(),
                    stretch.back().end() - missing);
      }
      rest = rest.subspan(stretch.size());
    }
  }

  File& out_;
  std::uint64_t written_;  // where the window begins in the output
  SourceFiles sources_;
  const Poll& poll_;
  std::vector<std::byte> buffer_;
  std::size_t used_ = 0;
  std::vector<FileRange> reads_;  // of the payloads in the window
  ReadScratch scratch_;
};

void check_members(std::span<const CopySource> sources, const ShardMembers& members) {
  const std::size_t count = members.source.size();
  if (members.offset.size() != count || members.size.size() != count || members.name_begin.size() != count + 1) {
    refuse_argument("source, offset and size must have one length, and name_begin one more");
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (members.source[i] >= sources.size()) {
      refuse_argument("source: ", members.source[i], " is out of range; got ", sources.size(), " sources");
    }
    // off_t is signed: what lies beyond it cannot be read
    if (checked_add(members.offset[i], members.size[i], "member") > static_cast<std::uint64_t>(INT64_MAX)) {
      throw Error(Code::corrupt_data, "member ends beyond any file", sources[members.source[i]].path, members.offset[i]);
    }
    if (members.name_begin[i] > members.name_begin[i + 1]) refuse_argument("name_begin must not fall");
  }
  if (members.name_begin[count] > members.names.size()) refuse_argument("name_begin ends beyond names");
}

std::string_view name_of(const ShardMembers& members, std::size_t i) {
  const std::string_view names(reinterpret_cast<const char*>(members.names.data()), members.names.size());
  return names.substr(members.name_begin[i], members.name_begin[i + 1] - members.name_begin[i]);
}

std::size_t header_bytes(std::string_view name, std::uint64_t size) {
  const bool plain = name.size() <= name_field && std::all_of(name.begin(), name.end(), [](char c) { return c > '\0'; });
  return plain ? block_bytes : tar_member_header(name, size).size();
}

// Members [first, last) lie at `begin` of the output.
struct Stretch {
  std::size_t first;
  std::size_t last;
  std::uint64_t begin;
};

// Stretches of nearly equal length, at least min_stretch: a thread is not worth less.
std::vector<Stretch> cut_stretches(const ShardMembers& members, unsigned threads) {
  constexpr std::uint64_t min_stretch = std::uint64_t{4} << 20;
  const std::size_t count = members.source.size();
  if (threads <= 1) return {{0, count, 0}};
  std::vector<std::uint64_t> begin{0};
  begin.reserve(count + 1);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t whole = header_bytes(name_of(members, i), members.size[i]) + members.size[i] + padding(members.size[i]);
    begin.push_back(checked_add(begin.back(), whole, "output shard"));
  }
  const std::uint64_t parts = std::clamp<std::uint64_t>(begin.back() / min_stretch, 1, threads);
  std::vector<Stretch> stretches;
  for (std::uint64_t part = 0; part < parts; ++part) {
    const std::size_t first = stretches.empty() ? 0 : stretches.back().last;
    const std::uint64_t goal = begin.back() / parts * (part + 1);
    const auto reached = static_cast<std::size_t>(std::ranges::lower_bound(begin, goal) - begin.begin());
    const std::size_t last = part + 1 == parts ? count : reached;
    stretches.push_back({first, std::max(first, last), begin[first]});
  }
  return stretches;
}

// Returns where the output ends after it.
std::uint64_t write_stretch(Window& window, const ShardMembers& members, const Stretch& stretch) {
  for (std::size_t i = stretch.first; i < stretch.last; ++i) {
    window.put(tar_member_header(name_of(members, i), members.size[i]));
    window.put_payload(members.source[i], members.offset[i], members.size[i]);
    window.put_zeros(padding(members.size[i]));
  }
  if (stretch.last == members.source.size()) {
    window.put_zeros(2 * block_bytes);
    window.put_zeros((record_bytes - window.position() % record_bytes) % record_bytes);
  }
  window.finish();
  return window.position();
}

}  // namespace

std::uint64_t write_shard(const std::string& out_path, std::span<const CopySource> sources, const ShardMembers& members,
                         const WriteShardOptions& options, const Poll& poll) {
  check_members(sources, members);
  const std::vector<Stretch> stretches = cut_stretches(members, options.threads);
  std::vector<std::uint64_t> ends(stretches.size());
  File out = File::open_write(out_path);
  parallel_for(stretches.size(), static_cast<unsigned>(stretches.size()), [&](std::size_t i, const Poll& check) {
    // on the heap: what it reads with is large for a thread's stack
    const auto window = std::make_unique<Window>(out, stretches[i].begin, sources, options, check);
    ends[i] = write_stretch(*window, members, stretches[i]);
  }, poll);
  out.close();
  return ends.back();
}

}  // namespace dcfast
