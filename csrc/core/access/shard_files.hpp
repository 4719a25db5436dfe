// Open shards of a pool: a bounded cache of file descriptors that never leaves the pool's directories and refuses
// shards that are not what was indexed. Safe for many threads.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/system/file.hpp"

namespace dcfast {

/// A shard as it was indexed. `root` numbers the directory that `name` is relative to.
struct PoolShard {
  std::string name;
  std::uint32_t root = 0;
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
};

struct ShardFilesOptions {
  std::size_t max_open = 256;
  bool follow_links = false;  // let symbolic links lead out of the pool
  bool check_mtime = true;    // the size always counts
};

/// Opens `name` below `root`: no absolute name, no "..", and, unless follow_links, no symbolic link that leads out
/// of it (the kernel decides at each step, where it can: nothing can be swapped in between). An empty root
/// opens the name as it is. Throws corrupt_data for a name that leads out, io where opening fails.
File open_below(const std::string& root, const std::string& name, bool follow_links);

class ShardFiles {
 public:
  /// Opens nothing yet. Throws invalid_argument for a root number out of range.
  ShardFiles(std::vector<std::string> roots, std::vector<PoolShard> shards, const ShardFilesOptions& options);

  std::size_t size() const noexcept { return shards_.size(); }
  const PoolShard& shard(std::uint32_t id) const { return shards_[id]; }
  std::string path(std::uint32_t id) const;

  /// The open shard, which stays open while it is held. Its size and mtime were compared with the index when it was
  /// opened: corrupt_data, naming the shard, where they differ. At most max_open stay open beside those held.
  std::shared_ptr<const File> get(std::uint32_t id);
  /// Throws corrupt_data where the open file is no longer what was opened (written to while it was read).
  void check_unchanged(std::uint32_t id, const File& file) const;
  /// Files in the cache.
  std::size_t num_open() const;
  void close_all();

 private:
  struct Entry {
    std::shared_ptr<const File> file;
    std::list<std::uint32_t>::iterator place;
  };

  void check(std::uint32_t id, const File& file, const char* when) const;

  std::vector<std::string> roots_;
  std::vector<PoolShard> shards_;
  ShardFilesOptions options_;
  mutable std::mutex guard_;
  std::unordered_map<std::uint32_t, Entry> open_;
  std::list<std::uint32_t> recent_;  // least recently used first
};

}  // namespace dcfast
