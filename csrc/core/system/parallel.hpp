// parallel_for: a function over 0..n-1 on a few threads. The first exception wins, the others stop
// early, all threads are joined, and it is rethrown to the caller.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dcfast {

/// Polled between items on the calling thread; throws to cancel (the binding layer checks for Ctrl-C here).
using Poll = std::function<void()>;

/// Calls work(i) once for every i in [0, count). threads = 0 means one per core. Which thread runs an
/// item is not fixed: work must write only to places that belong to item i.
template <typename Work>
void parallel_for(std::size_t count, unsigned threads, const Work& work, const Poll& poll = {}) {
  if (threads == 0) threads = std::thread::hardware_concurrency();
  if (threads == 0) threads = 1;
  if (threads > count) threads = static_cast<unsigned>(count);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr first;
  std::mutex guard;
  const auto loop = [&](bool polls) {
    try {
      while (!stop.load(std::memory_order_relaxed)) {
        const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= count) break;
        if (polls && poll) poll();
        work(i);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
      stop.store(true, std::memory_order_relaxed);
    }
  };
  {
    std::vector<std::jthread> pool;
    if (threads > 1) pool.reserve(threads - 1);
    try {
      for (unsigned t = 1; t < threads; ++t) pool.emplace_back(loop, false);
    } catch (...) {
      // no more threads to be had: those that started, and this one, do the work
    }
    loop(true);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace dcfast
