// SPDX-License-Identifier: BSD-3-Clause
// The four data types as what kernels are made for: a real type, and its scalars to a pixel.
#pragma once

#include <type_traits>

#include "runtime/torch_compat.h"

namespace ptycho::cuda {

// Calls body(a zero of the data's real type, its lanes as an integral constant).
template <typename Body>
inline void with_data_type(const Tensor& data, const Body& body) {
  with_real_type(data, [&](auto zero) {
    if (is_complex(data_type(data))) {
      body(zero, std::integral_constant<int, 2>{});
    } else {
      body(zero, std::integral_constant<int, 1>{});
    }
  });
}

}  // namespace ptycho::cuda
