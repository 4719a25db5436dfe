// parallel_for: every item once, the first exception reaches the caller after all threads have ended.
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/system/parallel.hpp"

int main() {
  for (const unsigned threads : {0U, 1U, 2U, 7U}) {
    for (const std::size_t count : {0UL, 1UL, 2UL, 1009UL}) {
      std::vector<std::atomic<int>> seen(count);
      dcfast::parallel_for(count, threads, [&](std::size_t i) { seen[i].fetch_add(1); });
      for (const auto& n : seen) CHECK(n.load() == 1);
    }
    // slow items: the others cannot have done them all before the first exception stops them
    const auto slow = [](std::size_t) { std::this_thread::sleep_for(std::chrono::microseconds(20)); };
    std::atomic<int> started{0};
    CHECK_THROWS(std::runtime_error, dcfast::parallel_for(100000, threads, [&](std::size_t i) {
                   started.fetch_add(1);
                   if (i == 3) throw std::runtime_error("worker");
                   slow(i);
                 }));
    CHECK(started.load() < 100000);
    CHECK_THROWS(std::logic_error, dcfast::parallel_for(100000, threads, slow, [] { throw std::logic_error("poll"); }));
    if (threads == 0) continue;
    // an item for each thread; a long one ends where another failed, and where the caller is to stop
    const auto endless = [](std::size_t i, const dcfast::Poll& check) {
      if (i == 0) throw std::runtime_error("first");
      for (;;) check();
    };
    CHECK_THROWS(std::runtime_error, dcfast::parallel_for(threads, threads, endless));
    int polls = 0;
    const auto polled = [](std::size_t, const dcfast::Poll& check) {
      for (;;) check();
    };
    CHECK_THROWS(std::logic_error, dcfast::parallel_for(threads, threads, polled, [&] {
      if (++polls == 3) throw std::logic_error("poll");
    }));
  }
  return failures();
}
