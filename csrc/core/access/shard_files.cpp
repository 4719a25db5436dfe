#include "core/access/shard_files.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

namespace dcfast {
namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(Code::corrupt_data, "the shard lies outside of its pool: " + why, path);
}

constexpr const char* link_leads_out = "a symbolic link leads out of the pool's directory; pass follow_links to allow it";

std::string real_path(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) throw_errno("open for reading", path);
  std::string out(resolved);
  std::free(resolved);
  return out;
}

// For kernels without openat2 (before 5.6, or where a sandbox hides it): resolve, compare, open what was resolved.
File open_resolved(const std::string& root, const std::string& path) {
  const std::string base = real_path(root);
  const std::string target = real_path(path);
  if (base != "/" && !target.starts_with(base + "/")) refuse(path, link_leads_out);
  return File::open_read(target);
}

}  // namespace

File open_below(const std::string& root, const std::string& name, bool follow_links) {
  if (root.empty()) return File::open_read(name);
  const std::string path = joined(root, name);
  if (leads_out(name)) refuse(path, "its name in the index must be relative and without '..'");
  if (follow_links) return File::open_read(path);
  const int base = retry_interrupted([&] { return ::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC); });
  if (base < 0) throw_errno("open for reading", root);
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  long fd;
  // EAGAIN: something was renamed meanwhile, so that the kernel could not be sure
  int tries = 0;
  do fd = ::syscall(SYS_openat2, base, name.c_str(), &how, sizeof(how));
  while (fd < 0 && (errno == EINTR || (errno == EAGAIN && ++tries < 100)));
  const int saved = errno;
  ::close(base);
  errno = saved;
  if (fd >= 0) return File::adopt_regular(static_cast<int>(fd), path);
  if (errno == EXDEV) refuse(path, link_leads_out);
  if (errno == ENOSYS || errno == EPERM) return open_resolved(root, path);
  throw_errno("open for reading", path);
}

ShardFiles::ShardFiles(std::vector<std::string> roots, std::vector<PoolShard> shards, const ShardFilesOptions& options)
    : roots_(std::move(roots)), shards_(std::move(shards)), options_(options) {
  for (const PoolShard& shard : shards_) {
    if (shard.root >= roots_.size()) throw Error(Code::invalid_argument, "a shard's root is out of range", shard.name);
  }
}

std::string ShardFiles::path(std::uint32_t id) const { return joined(roots_[shards_[id].root], shards_[id].name); }

std::shared_ptr<const File> ShardFiles::get(std::uint32_t id) {
  {
    const std::lock_guard lock(guard_);
    if (const auto found = open_.find(id); found != open_.end()) {
      recent_.splice(recent_.end(), recent_, found->second.place);
      return found->second.file;
    }
  }
  // opened outside of the lock: on a network this may take long
  const PoolShard& shard = shards_[id];
  auto file = std::make_shared<const File>(open_below(roots_[shard.root], shard.name, options_.follow_links));
  check(id, *file, "since it was indexed");
  const std::lock_guard lock(guard_);
  if (const auto found = open_.find(id); found != open_.end()) return found->second.file;  // another thread was first
  while (!recent_.empty() && open_.size() >= options_.max_open) {
    open_.erase(recent_.front());
    recent_.pop_front();
  }
  if (options_.max_open > 0) open_.emplace(id, Entry{file, recent_.insert(recent_.end(), id)});
  return file;
}

void ShardFiles::check(std::uint32_t id, const File& file, const char* when) const {
  const PoolShard& shard = shards_[id];
  file.check_version(shard.size, options_.check_mtime ? std::optional(shard.mtime_ns) : std::nullopt, "the shard", when);
}

void ShardFiles::check_unchanged(std::uint32_t id, const File& file) const { check(id, file, "while it was read"); }

std::size_t ShardFiles::num_open() const {
  const std::lock_guard lock(guard_);
  return open_.size();
}

void ShardFiles::close_all() {
  const std::lock_guard lock(guard_);
  open_.clear();
  recent_.clear();
}

}  // namespace dcfast
