// SPDX-License-Identifier: BSD-3-Clause
// The patterns of a scan, taken by threads in groups, and these in rounds, whose boxes of the canvas and sums of the
// probe are all that is kept: no memory grows with the number of patterns. A Worker takes one pattern after the other:
//   Problem                      what it is made from: a Step, or more
//   take(pattern, probe's sums)  returns what its patch adds to the canvas
#pragma once

#include "ops/pattern_step/cpu_groups.h"
#include "ops/pattern_step/cpu_pattern.h"

namespace ptycho::cpu {

// Groups of a round, at most and at least, and the bytes of their boxes, and of their sums of the probe, beyond which
// there are fewer.
inline constexpr int64_t kMostGroups = 64;
inline constexpr int64_t kFewestGroups = 16;
inline constexpr int64_t kRoundBytes = int64_t{8} << 20;

// The workers of a step, each made when a thread first asks for one, and kept from round to round.
template <typename Worker>
class Workers {
 public:
  using Problem = typename Worker::Problem;

  explicit Workers(const Problem& step) : step_(step), workers_(torch::stable::get_num_threads()) {}

  void begin_round() { taken_ = 0; }
  Worker& next() {
    std::unique_ptr<Worker>& worker = workers_[taken_++];
    if (!worker) worker = std::make_unique<Worker>(step_);
    return *worker;
  }

 private:
  const Problem& step_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<size_t> taken_{0};
};

// The sums of the shared probe: as many as there are groups in a round, and each has its group in every round.
template <typename T>
class ProbeSums {
 public:
  ProbeSums(const Step<T>& step, int64_t groups) : size_(step.modes * step.size()), groups_(groups) {
    if (step.to_probe && step.shared_probe) sums_ = std::make_unique<Workspace<T>>(groups * size_);
  }

  T* of(int64_t group, bool first_round) const {
    if (!sums_) return nullptr;
    T* const sums = sums_->data() + group * size_;
    if (first_round) std::fill_n(sums, size_, T(0));
    return sums;
  }
  void write(T* total) const {
    parallel_for(size_, grain(groups_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T sum = 0;
        for (int64_t group = 0; group < groups_; ++group) sum += sums_->data()[group * size_ + i];
        total[i] = sum;
      }
    });
  }

 private:
  int64_t size_;
  int64_t groups_;
  std::unique_ptr<Workspace<T>> sums_;
};

template <typename T>
int64_t groups_of_round(const Step<T>& step, int64_t groups) {
  const auto bytes = static_cast<int64_t>(sizeof(T)) * step.size() * std::max(step.modes, kPatchesOfBox);
  return std::min(clamp(kRoundBytes / bytes, kFewestGroups, kMostGroups), groups);
}

// Takes all patterns. canvas_sums: zeros, to which the workers' products are added; probe_sums: of the shared probe, or
// of its spectrum; null where it is not wanted.
template <typename Worker, typename T>
void take_all(const typename Worker::Problem& step, const ImageStack<T>& canvas_sums, T* probe_sums) {
  const Scan& scan = step.scan;
  const std::vector<int64_t> order = patch_order(scan);
  const std::vector<PatternGroup> groups = pattern_groups(scan, order, step.canvases.rows, step.canvases.cols);
  const auto count = static_cast<int64_t>(groups.size()), most = groups_of_round(step, count);
  Workers<Worker> workers(step);
  const ProbeSums<T> sums_of_probe(step, most);
  std::unique_ptr<T[]> boxes;
  std::vector<int64_t> starts(most);
  int64_t reserved = 0;
  for (int64_t begin = 0; begin < count; begin += most) {
    const PatternGroup* const round = groups.data() + begin;
    const int64_t number = std::min(most, count - begin);
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    int64_t needed = line;  // for the first one's alignment
    for (int64_t j = 0; step.to_canvas && j < number; ++j)
      starts[j] = std::exchange(needed, needed + round[j].template scalars<T>());
    if (needed > reserved) boxes = std::make_unique_for_overwrite<T[]>(reserved = needed);
    const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(boxes.get()) % 64 / sizeof(T));
    T* const base = boxes.get() - past;  // a line, reserved in front of the first box, on a cache line's boundary
    workers.begin_round();
    for_each_chunk(number, 1, [&] {
      return [&, &worker = workers.next(), scratch = Workspace<T>(scratch_size<T>(step.canvases.cols, 2))](int64_t j,
                                                                                                           int64_t) {
        const PatternGroup& group = round[j];
        T* const box = base + starts[j];
        if (step.to_canvas) std::fill_n(box, group.scalars<T>(), T(0));
        T* const sums = sums_of_probe.of(j, begin == 0);
        for (int64_t i = group.members.begin; i < group.members.end; ++i) {
          const T* const product = worker.take(order[i], sums);
          if (step.to_canvas && group.box.height() > 0)
            add_patch(box, group.box, product, 2, scan, order[i], static_cast<const T*>(nullptr), scratch.data());
        }
      };
    });
    if (step.to_canvas) add_boxes(round, number, static_cast<const T*>(base), starts.data(), canvas_sums);
  }
  if (probe_sums) sums_of_probe.write(probe_sums);
}

}  // namespace ptycho::cpu
