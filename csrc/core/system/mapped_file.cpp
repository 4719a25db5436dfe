#include "core/system/mapped_file.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <mutex>

#include "core/system/file.hpp"

namespace dcfast {

namespace {

/// A range of addresses that is mapped, as the handler reads it: without locks. `begin` is 0 where it is free.
struct Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> lost{false};
  std::string path;  // under `guard`
};

/// Blocks of slots: added, never freed, so that the handler may walk them at any time.
struct Block {
  std::array<Slot, 256> slots;
  std::atomic<Block*> next{nullptr};
};

Block first_block;
std::mutex guard;
std::atomic<std::size_t> num_lost{0};
std::atomic<std::size_t> ever_lost{0};  // of those that are gone, too
std::string last_lost;                  // of those that are gone; under `guard`
std::atomic<void (*)() noexcept> call_on_lost{nullptr};

// Whoever had the signal before: it gets what is none of ours. Never freed, as the handler may be reading the last.
std::atomic<const struct sigaction*> before{nullptr};

Slot* slot_at(std::uintptr_t address) noexcept {
  for (Block* block = &first_block; block != nullptr; block = block->next.load(std::memory_order_acquire)) {
    for (Slot& slot : block->slots) {
      const std::uintptr_t begin = slot.begin.load(std::memory_order_acquire);
      if (begin == 0 || address < begin || address >= slot.end.load(std::memory_order_acquire)) continue;
      if (slot.begin.load(std::memory_order_acquire) == begin) return &slot;  // not freed and taken meanwhile
    }
  }
  return nullptr;
}

void pass_on(int number, siginfo_t* info, void* context) noexcept {
  const struct sigaction* const old = before.load(std::memory_order_acquire);
  if (old != nullptr && (old->sa_flags & SA_SIGINFO) != 0) {
    old->sa_sigaction(number, info, context);
  } else if (old != nullptr && old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
    old->sa_handler(number);
  } else {
    std::signal(number, SIG_DFL);  // the same read raises it again, and the system ends the program
    if (info == nullptr || info->si_code <= 0) std::raise(number);
  }
}

/// Puts zeros where the file was, and lets the read go on. Only calls that a handler may make.
void take_signal(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  const bool is_fault = info != nullptr && info->si_code > 0;  // not sent by a program
  const auto address = is_fault ? reinterpret_cast<std::uintptr_t>(info->si_addr) : 0;
  Slot* const slot = is_fault ? slot_at(address) : nullptr;
  if (slot == nullptr) {
    pass_on(number, info, context);
    errno = saved;
    return;
  }
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t from = address / page * page;
  const std::uintptr_t end = slot->end.load(std::memory_order_acquire);
  // To the end of the map: behind the place where a file was cut there is nothing. The system's call, not the C
  // library's: that is none a handler may make, and ThreadSanitizer takes it for a write to what other threads read.
  constexpr int fixed_zeros = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  if (::syscall(SYS_mmap, from, end - from, PROT_READ, fixed_zeros, -1, 0) == -1) {
    pass_on(number, info, context);
  } else if (!slot->lost.exchange(true)) {
    num_lost.fetch_add(1);
    ever_lost.fetch_add(1);
    if (const auto call = call_on_lost.load()) call();
  }
  errno = saved;
}

/// Makes the handler ours, and anew where somebody took the signal since. Under `guard`.
void install_handler() {
  struct sigaction now{};
  if (::sigaction(SIGBUS, nullptr, &now) != 0) throw_errno("sigaction", "SIGBUS");
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == &take_signal) return;
  before.store(new struct sigaction(now), std::memory_order_release);
  struct sigaction ours{};
  ours.sa_sigaction = &take_signal;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  ::sigemptyset(&ours.sa_mask);
  if (::sigaction(SIGBUS, &ours, nullptr) != 0) throw_errno("sigaction", "SIGBUS");
}

void add_slot(const void* data, std::size_t size, const std::string& path) {
  const std::lock_guard lock(guard);
  install_handler();
  Block* block = &first_block;
  while (true) {
    for (Slot& slot : block->slots) {
      if (slot.begin.load(std::memory_order_relaxed) != 0) continue;
      const auto begin = reinterpret_cast<std::uintptr_t>(data);
      slot.path = path;
      slot.lost.store(false);
      slot.end.store(begin + size, std::memory_order_release);
      slot.begin.store(begin, std::memory_order_release);
      return;
    }
    Block* next = block->next.load(std::memory_order_acquire);
    if (next == nullptr) {
      next = std::make_unique<Block>().release();
      block->next.store(next, std::memory_order_release);
    }
    block = next;
  }
}

void remove_slot(const void* data) noexcept {
  const std::lock_guard lock(guard);
  Slot* const slot = slot_at(reinterpret_cast<std::uintptr_t>(data));
  if (slot == nullptr) return;
  slot->begin.store(0, std::memory_order_release);
  if (!slot->lost.exchange(false)) return;
  num_lost.fetch_sub(1);
  std::swap(last_lost, slot->path);  // not a copy, which may throw
}

[[noreturn]] void refuse(const std::string& path) {
  throw Error(Code::corrupt_data,
              "the file was cut while it was read, or its disk failed; see that nothing writes to it, and run the "
              "same command again",
              path);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const File file = File::open_read(path);
  size_ = static_cast<std::size_t>(file.size());
  if (size_ == 0) return;
  void* at = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (at == MAP_FAILED) throw_errno("mmap", path);
  try {
    add_slot(at, size_, path);
  } catch (...) {
    ::munmap(at, size_);
    throw;
  }
  data_ = static_cast<const std::byte*>(at);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), path_(std::move(other.path_)) {}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  remove_slot(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void refuse_lost_maps() {
  if (num_lost.load(std::memory_order_acquire) == 0) return;
  const std::lock_guard lock(guard);
  for (const Block* block = &first_block; block != nullptr; block = block->next.load(std::memory_order_acquire)) {
    for (const Slot& slot : block->slots) {
      if (slot.begin.load() != 0 && slot.lost.load()) refuse(slot.path);
    }
  }
}

std::size_t count_lost_maps() noexcept { return ever_lost.load(); }

void refuse_maps_lost_since(std::size_t count) {
  if (count_lost_maps() == count) return;
  refuse_lost_maps();
  const std::lock_guard lock(guard);
  refuse(last_lost);
}

void guard_maps() {
  const std::lock_guard lock(guard);
  install_handler();
}

void on_lost_map(void (*call)() noexcept) noexcept { call_on_lost.store(call); }

}  // namespace dcfast
