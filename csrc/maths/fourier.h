// SPDX-License-Identifier: BSD-3-Clause
// How a discrete Fourier transform is divided into stages, for sizes without prime factors other than 2, 3 and 5: those
// of Stockham's algorithm, which needs no reordering (C. Van Loan, Computational Frameworks for the Fast Fourier
// Transform, SIAM 1992). A stage of radix r reads elements q + s (p + m k), k < r, transforms these r, multiplies them
// by the twiddle factors exp(-2 pi i p k / (m r)), and writes them to q + s (r p + k), for all p < m and q < s; m r s
// is the size. s is 1 in the first stage and m in the last, and the result of that is in natural order.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace ptycho {

struct FourierStage {
  int64_t radix;
  int64_t m;
  int64_t s;
  int64_t twiddles;  // where its factors begin: for every p, those of k = 1 ... r - 1
};

// A transform of n elements. The factors are complex numbers of two scalars.
template <typename T>
struct FourierAxis {
  int64_t n;
  std::vector<FourierStage> stages;  // none for n = 1
  std::vector<T> twiddles;

  explicit FourierAxis(int64_t n) : n(n) {
    int64_t left = n, s = 1;
    const auto divide = [&](int64_t radix) {
      const int64_t m = left / radix;
      stages.push_back({radix, m, s, static_cast<int64_t>(twiddles.size())});
      for (int64_t p = 0; p < m; ++p)
        for (int64_t k = 1; k < radix; ++k) {
          const double phase = -2 * M_PI * static_cast<double>(p * k % left) / static_cast<double>(left);
          twiddles.push_back(static_cast<T>(std::cos(phase)));
          twiddles.push_back(static_cast<T>(std::sin(phase)));
        }
      left = m;
      s *= radix;
    };
    for (const int64_t radix : {5, 3})
      while (left % radix == 0) divide(radix);
    while (left % 8 == 0 && left != 16) divide(8);  // 16 is two stages of 4
    while (left % 4 == 0) divide(4);
    if (left % 2 == 0) divide(2);
  }
};

// Whether a size can be transformed.
inline bool has_fourier_stages(int64_t n) {
  if (n <= 0) return false;
  for (const int64_t factor : {2, 3, 5})
    while (n % factor == 0) n /= factor;
  return n == 1;
}

}  // namespace ptycho
