// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace nagfast {

// Calls work(worker) for worker = 0..workers-1, worker 0 on the calling thread. A thread costs about 20 us to start,
// so callers hand over milliseconds of work. Waits for all; the exception of the lowest worker is rethrown, which
// makes the error of a contiguous partition the first one in order whatever the number of threads.
template <typename Work>
void run_workers(int workers, const Work& work) {
  std::vector<std::exception_ptr> errors(static_cast<size_t>(workers));
  const auto guarded = [&](int worker) {
    try {
      work(worker);
    } catch (...) {
      errors[static_cast<size_t>(worker)] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(workers));
  int started = 1;
  try {
    for (; started < workers; ++started) threads.emplace_back(guarded, started);
  } catch (const std::system_error&) {
    // No more threads to be had: the shares that got none are done below, on this thread.
  }
  guarded(0);
  for (int worker = started; worker < workers; ++worker) guarded(worker);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// Splits [0, items) into contiguous shares of near equal size, whole multiples of `grain` but for the last, and calls
// work(first, last) on each. The partition is static: it depends on the arguments only.
template <typename Work>
void parallel_ranges(int64_t items, int64_t grain, int threads, const Work& work) {
  const int64_t grains = (items + grain - 1) / grain;
  const int workers = static_cast<int>(std::min<int64_t>(threads, grains));
  if (workers <= 0) return;
  run_workers(workers, [&](int worker) {
    const int64_t first = grains * worker / workers * grain;
    const int64_t last = std::min(items, grains * (worker + 1) / workers * grain);
    work(first, last);
  });
}

}  // namespace nagfast
