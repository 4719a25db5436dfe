#include "core/uids/uid_merge.hpp"

#include <unistd.h>

#include "core/uids/npy.hpp"
#include "core/uids/uid_sort.hpp"
#include "core/uids/uid_text.hpp"

namespace dcfast {

namespace {

using uid_detail::Key128;
using uid_detail::key_of;
using uid_detail::less;

constexpr std::uint64_t kMinBuffer = std::uint64_t{1} << 16;
constexpr std::uint64_t kMaxBuffer = std::uint64_t{8} << 20;

std::uint64_t payload_of(const Uid&) { return 0; }
std::uint64_t payload_of(const UidRecord& r) { return r.payload; }

std::string shown(const Uid& v) { return format_uid(v); }
std::string shown(const UidRecord& r) { return cat(format_uid({r.hi, r.lo}), " payload ", r.payload); }

/// One sorted run, read forward through a buffer of a fixed size. Every element is checked against the one
/// before it when it is read.
template <typename T>
class RunReader {
 public:
  RunReader(const std::string& path, std::uint64_t buffer_bytes) : file_(File::open_read(path)) {
    const npy::Info info = npy::read_header(file_);
    if (info.item_size != sizeof(T)) {
      throw Error(Code::corrupt_data, cat("expected dtype ", npy::descr<T>(), " as in the first run; got ",
                  info.item_size == sizeof(Uid) ? npy::descr<Uid>() : npy::descr<UidRecord>()), path, 0);
    }
    at_ = info.data_offset;
    left_ = count_ = info.count;
    const std::uint64_t most = std::max<std::uint64_t>(1, left_);
    capacity_ = std::clamp<std::size_t>(buffer_bytes / sizeof(T), 1, most);
    buffer_.emplace(capacity_);
    refill();
  }

  bool empty() const noexcept { return current_ == end_; }
  const T& head() const noexcept { return *current_; }
  std::uint64_t count() const noexcept { return count_; }

  void advance() {
    if (++current_ == end_ && left_ > 0) refill();
  }

 private:
  void refill() {
    const std::size_t n = std::min(capacity_, left_);
    T* const data = buffer_->data();
    file_.pread_all(std::as_writable_bytes(std::span<T>(data, n)), at_);
    for (std::size_t i = 0; i < n; ++i) {
      if (i == 0 && !last_) continue;
      const T& previous = i == 0 ? *last_ : data[i - 1];
      if (less(data[i], previous)) {
        throw Error(Code::corrupt_data, cat("run is not sorted: row ", count_ - left_ + i, " (", shown(data[i]),
                    ") is below the row before it (", shown(previous), "); sort it before merging"), file_.path(), at_ + i * sizeof(T));
      }
    }
    if (n > 0) last_ = data[n - 1];
    at_ += n * sizeof(T);
    left_ -= n;
    current_ = data;
    end_ = data + n;
  }

  File file_;
  std::optional<uid_detail::Scratch<T>> buffer_;
  std::size_t capacity_ = 0;
  std::uint64_t at_ = 0;
  std::uint64_t left_ = 0;
  std::uint64_t count_ = 0;
  std::optional<T> last_;
  const T* current_ = nullptr;
  const T* end_ = nullptr;
};

/// Writes a header for "no rows yet", the elements, and at last the true header.
template <typename T>
class RunWriter {
 public:
  RunWriter(const std::string& path, std::uint64_t buffer_bytes, bool unique)
      : file_(File::open_write(path)),
        capacity_(std::max<std::size_t>(1, buffer_bytes / sizeof(T))),
        buffer_(capacity_),
        unique_(unique) {
    const std::string header = npy::header<T>(0);
    file_.write_all(std::as_bytes(std::span(header)));
  }

  void put(const T& v) {
    if (unique_ && any_ && key_of(v) == last_) return;
    last_ = key_of(v);
    any_ = true;
    buffer_.data()[used_++] = v;
    if (used_ == capacity_) flush();
  }

  std::uint64_t finish() {
    flush();
    const std::string header = npy::header<T>(count_);
    file_.pwrite_all(std::as_bytes(std::span(header)), 0);
    file_.close();
    return count_;
  }

 private:
  void flush() {
    file_.write_all(std::as_bytes(std::span<const T>(buffer_.data(), used_)));
    count_ += used_;
    used_ = 0;
  }

  File file_;
  std::size_t capacity_;
  uid_detail::Scratch<T> buffer_;
  bool unique_;
  std::size_t used_ = 0;
  std::uint64_t count_ = 0;
  bool any_ = false;
  Key128 last_ = 0;
};

/// A loser tree over the heads of the runs: the winner is the smallest; replacing it costs one comparison a level.
template <typename T>
class LoserTree {
 public:
  explicit LoserTree(std::vector<RunReader<T>>& runs) : runs_(runs), heads_(runs.size()), losers_(runs.size()) {
    for (std::size_t r = 0; r < runs.size(); ++r) load(r);
    winner_ = runs.size() == 1 ? 0 : play(1);
  }

  bool done() const noexcept { return heads_[winner_].done; }
  std::size_t winner() const noexcept { return winner_; }

  /// The winner's run has moved on: finds the next winner.
  void replay() {
    load(winner_);
    std::size_t champion = winner_;
    for (std::size_t node = (champion + runs_.size()) / 2; node >= 1; node /= 2) {
      if (before(losers_[node], champion)) std::swap(losers_[node], champion);
    }
    winner_ = champion;
  }

 private:
  struct Head {
    Key128 key;
    std::uint64_t payload;
    bool done;
  };

  void load(std::size_t r) {
    if (runs_[r].empty()) {
      heads_[r] = {~Key128{0}, ~std::uint64_t{0}, true};
    } else {
      const T& v = runs_[r].head();
      heads_[r] = {key_of(v), payload_of(v), false};
    }
  }
  bool before(std::size_t a, std::size_t b) const noexcept {
    const Head& x = heads_[a];
    const Head& y = heads_[b];
    if (x.key != y.key) return x.key < y.key;
    if (x.payload != y.payload) return x.payload < y.payload;
    return x.done != y.done ? y.done : a < b;
  }
  /// Plays the subtree of `node` (leaves are nodes runs..2 * runs - 1), keeps the losers, returns the winner.
  std::size_t play(std::size_t node) {
    if (node >= runs_.size()) return node - runs_.size();
    const std::size_t left = play(2 * node);
    const std::size_t right = play(2 * node + 1);
    const bool left_wins = before(left, right);
    losers_[node] = left_wins ? right : left;
    return left_wins ? left : right;
  }

  std::vector<RunReader<T>>& runs_;
  std::vector<Head> heads_;
  std::vector<std::size_t> losers_;
  std::size_t winner_ = 0;
};

/// Removes what it still names when it goes out of scope.
class TemporaryFiles {
 public:
  TemporaryFiles& operator=(TemporaryFiles&&) = delete;
  ~TemporaryFiles() {
    for (const std::string& path : paths_) ::unlink(path.c_str());
  }
  void add(const std::string& path) { paths_.push_back(path); }
  void remove(const std::string& path) {
    const auto at = std::find(paths_.begin(), paths_.end(), path);
    if (at == paths_.end()) return;
    ::unlink(path.c_str());
    paths_.erase(at);
  }

 private:
  std::vector<std::string> paths_;
};

struct Counts {
  std::uint64_t read = 0;
  std::uint64_t written = 0;
};

/// One merge of runs that fit the memory together.
template <typename T>
Counts merge_once(std::span<const std::string> paths, const std::string& out_path, const MergeOptions& options,
                  const Poll& poll) {
  const std::uint64_t share = std::min(options.memory_bytes / (paths.size() + 2), kMaxBuffer);
  std::vector<RunReader<T>> runs;
  runs.reserve(paths.size());
  Counts counts;
  for (const std::string& path : paths) {
    runs.emplace_back(path, share);
    counts.read = checked_add(counts.read, runs.back().count(), "rows of all runs");
  }
  RunWriter<T> writer(out_path, 2 * share, options.unique);
  LoserTree<T> tree(runs);
  constexpr std::uint32_t poll_every = 1U << 16;
  std::uint32_t until_poll = 1;
  while (!tree.done()) {
    if (--until_poll == 0) {
      until_poll = poll_every;
      if (poll) poll();
    }
    RunReader<T>& run = runs[tree.winner()];
    writer.put(run.head());
    run.advance();
    tree.replay();
  }
  counts.written = writer.finish();
  return counts;
}

template <typename T>
MergeResult merge_all(std::vector<std::string> paths, const std::string& out_path, const MergeOptions& options,
                      const Poll& poll) {
  const std::uint64_t by_memory = options.memory_bytes / kMinBuffer - 2;
  const std::size_t fan_in = std::min<std::uint64_t>(by_memory, options.max_open_files - 1);
  MergeResult result;
  TemporaryFiles temporary;
  while (paths.size() > fan_in) {
    ++result.passes;
    std::vector<std::string> next;
    for (std::size_t begin = 0; begin < paths.size(); begin += fan_in) {
      const std::size_t count = std::min(fan_in, paths.size() - begin);
      const std::span<const std::string> group(paths.data() + begin, count);
      const std::string path = cat(out_path, ".pass", result.passes, "-", next.size());
      temporary.add(path);
      const Counts counts = merge_once<T>(group, path, options, poll);
      if (result.passes == 1) result.rows_in += counts.read;
      for (const std::string& done : group) temporary.remove(done);
      next.push_back(path);
    }
    paths = std::move(next);
  }
  ++result.passes;
  const Counts counts = merge_once<T>(paths, out_path, options, poll);
  if (result.passes == 1) result.rows_in = counts.read;
  result.rows_out = counts.written;
  return result;
}

}  // namespace

MergeResult merge_runs(const std::vector<std::string>& paths, const std::string& out_path, const MergeOptions& options,
                       const Poll& poll) {
  if (paths.empty()) refuse_argument("run_paths must name at least one file");
  if (options.memory_bytes < kMergeMinMemory) {
    refuse_argument("memory_bytes must be at least ", kMergeMinMemory, "; got ", options.memory_bytes);
  }
  if (options.max_open_files < 3) refuse_argument("max_open_files must be at least 3; got ", options.max_open_files);
  const std::size_t item_size = npy::read_header(File::open_read(paths.front())).item_size;
  return item_size == sizeof(Uid) ? merge_all<Uid>(paths, out_path, options, poll)
                                  : merge_all<UidRecord>(paths, out_path, options, poll);
}

}  // namespace dcfast
