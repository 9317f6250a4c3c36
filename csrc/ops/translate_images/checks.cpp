// SPDX-License-Identifier: BSD-3-Clause
// The rules of translate_images' inputs, in the order in which they are applied.
#include "ops/translate_images/checks.h"

#include "runtime/checks.h"

namespace ptycho {

void check_translate_images_inputs(const char* op, const Tensor& images, const Tensor& shifts,
                                   const std::string& mode) {
  const Check check(op);
  check.data("images", images);
  check.dims("images", images, 2, "(..., H, W)");
  check.type("shifts", shifts, DataType::float64);
  check.shape("shifts", shifts, leading(images, 2), {2});
  check.device("shifts", shifts, images);
  if (mode != "bilinear" && mode != "nearest") [[unlikely]]
    throw_rule(op, "mode", "be 'bilinear' or 'nearest'", "'" + mode + "'");
}

}  // namespace ptycho
