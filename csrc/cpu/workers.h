// SPDX-License-Identifier: BSD-3-Clause
// Work shared out among the threads as they come free: patches at a border cost less than others, and machines have
// other things to do. Which thread does what has no influence on the results.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "torch_compat.h"

namespace ptycho::cpu {

// Each worker calls start(), once, and the result of that with [begin, end) of `count`, at most `chunk` at a time.
template <typename Start>
void for_each_chunk(int64_t count, int64_t chunk, const Start& start) {
  const int64_t chunks = (count + chunk - 1) / chunk;
  const int64_t workers = std::min<int64_t>(chunks, torch::stable::get_num_threads());
  std::atomic<int64_t> taken{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) {  // one worker to a thread, unless the caller is itself a parallel region
      auto work = start();
      for (int64_t i = taken++; i < chunks; i = taken++) work(i * chunk, std::min((i + 1) * chunk, count));
    }
  });
}

}  // namespace ptycho::cpu
