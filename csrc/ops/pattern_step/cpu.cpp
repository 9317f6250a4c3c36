// SPDX-License-Identifier: BSD-3-Clause
// pattern_step on the CPU: a thread takes a pattern through the whole step while its waves are in the thread's cache,
// and the patterns of a group one after the other. Groups are taken in rounds, whose boxes of the canvas and sums of
// the probe are all that is kept: no memory grows with the number of patterns.
#include "ops/pattern_step/cpu_groups.h"
#include "ops/pattern_step/cpu_pattern.h"
#include "ops/pattern_step/dispatch.h"
#include "runtime/cpu/outputs.h"

namespace ptycho::cpu {
namespace {

// Groups of a round, at most and at least, and the bytes of their boxes, and of their sums of the probe, beyond which
// there are fewer.
constexpr int64_t kMostGroups = 64;
constexpr int64_t kFewestGroups = 16;
constexpr int64_t kRoundBytes = int64_t{8} << 20;

// The workers of a step, each made when a thread first asks for one, and kept from round to round.
template <typename T>
class Workers {
 public:
  explicit Workers(const Step<T>& step) : step_(step), workers_(torch::stable::get_num_threads()) {}

  void begin_round() { taken_ = 0; }
  PatternWorker<T>& next() {
    std::unique_ptr<PatternWorker<T>>& worker = workers_[taken_++];
    if (!worker) worker = std::make_unique<PatternWorker<T>>(step_);
    return *worker;
  }

 private:
  const Step<T>& step_;
  std::vector<std::unique_ptr<PatternWorker<T>>> workers_;
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

// spectrum_sums: of the shared probe, or of its spectrum; null if it is not corrected.
template <typename T>
void run(const Step<T>& step, const ImageStack<T>& canvas_sums, T* probe_sums) {
  const Scan& scan = step.scan;
  const std::vector<int64_t> order = patch_order(scan);
  const std::vector<PatternGroup> groups = pattern_groups(scan, order, step.canvases.rows, step.canvases.cols);
  const auto count = static_cast<int64_t>(groups.size()), most = groups_of_round(step, count);
  Workers<T> workers(step);
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

template <typename T>
void zero(T* data, int64_t count) {
  parallel_for(count, int64_t{1} << 16, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, T(0)); });
}

void step_into(const Host&, const StepInputs& inputs, const StepOutputs& outputs) {
  const char* const op = "pattern_step";
  const Measurement& measured = inputs.measurement;
  const auto contiguous = [](const MaybeTensor& tensor) {
    return tensor ? std::optional(as_contiguous(*tensor)) : std::nullopt;
  };
  const Tensor canvas = as_contiguous(inputs.canvas), probe = as_contiguous(inputs.probe);
  const Tensor at = as_contiguous(inputs.positions), counts = as_contiguous(measured.counts);
  const MaybeTensor mask = contiguous(measured.mask), scale = contiguous(measured.scale);
  const MaybeTensor weights = contiguous(inputs.weights), shifts = contiguous(inputs.shifts);
  check_finite(op, "positions", at);
  if (shifts) check_finite(op, "shifts", *shifts);
  const Shape size = trailing(probe);
  for (const int64_t side : {size[0], size[1]})
    if (!has_fourier_stages(side)) [[unlikely]]
      throw_rule(op, "probe's size", "have no prime factors other than 2, 3 and 5", std::to_string(side));
  with_real_type(canvas, [&](auto zero_of_type) {
    using T = decltype(zero_of_type);
    const std::shared_ptr<const FourierPlan<T>> fourier = fourier_plan<T>(size[0], size[1]);
    const bool shared = probe.dim() == 3;
    Step<T> step{image_stack<const T>(canvas),
                 scan_of(at, size),
                 read<T>(probe),
                 shifts ? read<double>(*shifts) : nullptr,
                 nullptr,
                 shared,
                 modes_shape(probe)[0],
                 {counts.const_data_ptr(), count_type(counts)},
                 mask ? read<bool>(*mask) : nullptr,
                 mask && mask->dim() == 2,
                 scale ? read<T>(*scale) : nullptr,
                 weights ? read<T>(*weights) : nullptr,
                 static_cast<T>(measured.background),
                 measured.poisson(),
                 fourier.get(),
                 write<double>(outputs.values),
                 write<double>(outputs.scale_slopes),
                 outputs.canvas != nullptr,
                 outputs.probe != nullptr,
                 outputs.probe && !shared ? write<T>(*outputs.probe) : nullptr,
                 outputs.positions ? write<double>(*outputs.positions) : nullptr};
    Workspace<T> spectrum;
    if (step.shifts && shared) {
      step.spectrum = spectrum.zeros(step.modes * step.size());
      std::copy_n(step.probe, step.modes * step.size(), spectrum.data());
      const Workspace<T> panels(fourier->scratch_size());
      for (int64_t m = 0; m < step.modes; ++m)
        fourier_kernels<T>().transform(*fourier, spectrum.data() + m * step.size(), false, panels.data());
      divide_by_pixels(step, spectrum.data());
    }
    ImageStack<T> canvas_sums{nullptr, 0, 1, 1, 2};
    if (outputs.canvas) {
      canvas_sums = image_stack<T>(*outputs.canvas);
      zero(canvas_sums.data, outputs.canvas->numel() * 2);
    }
    T* const probe_sums = outputs.probe && shared ? write<T>(*outputs.probe) : nullptr;
    run(step, canvas_sums, probe_sums);
    if (!probe_sums || !step.shifts) return;
    const Workspace<T> panels(fourier->scratch_size());
    for (int64_t m = 0; m < step.modes; ++m)
      fourier_kernels<T>().transform(*fourier, probe_sums + m * step.size(), true, panels.data());
    divide_by_pixels(step, probe_sums);
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  m.impl("pattern_step", TORCH_BOX((&dispatch::pattern_step<ptycho::cpu::Host, ptycho::cpu::step_into>)));
}
