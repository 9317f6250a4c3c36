// SPDX-License-Identifier: BSD-3-Clause
// pattern_step on CUDA: a block to a part of the scan, whose patterns pass through its shared memory; then the
// corrections of the patches, at most kProductBytes of them at a time, are summed onto the canvas by the program of
// extract_patches_adjoint. A pattern of one mode reads its counts, and from the L2 cache its patch and the probe twice,
// and writes the correction of its patch.
#include "ops/exit_waves/blocks.h"
#include "ops/extract_patches/position_gradient.h"
#include "ops/pattern_step/block.h"
#include "ops/pattern_step/dispatch.h"
#include "runtime/cuda/data_types.h"
#include "runtime/cuda/plan.h"
#include "runtime/cuda/tiles.h"

namespace ptycho::cuda {
namespace {

constexpr int64_t kProductBytes = int64_t{1} << 29;

// What a step takes, contiguous, and the memory that it needs.
template <typename T>
class StepLauncher {
 public:
  using Pixels = Complex<T>;

  StepLauncher(const Queue& queue, const StepInputs& inputs, const StepOutputs& outputs)
      : queue_(queue),
        outputs_(outputs),
        canvas_(as_contiguous(inputs.canvas)),
        probe_(as_contiguous(inputs.probe)),
        at_(as_contiguous(inputs.positions)),
        counts_(as_contiguous(inputs.measurement.counts)),
        mask_(contiguous(inputs.measurement.mask)),
        scale_(contiguous(inputs.measurement.scale)),
        weights_(contiguous(inputs.weights)),
        shifts_(contiguous(inputs.shifts)),
        background_(static_cast<T>(inputs.measurement.background)),
        scan_(scan_of(at_, trailing(inputs.probe))),
        modes_(modes_shape(inputs.probe)[0]),
        shared_(inputs.probe.dim() == 3),
        down_(FourierAxis<T>(scan_.h)),
        across_(FourierAxis<T>(scan_.w)) {}

  template <bool poisson>
  void run() {
    if (fits_shared()) {
      run_in<poisson, true>();
    } else {
      run_in<poisson, false>();
    }
  }

 private:
  // Whether a block's shared memory holds an image of this step.
  bool fits_shared() const {
    const int64_t ramps = shifts_ ? (scan_.h + scan_.w) * static_cast<int64_t>(sizeof(Pixels)) : 0;
    return has_memory<PatternSteps<T, true, true>>(queue_, SharedImage<T>::bytes(scan_.h, scan_.w) + ramps);
  }

  template <bool poisson, bool in_shared>
  void run_in() {
    using Program = PatternSteps<T, poisson, in_shared>;
    const int64_t pixels = scan_.h * scan_.w, probe_bytes = modes_ * pixels * sizeof(Pixels);
    const bool shifted = shifts_.has_value(), needs_products = outputs_.canvas || (outputs_.positions && !shifted);
    const int64_t at_once = scan_.groups > 1 || !needs_products
                                ? scan_.count()
                                : std::max<int64_t>(1, kProductBytes / (pixels * sizeof(Pixels)));
    const int64_t most = std::min(at_once, scan_.count());
    const Tensor products = scratch(needs_products ? most * pixels : 0);
    const int64_t parts = Program::parts_of(most, probe_bytes);
    const int64_t rounds = scan_.count() == 0 ? 0 : (scan_.count() + at_once - 1) / at_once;
    const bool sums_probe = outputs_.probe && shared_;
    const Tensor sums = scratch(sums_probe ? rounds * parts * modes_ * pixels : 0);
    const Tensor probes = scratch(shifted ? parts * pixels : 0);
    const Tensor images = scratch(in_shared ? 0 : parts * pixels);
    const Tensor factors = scratch(modes_ > 1 ? parts * pixels : 0);  // of real numbers
    const Tensor spectrum = scratch(shifted ? modes_ * pixels : 0);
    if (shifted) transform<in_shared>(pixels_of(probe_), pixels_of(spectrum), false);
    if (outputs_.canvas) zero(queue_, outputs_.canvas->mutable_data_ptr(), outputs_.canvas->numel() * sizeof(Pixels));
    for (int64_t round = 0; round < rounds; ++round) {
      const int64_t begin = round * at_once, count = std::min(at_once, scan_.count() - begin);
      Scan part = scan_;
      part.positions += 2 * begin;
      if (scan_.groups == 1) part.per_group = count;
      Program program{image_stack<const T>(canvas_),
                      part,
                      shifted ? read<double>(*shifts_) + 2 * begin : nullptr,
                      shifted ? pixels_of(spectrum) : pixels_of(probe_) + (shared_ ? 0 : begin * modes_ * pixels),
                      shared_,
                      modes_,
                      counts_from(begin * pixels),
                      mask_ ? read<bool>(*mask_) + (mask_->dim() == 2 ? 0 : begin * pixels) : nullptr,
                      mask_ && mask_->dim() == 2,
                      scale_ ? read<T>(*scale_) + begin : nullptr,
                      weights_ ? read<T>(*weights_) + begin : nullptr,
                      background_,
                      write<double>(outputs_.values) + begin,
                      write<double>(outputs_.scale_slopes) + begin,
                      needs_products ? pixels_of(products) : nullptr,
                      sums_probe ? pixels_of(sums) + round * parts * modes_ * pixels : nullptr,
                      outputs_.probe && !shared_ ? pixels_of(*outputs_.probe) + begin * modes_ * pixels : nullptr,
                      outputs_.positions && shifted
                          ? reinterpret_cast<TwoSums*>(write<double>(*outputs_.positions)) + begin
                          : nullptr,
                      in_shared ? nullptr : pixels_of(images),
                      shifted ? pixels_of(probes) : nullptr,
                      modes_ > 1 ? write<T>(factors) : nullptr,
                      std::min(parts, count),
                      down_,
                      across_,
                      Divisor(static_cast<uint32_t>(scan_.w))};
      // The last round may have fewer patterns than parts; what these would have summed is zero.
      if (sums_probe && program.parts < parts)
        zero(queue_, program.probe_sums, parts * modes_ * pixels * sizeof(Pixels));
      launch(queue_, program, program.parts);
      if (outputs_.canvas) add_to_canvas(part, at_of(begin, count), products, round > 0);
      if (outputs_.positions && !shifted) differentiate(part, products, begin);
    }
    if (sums_probe) write_probe<in_shared>(sums, rounds * parts, shifted);
  }

  static MaybeTensor contiguous(const MaybeTensor& tensor) {
    return tensor ? std::optional(as_contiguous(*tensor)) : std::nullopt;
  }
  // Complex numbers of the canvas's type.
  Tensor scratch(int64_t count) const { return queue_.output(canvas_, Shape(&count, 1), Shape()); }
  static Pixels* pixels_of(const Tensor& tensor) { return reinterpret_cast<Pixels*>(tensor.mutable_data_ptr()); }
  Counts counts_from(int64_t offset) const {
    const auto* const bytes = static_cast<const unsigned char*>(counts_.const_data_ptr());
    return {bytes + offset * static_cast<int64_t>(counts_.element_size()), count_type(counts_)};
  }
  Tensor at_of(int64_t begin, int64_t count) const {
    Tensor at = at_;
    return scan_.groups > 1 || count == scan_.count()
               ? at
               : torch::stable::narrow(at, static_cast<int64_t>(at.dim()) - 2, begin, count);
  }

  template <bool in_shared>
  void transform(const Pixels* from, Pixels* to, bool inverse) const {
    launch(queue_, TransformImages<T, in_shared>{from, to, modes_, inverse, down_, across_}, modes_);
  }

  void add_to_canvas(const Scan& part, const Tensor& at, const Tensor& products, bool adds) const {
    const Tensor& canvas = *outputs_.canvas;
    const Shape size = trailing(canvas);
    const Tensor target = adds ? queue_.output(canvas, canvas.sizes(), Shape()) : canvas;
    const TileGrid grid = square_tiles(part.groups, size[0], size[1]);
    const Tiles tiles(queue_, "pattern_step", grid, part, at, std::nullopt, std::nullopt);
    using Program = SumTiles<T, 2, false>;
    const ImageStack<const T> patches{reinterpret_cast<const T*>(pixels_of(products)), part.count(), part.h, part.w, 2};
    launch_tiles(queue_,
                 Program{{patches}, {}, part, grid, tiles.lists, image_stack<T>(target), {}, nullptr, tiles.state});
    if (!adds) return;
    const int64_t scalars = canvas.numel() * 2;
    launch(queue_, AddImage<T>{read<T>(target), scalars, write<T>(canvas)}, blocks_for<AddImage<T>>(scalars));
  }

  void differentiate(const Scan& part, const Tensor& products, int64_t begin) const {
    using Program = PositionGradient<T, 2>;
    const StripGrid grid(part.count(), part.h, part.w);
    const uint32_t parts = Program::parts_of(grid);
    const int64_t number = parts > 1 ? 2 * part.count() * parts : 0;
    const Tensor sums = queue_.output(at_, Shape(&number, 1), Shape());
    auto* const result = reinterpret_cast<GradientSum*>(write<double>(*outputs_.positions)) + begin;
    auto* const partial = parts > 1 ? reinterpret_cast<GradientSum*>(write<double>(sums)) : result;
    const ImageStack<const T> grads{reinterpret_cast<const T*>(pixels_of(products)), part.count(), part.h, part.w, 2};
    const Program program{{grads}, image_stack<const T>(canvas_), part, nullptr, partial, grid, parts};
    launch(queue_, program, program.blocks());
    if (parts > 1) launch(queue_, SumParts{partial, parts, part.count(), result}, blocks_for<SumParts>(part.count()));
  }

  template <bool in_shared>
  void write_probe(const Tensor& sums, int64_t parts, bool shifted) const {
    const int64_t pixels = modes_ * scan_.h * scan_.w, size = 2 * pixels;
    if (parts == 0) return zero(queue_, outputs_.probe->mutable_data_ptr(), pixels * sizeof(Pixels));
    const Tensor total = shifted ? scratch(pixels) : *outputs_.probe;
    launch(queue_,
           SumProbeParts<T>{reinterpret_cast<const T*>(pixels_of(sums)), parts, size,
                            reinterpret_cast<T*>(pixels_of(total))},
           blocks_for<SumProbeParts<T>>(size));
    if (shifted) transform<in_shared>(pixels_of(total), pixels_of(*outputs_.probe), true);
  }

  const Queue& queue_;
  const StepOutputs& outputs_;
  Tensor canvas_;
  Tensor probe_;
  Tensor at_;
  Tensor counts_;
  MaybeTensor mask_;
  MaybeTensor scale_;
  MaybeTensor weights_;
  MaybeTensor shifts_;
  T background_;
  Scan scan_;
  int64_t modes_;
  bool shared_;
  FourierTable<T> down_;
  FourierTable<T> across_;
};

void step_into(const Queue& queue, const StepInputs& inputs, const StepOutputs& outputs) {
  const char* const op = "pattern_step";
  if (inputs.shifts && inputs.probe.dim() > 3) [[unlikely]]
    throw_rule(op, "probe", "be the same for all patterns where there are shifts", "one for each");
  with_real_type(inputs.canvas, [&](auto zero_of_type) {
    using T = decltype(zero_of_type);
    for (const int64_t side : {trailing(inputs.probe)[0], trailing(inputs.probe)[1]})
      if (!has_fourier_stages(side) || !FourierTable<T>::fits(FourierAxis<T>(side))) [[unlikely]]
        throw_rule(op, "probe's size", "be at most 256, with prime factors 2, 3 and 5 only", std::to_string(side));
    StepLauncher<T> launcher(queue, inputs, outputs);
    if (inputs.measurement.poisson()) {
      launcher.template run<true>();
    } else {
      launcher.template run<false>();
    }
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  m.impl("pattern_step", TORCH_BOX((&dispatch::pattern_step<backend::Queue, backend::step_into>)));
}
