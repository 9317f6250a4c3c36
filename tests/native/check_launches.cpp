// SPDX-License-Identifier: BSD-3-Clause
// What the launches of block programs work out on the host, where it needs no tensors: a failing check ends the program
// with its line.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "maths/block.h"
#include "maths/blocks/waves.h"

namespace {

void require(bool right, int line) {
  if (right) return;
  std::printf("check_launches.cpp:%d\n", line);
  std::exit(1);
}
#define REQUIRE(condition) require(condition, __LINE__)

// Around multiples, where quotients change, over all sizes of both numbers.
void check_divisor() {
  using ptycho::Divisor;
  for (int bit = 0; bit < 32; ++bit)
    for (int64_t b = (int64_t{1} << bit) - 2; b <= (int64_t{1} << bit) + 3; ++b) {
      if (b < 1 || b > UINT32_MAX) continue;
      const Divisor divisor(static_cast<uint32_t>(b));
      REQUIRE(divisor.value() == b);
      for (int64_t n = 0; n < 40; ++n)
        for (int64_t a : {n, n * b, n * b - 1, (INT64_C(1) << 32) - 1 - n, (INT64_C(1) << 32) / b * b - n, b + n,
                          (INT64_C(1) << 32) + n, INT64_MAX - n})
          if (a >= 0) REQUIRE(divisor.quotient(a) == a / b);
    }
  uint64_t state = 1;
  for (int i = 0; i < 2000000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto a = static_cast<uint32_t>(state >> 32), b = static_cast<uint32_t>(state >> 7) >> (i % 32);
    if (b > 0) REQUIRE(Divisor(b).quotient(a) == a / b);
  }
  REQUIRE(Divisor(0).quotient(INT64_C(7)) == 7);
}

void check_waves() {
  using ptycho::slots, ptycho::wants_crowding;
  REQUIRE(slots(1, 924) == 924 && slots(924, 924) == 924 && slots(925, 924) == 1848 && slots(0, 924) == 0);
  const int64_t few = 7 * 132, many = 8 * 132;
  REQUIRE(wants_crowding(1024, few, many));    // of 1000 x 1000: one wave in place of one and a tenth
  REQUIRE(!wants_crowding(924, few, many));    // one wave either way
  REQUIRE(!wants_crowding(1057, few, many));   // two either way, and more slots
  REQUIRE(!wants_crowding(65536, few, many));  // of 8192 x 8192: the last of many waves matters little
  REQUIRE(!wants_crowding(0, few, many) && !wants_crowding(1024, few, 0) && !wants_crowding(1024, 0, many));
  REQUIRE(wants_crowding(1, 10, 8) && !wants_crowding(1, 9, 9));
  REQUIRE(wants_crowding(INT64_C(1) << 40, 1 << 20, 1) == false);
}

}  // namespace

int main() {
  check_divisor();
  check_waves();
}
