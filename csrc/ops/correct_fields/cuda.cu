// SPDX-License-Identifier: BSD-3-Clause
// correct_fields on CUDA and its backward. Both are bound by reading the fields and writing their correction, 16 bytes
// of a complex64 pixel beside one to eight of its count.
#include "ops/correct_fields/block.h"
#include "ops/correct_fields/dispatch.h"
#include "runtime/cuda/data_types.h"
#include "runtime/cuda/launch.h"

namespace ptycho::cuda {
namespace {

// Sums of the parts of patterns: of a pattern of one part, the total itself.
class PartSums {
 public:
  PartSums(const Tensor& totals, int64_t parts)
      : totals_(totals), parts_(parts), sums_(parts > 1 ? new_sums(totals, parts) : totals) {}
  double* data() const { return write<double>(sums_); }
  void add(const Queue& queue) const {
    const int64_t count = totals_.numel();
    if (parts_ > 1) launch(queue, AddParts{data(), parts_, count, write<double>(totals_)}, blocks_for<AddParts>(count));
  }

 private:
  static Tensor new_sums(const Tensor& totals, int64_t parts) {
    return new_tensor(totals, totals.numel() * parts, aoti_torch_dtype_float64());
  }
  const Tensor& totals_;
  int64_t parts_;
  Tensor sums_;
};

// Calls body(a zero of the real type, the lanes, whether Poisson), the latter two as constants.
template <typename Body>
void with_constants(const Comparison& inputs, const Body& body) {
  with_data_type(inputs.fields, [&](auto zero, auto lanes) {
    if (inputs.poisson()) {
      body(zero, lanes, std::true_type{});
    } else {
      body(zero, lanes, std::false_type{});
    }
  });
}

void correct_into(const Queue& queue, const Comparison& inputs, const Tensor* correction, const Tensor& values,
                  const Tensor& scale_slopes) {
  const ContiguousPatterns source(inputs);
  with_constants(inputs, [&](auto zero, auto lanes, auto poisson) {
    using T = decltype(zero);
    using Program = CorrectFields<T, lanes.value, poisson.value>;
    const Patterns<T> patterns = source.view<T>();
    const PartSums value_sums(values, patterns.parts()), derivative_sums(scale_slopes, patterns.parts());
    const Program program{patterns, correction ? write<typename Program::Scalars>(*correction) : nullptr,
                          value_sums.data(), derivative_sums.data()};
    launch(queue, program, program.blocks());
    value_sums.add(queue);
    derivative_sums.add(queue);
  });
}

void pass_back_into(const Queue& queue, const Comparison& inputs, const MaybeTensor& grad_correction,
                    const MaybeTensor& grad_values, const MaybeTensor& grad_scale_slopes, const Tensor& grad_fields,
                    const Tensor& grad_scale) {
  const ContiguousPatterns source(inputs);
  const ContiguousGrads grads(grad_correction, grad_values, grad_scale_slopes);
  with_constants(inputs, [&](auto zero, auto lanes, auto poisson) {
    using T = decltype(zero);
    using Program = PassBackCorrection<T, lanes.value, poisson.value>;
    const Patterns<T> patterns = source.view<T>();
    const PartSums sums(grad_scale, patterns.parts());
    const Program program{patterns, grads.view<T>(), write<typename Program::Scalars>(grad_fields), sums.data()};
    launch(queue, program, program.blocks());
    sums.add(queue);
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("correct_fields", TORCH_BOX((&dispatch::correct_fields<Queue, backend::correct_into>)));
  m.impl("correct_fields_out", TORCH_BOX((&dispatch::correct_fields_out<Queue, backend::correct_into>)));
  m.impl("correct_fields_backward", TORCH_BOX((&dispatch::correct_fields_backward<Queue, backend::pass_back_into>)));
}
