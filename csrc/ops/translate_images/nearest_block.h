// SPDX-License-Identifier: BSD-3-Clause
// Block programs of the nearest-sample translation and its transpose, one thread to an output pixel. An input pixel is
// read by a run of at most a few outputs on either axis, so the transpose is a gather as well.
#pragma once

#include "maths/block.h"
#include "ops/translate_images/nearest.h"

namespace ptycho {

template <typename T, int lanes, bool adjoint>
struct Nearest {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  ImageStack<const T> images;
  const double* shifts;
  ImageStack<T> out;

  PTYCHO_HD int64_t pixels() const { return out.count * out.rows * out.cols; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<Nearest>(block, pixels(), [&](int64_t i) {
      const int64_t k = i / (out.rows * out.cols), r = i / out.cols % out.rows, c = i % out.cols;
      write(NearestMap{shifts[2 * k], out.rows}, NearestMap{shifts[2 * k + 1], out.cols}, images[k],
            out[k].row(r) + c * lanes, r, c);
    });
  }

  PTYCHO_HD static void write(const NearestMap& down, const NearestMap& across, const Image<const T>& image, T* to,
                              int64_t r, int64_t c) {
    T value[lanes] = {};
    if (!is_finite(down.shift) || !is_finite(across.shift)) {
      for (int lane = 0; lane < lanes; ++lane)
        value[lane] = static_cast<T>(down.shift - down.shift + (across.shift - across.shift));
    } else if constexpr (adjoint) {
      const Span rows = down.near(r), cols = across.near(c);
      for (int64_t q = rows.begin; q < rows.end; ++q) {
        if (down(q) != r) continue;
        for (int64_t p = cols.begin; p < cols.end; ++p)
          for (int lane = 0; lane < lanes; ++lane)
            if (across(p) == c) value[lane] += image.row(q)[p * lanes + lane];
      }
    } else {
      const int64_t q = down(r), p = across(c);
      for (int lane = 0; lane < lanes; ++lane)
        if (q >= 0 && p >= 0) value[lane] = image.row(q)[p * lanes + lane];
    }
    for (int lane = 0; lane < lanes; ++lane) to[lane] = value[lane];
  }
};

}  // namespace ptycho
