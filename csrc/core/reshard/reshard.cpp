#include "core/reshard/reshard.hpp"

#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>

#include "core/system/file.hpp"

#define XXH_INLINE_ALL

namespace dcfast {
namespace {

constexpr std::size_t block_bytes = 512;
constexpr std::size_t record_bytes = 10'240;  // tarfile and GNU tar pad an archive to whole records
constexpr std::size_t name_field = 100;
constexpr std::uint64_t octal_size_limit = std::uint64_t{1} << 33;  // 11 octal digits end at 8 GiB
// Reading over a gap costs its bytes once more; a second system call costs about as much as 8 KiB from cache.
constexpr std::uint64_t max_gap = 8192;
constexpr std::size_t max_iovecs = IOV_MAX < 1024 ? IOV_MAX : 1024;

using Block = std::array<char, block_bytes>;

std::size_t padding(std::uint64_t size) { return static_cast<std::size_t>((block_bytes - size % block_bytes) % block_bytes); }

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

// Length of the UTF-8 sequence at text[at], or 0 where it is not one (overlong, surrogate, cut, above U+10FFFF).
std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned lead = byte(at);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xc2 && lead <= 0xdf ? 2 : (lead >> 4) == 0xe ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte(at + 1);
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return 0;
  if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return 0;
  return length;
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
  if (name.empty()) throw Error(Code::invalid_argument, "a member name must not be empty");
  if (name.find('\0') != std::string_view::npos) throw Error(Code::invalid_argument, "a member name must not hold a NUL byte");
  std::string visible;  // for readers that know no pax: one '?' for each character that is not ASCII
  bool ascii = true;
  bool utf8 = true;
  for (std::size_t i = 0; i < name.size();) {
    const std::size_t length = utf8_length(name, i);
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
  if (uid.size() != copy.size()) throw Error(Code::invalid_argument, "uid and copy must have one length");
  if (member_sample.size() != member_ext.size()) {
    throw Error(Code::invalid_argument, "member_sample and member_ext must have one length");
  }
  name_begin.reserve(name_begin.size() + member_sample.size() + 1);
  names.reserve(names.size() + member_sample.size() * 40);
  name_begin.push_back(names.size());
  std::array<char, 33> key{};
  key[32] = '-';
  for (std::size_t i = 0; i < member_sample.size(); ++i) {
    const std::size_t sample = member_sample[i];
    if (sample >= uid.size()) throw Error(Code::invalid_argument, "member_sample: " + std::to_string(sample) + " is out of range");
    if (member_ext[i] >= exts.size()) throw Error(Code::invalid_argument, "member_ext: " + std::to_string(member_ext[i]) + " is out of range");
    for (std::size_t digit = 0; digit < 32; ++digit) {
      const std::uint64_t half = digit < 16 ? uid[sample].hi : uid[sample].lo;
      key[digit] = "0123456789abcdef"[(half >> (60 - 4 * (digit % 16))) & 15];
    }
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
    const std::uint64_t size = file.size();
    const std::int64_t mtime_ns = file.mtime_ns();
    if (source.size && size != *source.size) {
      throw Error(Code::corrupt_data, "source has changed since it was indexed: expected " + std::to_string(*source.size) +
                  " bytes, got " + std::to_string(size) + "; index it again", source.path, std::min(size, *source.size));
    }
    if (source.mtime_ns && mtime_ns != *source.mtime_ns) {
      throw Error(Code::corrupt_data, "source has changed since it was indexed: expected modification time " +
                  std::to_string(*source.mtime_ns) + " ns, got " + std::to_string(mtime_ns) + "; index it again", source.path, 0);
    }
    open_[id] = std::make_unique<Entry>(Entry{std::move(file), size, mtime_ns});
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
    std::uint64_t size;
    std::int64_t mtime_ns;
  };

  void retire(std::uint32_t id) {
    const std::unique_ptr<Entry> entry = std::move(open_[id]);
    if (entry->file.size() != entry->size || entry->file.mtime_ns() != entry->mtime_ns) {
      throw Error(Code::corrupt_data, "source changed while it was being read; index it again", entry->file.path(), 0);
    }
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
      pieces_.push_back({offset + done, used_, n, source});
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
  struct Piece {
    std::uint64_t offset;
    std::size_t at;  // in the window
    std::size_t length;
    std::uint32_t source;
  };

  // Room for up to `wanted` bytes, at least one, after writing a full window out.
  std::size_t take(std::uint64_t wanted) {
    if (used_ == buffer_.size()) flush();
    return static_cast<std::size_t>(std::min<std::uint64_t>(wanted, buffer_.size() - used_));
  }

  void flush() {
    if (poll_) poll_();
    read_pieces();
    out_.pwrite_all({buffer_.data(), used_}, written_);
    written_ += used_;
    used_ = 0;
    pieces_.clear();
  }

  void read_pieces() {
    order_.resize(pieces_.size());
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = i;
    std::sort(order_.begin(), order_.end(), [this](std::size_t a, std::size_t b) {
      const Piece& x = pieces_[a];
      const Piece& y = pieces_[b];
      return std::tie(x.source, x.offset, x.at) < std::tie(y.source, y.offset, y.at);
    });
    for (std::size_t i = 0; i < order_.size();) {
      const Piece& start = pieces_[order_[i]];
      std::uint64_t end = start.offset;
      iovecs_.clear();
      for (; i < order_.size() && iovecs_.size() + 2 <= max_iovecs; ++i) {
        const Piece& piece = pieces_[order_[i]];
        if (piece.source != start.source || piece.offset < end || piece.offset - end > max_gap) break;
        if (piece.offset > end) iovecs_.push_back({gap_.data(), static_cast<std::size_t>(piece.offset - end)});
        iovecs_.push_back({buffer_.data() + piece.at, piece.length});
        end = piece.offset + piece.length;
      }
      read_scattered(sources_.get(start.source), start.offset, end);
    }
  }

  void read_scattered(const File& file, std::uint64_t offset, std::uint64_t end) {
    std::size_t next = 0;
    while (offset < end) {
      const ssize_t n = ::preadv(file.fd(), iovecs_.data() + next, static_cast<int>(iovecs_.size() - next), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw_errno("read", file.path());
      if (n == 0) {
        throw Error(Code::corrupt_data, "source ends " + std::to_string(end - offset) + " bytes before the payload that was indexed there",
                    file.path(), offset);
      }
      offset += static_cast<std::uint64_t>(n);
      std::size_t done = static_cast<std::size_t>(n);
      while (next < iovecs_.size() && done >= iovecs_[next].iov_len) done -= iovecs_[next++].iov_len;
      if (next < iovecs_.size()) {
        iovecs_[next].iov_base = static_cast<char*>(iovecs_[next].iov_base) + done;
        iovecs_[next].iov_len -= done;
      }
    }
  }

  File& out_;
  std::uint64_t written_;  // where the window begins in the output
  SourceFiles sources_;
  const Poll& poll_;
  std::vector<std::byte> buffer_;
  std::size_t used_ = 0;
  std::vector<Piece> pieces_;
  std::vector<std::size_t> order_;
  std::vector<iovec> iovecs_;
  std::array<std::byte, max_gap> gap_;
};

void check_members(std::span<const CopySource> sources, const ShardMembers& members) {
  const std::size_t count = members.source.size();
  if (members.offset.size() != count || members.size.size() != count || members.name_begin.size() != count + 1) {
    throw Error(Code::invalid_argument, "source, offset and size must have one length, and name_begin one more");
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (members.source[i] >= sources.size()) {
      throw Error(Code::invalid_argument, "source: " + std::to_string(members.source[i]) + " is out of range; got " +
                  std::to_string(sources.size()) + " sources");
    }
    // off_t is signed: what lies beyond it cannot be read
    if (checked_add(members.offset[i], members.size[i], "member") > static_cast<std::uint64_t>(INT64_MAX)) {
      throw Error(Code::corrupt_data, "member ends beyond any file", sources[members.source[i]].path, members.offset[i]);
    }
    if (members.name_begin[i] > members.name_begin[i + 1]) throw Error(Code::invalid_argument, "name_begin must not fall");
  }
  if (members.name_begin[count] > members.names.size()) throw Error(Code::invalid_argument, "name_begin ends beyond names");
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
    const auto last = part + 1 == parts ? count
                                        : static_cast<std::size_t>(std::lower_bound(begin.begin(), begin.end(), goal) - begin.begin());
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

  std::mutex guard;
  std::exception_ptr first;
  std::atomic<bool> failed{false};
  const auto caller = std::this_thread::get_id();
  const Poll checked = [&] {
    // only after the error that counts has been noted: this one is never seen
    if (failed.load(std::memory_order_acquire)) throw Error(Code::cancelled, "another thread failed", out_path);
    if (poll && std::this_thread::get_id() == caller) poll();
  };
  parallel_for(stretches.size(), static_cast<unsigned>(stretches.size()), [&](std::size_t i) {
    try {
      // on the heap: the gap buffer is large for a thread's stack
      const auto window = std::make_unique<Window>(out, stretches[i].begin, sources, options, checked);
      ends[i] = write_stretch(*window, members, stretches[i]);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
      failed.store(true, std::memory_order_release);
    }
  });
  if (first) std::rethrow_exception(first);
  out.close();
  return ends.back();
}

}  // namespace dcfast
