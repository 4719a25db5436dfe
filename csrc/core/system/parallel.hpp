// parallel_for: a function over 0..n-1 on a few threads. The first exception wins, the others stop
// early, all threads are joined, and it is rethrown to the caller.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace dcfast {

/// Polled between items on the calling thread; throws to cancel (the binding layer checks for Ctrl-C here).
using Poll = std::function<void()>;

/// 0 means one per core.
inline unsigned resolve_threads(unsigned threads) noexcept {
  return threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
}

/// Calls work(i) once for every i in [0, count). threads = 0 means one per core. Which thread runs an
/// item is not fixed: work must write only to places that belong to item i.
/// work(i, check), for long items: `check` is to be called now and then, and throws where the whole is to stop.
template <typename Work>
void parallel_for(std::size_t count, unsigned threads, const Work& work, const Poll& poll = {}) {
  const std::size_t num_threads = std::min<std::size_t>(resolve_threads(threads), count);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr first;
  std::mutex guard;
  struct Stopped {};  // never seen: the error that counts has been noted before
  const auto loop = [&](bool polls) {
    try {
      const Poll check = [&] {
        if (stop.load(std::memory_order_relaxed)) throw Stopped{};
        if (polls && poll) poll();
      };
      while (!stop.load(std::memory_order_relaxed)) {
        const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= count) break;
        if (polls && poll) poll();
        if constexpr (std::is_invocable_v<const Work&, std::size_t, const Poll&>) work(i, check);
        else work(i);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
      stop.store(true, std::memory_order_relaxed);
    }
  };
  {
    std::vector<std::jthread> pool;
    if (num_threads > 1) pool.reserve(num_threads - 1);
    try {
      for (std::size_t t = 1; t < num_threads; ++t) pool.emplace_back(loop, false);
    } catch (...) {
      // no more threads to be had: those that started, and this one, do the work
    }
    loop(true);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace dcfast
