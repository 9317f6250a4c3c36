// SPDX-License-Identifier: BSD-3-Clause
// From tensors that have passed the checks to the plain views of maths/patterns.h.
#pragma once

#include "maths/patterns.h"
#include "ops/correct_fields/checks.h"

namespace ptycho {

// The inputs' contiguous tensors, alive while the views are used.
class ContiguousPatterns {
 public:
  explicit ContiguousPatterns(const Comparison& inputs)
      : fields_(as_contiguous(inputs.fields)),
        counts_(as_contiguous(inputs.counts)),
        mask_(inputs.mask ? std::optional(as_contiguous(*inputs.mask)) : std::nullopt),
        scale_(inputs.scale ? std::optional(as_contiguous(*inputs.scale)) : std::nullopt),
        background_(inputs.background) {}

  template <typename T>
  Patterns<T> view() const {
    const Shape sizes = fields_.sizes();
    const size_t dims = sizes.size();
    return {read<T>(fields_),
            {counts_.const_data_ptr(), count_type(counts_)},
            mask_ ? read<bool>(*mask_) : nullptr,
            scale_ ? read<T>(*scale_) : nullptr,
            product({sizes.data(), dims - 3}),
            sizes[dims - 3],
            sizes[dims - 2] * sizes[dims - 1],
            mask_ && mask_->dim() == 2,
            static_cast<T>(background_)};
  }

 private:
  Tensor fields_;
  Tensor counts_;
  MaybeTensor mask_;
  MaybeTensor scale_;
  double background_;
};

// The same for the gradients.
class ContiguousGrads {
 public:
  ContiguousGrads(const MaybeTensor& correction, const MaybeTensor& values, const MaybeTensor& scale_slopes)
      : correction_(contiguous(correction)), values_(contiguous(values)), scale_slopes_(contiguous(scale_slopes)) {}

  template <typename T>
  PatternGrads<T> view() const {
    return {correction_ ? read<T>(*correction_) : nullptr, values_ ? read<double>(*values_) : nullptr,
            scale_slopes_ ? read<double>(*scale_slopes_) : nullptr};
  }

 private:
  static MaybeTensor contiguous(const MaybeTensor& tensor) {
    return tensor ? std::optional(as_contiguous(*tensor)) : std::nullopt;
  }
  MaybeTensor correction_;
  MaybeTensor values_;
  MaybeTensor scale_slopes_;
};

}  // namespace ptycho
