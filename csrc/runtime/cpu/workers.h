// SPDX-License-Identifier: BSD-3-Clause
// Parallel loops on torch's own threads. Where threads take chunks of work as they become free it is because patches at
// a border cost less than others, and a core may be busy with something else. Which thread does what has no influence
// on the results. What is one thread's work is called directly.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "runtime/torch_compat.h"

namespace ptycho::cpu {

// Work items per chunk, such that a chunk is worth a thread.
inline int64_t grain(int64_t work_per_item) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_item));
}

// Calls work(begin, end) for parts of [0, count), each of at least `grain` items if it can be.
template <typename Work>
void parallel_for(int64_t count, int64_t grain, const Work& work) {
  if (count <= 0) return;
  if (count <= grain || count == 1) return work(int64_t{0}, count);
  torch::stable::parallel_for(0, count, grain, work);
}

// Each worker calls start(), once, and the result of that with [begin, end) of `count`, at most `chunk` at a time.
template <typename Start>
void for_each_chunk(int64_t count, int64_t chunk, const Start& start) {
  if (count <= 0) return;
  if (count <= chunk) return start()(int64_t{0}, count);
  const int64_t chunks = (count + chunk - 1) / chunk;
  const int64_t workers = std::min<int64_t>(chunks, torch::stable::get_num_threads());
  std::atomic<int64_t> taken{0};
  parallel_for(workers, 1, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) {  // one worker to a thread, unless the caller is itself a parallel region
      auto work = start();
      for (int64_t i = taken++; i < chunks; i = taken++) work(i * chunk, std::min((i + 1) * chunk, count));
    }
  });
}

// Memory of one thread on a cache line's boundary, uninitialised: a little of it where the object is, which is a stack,
// so that small work asks for none.
template <typename T>
class Workspace {
 public:
  explicit Workspace(int64_t count = 0) {
    if (count > 0) reserve(count);
  }
  Workspace(const Workspace&) = delete;
  T* data() const { return data_; }
  T* zeros(int64_t count) {
    reserve(count);
    std::fill(data_, data_ + count, T(0));
    return data_;
  }

 private:
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  static constexpr int64_t kFew = 4096 / static_cast<int64_t>(sizeof(T));

  void reserve(int64_t count) {
    if (count <= size_) return;
    size_ = count;
    data_ = few_;
    if (count <= kFew) return;
    memory_ = std::make_unique_for_overwrite<T[]>(count + kLine);
    const auto past = reinterpret_cast<uintptr_t>(memory_.get()) % 64;
    data_ = memory_.get() + (past ? (64 - past) / sizeof(T) : 0);
  }
  std::unique_ptr<T[]> memory_;
  int64_t size_ = 0;
  T* data_ = nullptr;
  alignas(64) T few_[kFew];
};

}  // namespace ptycho::cpu
