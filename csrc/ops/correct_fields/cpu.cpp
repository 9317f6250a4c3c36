// SPDX-License-Identifier: BSD-3-Clause
// correct_fields on the CPU and its backward, parallel over the parts of patterns.
#include "maths/simd/fields.h"
#include "ops/correct_fields/dispatch.h"
#include "runtime/cpu/outputs.h"
#include "runtime/cpu/workers.h"

namespace ptycho::cpu {
namespace {

// Calls work(part, its offset in scalars, pattern, part's place in sums) for every part of every pattern.
template <typename T, typename Work>
void for_each_part(const Patterns<T>& patterns, const Comparison& inputs, const Work& work) {
  const int64_t parts = patterns.parts(), lanes = lanes_of(inputs.fields);
  const int64_t cost = std::min(patterns.pixels, kPartPixels) * std::max<int64_t>(patterns.modes, 1) * lanes;
  parallel_for(patterns.patterns * parts, grain(cost), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t k = i / parts, first = i % parts * kPartPixels;
      const int64_t offset = (k * patterns.modes * patterns.pixels + first) * lanes;
      const bool* const mask = patterns.mask_of(k);
      work(PatternPart<T>{patterns.fields + offset, patterns.pixels * lanes, patterns.modes, lanes, patterns.counts,
                          k * patterns.pixels + first, mask ? mask + first : nullptr,
                          std::min(patterns.pixels - first, kPartPixels), patterns.scale(k), patterns.background,
                          inputs.poisson()},
           offset, k, i);
    }
  });
}

// totals[k] = the sum of its parts, in their order.
void sum_parts(const double* sums, int64_t parts, int64_t stride, int64_t count, double* totals) {
  for (int64_t k = 0; k < count; ++k) {
    double total = sums[k * parts * stride];
    for (int64_t part = 1; part < parts; ++part) total += sums[(k * parts + part) * stride];
    totals[k] = total;
  }
}

void correct_into(const Host&, const Comparison& inputs, const Tensor* correction, const Tensor& values,
                  const Tensor& scale_slopes) {
  const ContiguousPatterns source(inputs);
  with_real_type(inputs.fields, [&](auto zero) {
    using T = decltype(zero);
    const Patterns<T> patterns = source.view<T>();
    T* const to = correction ? write<T>(*correction) : nullptr;
    std::vector<double> sums(2 * patterns.patterns * patterns.parts());
    for_each_part(patterns, inputs, [&](const PatternPart<T>& part, int64_t offset, int64_t, int64_t i) {
      field_kernels<T>().correct(part, to ? to + offset : nullptr, sums.data() + 2 * i);
    });
    sum_parts(sums.data(), patterns.parts(), 2, patterns.patterns, write<double>(values));
    sum_parts(sums.data() + 1, patterns.parts(), 2, patterns.patterns, write<double>(scale_slopes));
  });
}

void pass_back_into(const Host&, const Comparison& inputs, const MaybeTensor& grad_correction,
                    const MaybeTensor& grad_values, const MaybeTensor& grad_scale_slopes, const Tensor& grad_fields,
                    const Tensor& grad_scale) {
  const ContiguousPatterns source(inputs);
  const ContiguousGrads source_grads(grad_correction, grad_values, grad_scale_slopes);
  with_real_type(inputs.fields, [&](auto zero) {
    using T = decltype(zero);
    const Patterns<T> patterns = source.view<T>();
    const PatternGrads<T> grads = source_grads.view<T>();
    T* const to = write<T>(grad_fields);
    std::vector<double> sums(patterns.patterns * patterns.parts());
    for_each_part(patterns, inputs, [&](const PatternPart<T>& part, int64_t offset, int64_t k, int64_t i) {
      field_kernels<T>().pass_back(part, grads.correction ? grads.correction + offset : nullptr, grads.value(k),
                                   grads.by_scale(k), to + offset, sums.data() + i);
    });
    sum_parts(sums.data(), patterns.parts(), 1, patterns.patterns, write<double>(grad_scale));
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("correct_fields", TORCH_BOX((&dispatch::correct_fields<Host, backend::correct_into>)));
  m.impl("correct_fields_out", TORCH_BOX((&dispatch::correct_fields_out<Host, backend::correct_into>)));
  m.impl("correct_fields_backward", TORCH_BOX((&dispatch::correct_fields_backward<Host, backend::pass_back_into>)));
}
