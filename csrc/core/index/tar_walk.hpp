// A tar walker over positioned reads: headers are read, the data of large members are not, and small
// neighbours (a caption, a json) come with the read of their header. Dialects: v7, ustar, GNU (long names,
// base-256 numbers, old sparse), pax (local, global, sparse). Where pax and GNU headers disagree or repeat,
// the answer is that of Python's tarfile, which webdataset reads with. Archives joined by cat are read one after
// the other, as `tar -i` does.
#pragma once

#include <vector>

#include "core/index/printable_name.hpp"
#include "core/index/tar_report.hpp"
#include "core/system/file.hpp"

namespace dcfast {

/// Bytes by position: a file, memory, or what else can answer ranges. One reader serves one walker.
class ByteReader {
 public:
  virtual ~ByteReader() = default;
  virtual std::uint64_t size() const = 0;
  /// Up to out.size() bytes at offset; fewer only at the end. Throws Error{io}.
  virtual std::size_t read(std::span<std::byte> out, std::uint64_t offset) = 0;
};

class FileReader final : public ByteReader {
 public:
  explicit FileReader(const File& file) : file_(file), size_(file.size()) {}
  std::uint64_t size() const override { return size_; }
  std::size_t read(std::span<std::byte> out, std::uint64_t offset) override { return file_.pread_some(out, offset); }

 private:
  const File& file_;
  std::uint64_t size_;  // as the walk began
};

/// A window that moves forward over a ByteReader. Its length after a jump is learned from how far the
/// earlier stretches between jumps reached, and doubles while the reading is sequential, so that a pool of
/// large images costs one read a sample and a tar of tiny members one read for hundreds.
class ReadWindow {
 public:
  static constexpr std::size_t max_view = 64 << 10;
  /// Readable (not meaningful) bytes behind every view, which the json parser needs.
  static constexpr std::size_t padding = 64;

  explicit ReadWindow(ByteReader& reader);
  std::uint64_t size() const noexcept { return size_; }
  /// Up to count (<= max_view) bytes at offset; fewer only at the end. Valid until the next view.
  std::span<const std::byte> view(std::uint64_t offset, std::size_t count) {
    if (offset >= begin_ && offset - begin_ <= length_ && count <= length_ - (offset - begin_)) {
      if (offset + count > touched_) touched_ = offset + count;
      return {buffer_.data() + (offset - begin_), count};
    }
    return refill(offset, count);
  }
  /// Reads around the window into `out`; returns how many bytes there were.
  std::size_t read_aside(std::span<std::byte> out, std::uint64_t offset);

 private:
  std::span<const std::byte> refill(std::uint64_t offset, std::size_t count);

  ByteReader& reader_;
  std::uint64_t size_;
  std::vector<std::byte> buffer_;
  std::uint64_t begin_ = 0;
  std::size_t length_ = 0;
  std::uint64_t stretch_begin_ = 0;  // where the last jump landed
  std::uint64_t touched_ = 0;        // end of the furthest byte asked for
  std::size_t hint_;                 // window after a jump
  std::size_t next_;                 // window after a sequential step
};

enum class MemberKind : std::uint8_t {
  regular = 0,    // '0', NUL, '7': its bytes lie whole at [data_offset, data_offset + size)
  sparse = 1,     // GNU 'S' or pax sparse: [data_offset, + size) is the stored, packed form, not the content
  hard_link = 2,  // '1'
  symlink = 3,    // '2'
  directory = 4,  // '5', or NUL with a name ending in a slash
  other = 5,      // devices, fifos, GNU dump directories, unknown types
};

struct TarMember {
  std::string_view name;  // raw bytes as stored; valid until the next call of next()
  MemberKind kind = MemberKind::regular;
  std::uint64_t header_offset = 0;  // of the first header of the member: its pax or long-name header, if any
  std::uint64_t data_offset = 0;
  std::uint64_t size = 0;
};

/// Walks a file from its start: an archive, or several, one behind the end mark of the other. Memory: the window (at
/// most 256 KiB), a name and a pax header as tar_limits bounds them; sizes in the file allocate nothing else.
class TarWalker {
 public:
  explicit TarWalker(ByteReader& reader) : window_(reader) {}
  TarWalker& operator=(TarWalker&&) = delete;

  /// The next whole member; false at the end or at damage, which reports() then tells. Throws Error{io} only.
  bool next(TarMember& member);
  const std::vector<TarReport>& reports() const noexcept { return reports_; }
  ReadWindow& window() noexcept { return window_; }
  /// Archives behind the first, as far as they were reached.
  struct Joined {
    std::uint64_t count = 0;
    std::uint64_t mark = 0;   // offset of the first archive's end mark
    std::uint64_t begin = 0;  // of the first header behind it
  };
  const Joined& joined() const noexcept { return joined_; }

 private:
  /// What pax and GNU headers say about the member to come. An empty pax value means: as in the header.
  struct Extended {
    std::optional<std::string> path;
    std::optional<std::string> sparse_name;
    std::optional<std::string> size;
    bool sparse = false;
  };

  bool next_whole(TarMember& member);
  bool end_here();
  bool next_archive();
  bool fill_member(TarMember& member, std::span<const std::byte> block, std::uint64_t header_begin);
  std::optional<std::string_view> extended_data(std::uint64_t begin, std::uint64_t at, std::uint64_t size, const char* what,
                                                std::uint64_t most_mebibytes);
  bool long_name(std::uint64_t at, std::uint64_t size, bool is_name);
  bool pax_header(std::uint64_t at, std::uint64_t size, bool global);
  bool skip_sparse_blocks(std::uint64_t& at);
  bool fail(std::uint64_t offset, std::string message, std::string_view member = {});
  void note(std::uint64_t offset, std::string message);
  /// Things of one kind to be noted: the first, and how many. A hostile file has millions.
  struct Repeated {
    std::uint64_t count = 0, first = 0;
    void add(std::uint64_t offset) {
      if (count++ == 0) first = offset;
    }
  };
  void note_headers(const Repeated& headers, std::string message);

  ReadWindow window_;
  std::uint64_t position_ = 0;
  bool done_ = false;
  bool in_chain_ = false;  // a pax or GNU header was read whose member has not come yet
  std::uint64_t chain_begin_ = 0;
  Joined joined_;
  Repeated malformed_, unended_;  // pax headers
  Extended local_;
  Extended global_;
  std::string name_;
  std::vector<std::byte> scratch_;
  std::vector<TarReport> reports_;
};

}  // namespace dcfast
