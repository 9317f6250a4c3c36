// SPDX-License-Identifier: BSD-3-Clause
// Vectors of the level that kernels.cpp is compiled for (PTYCHO_LEVEL): loads and stores, whole and in part. Everything
// has internal linkage, because the linker would keep one level's copy of anything else for all.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif
constexpr int64_t kLineBytes = 64;
constexpr int64_t kVectors = kLineBytes / kVectorBytes;  // of a line

template <typename T>
constexpr int64_t kWide = kVectorBytes / static_cast<int64_t>(sizeof(T));  // scalars of a vector
template <typename T>
constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(T));  // scalars of a line

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

// The vector, kept in a register: GCC would load it again for each use, and a load across cache lines costs two.
template <typename V>
inline V in_register(V vector) {
#if defined(__AVX512F__)
  asm("" : "+v"(vector));
#elif defined(__x86_64__)
  asm("" : "+x"(vector));
#endif
  return vector;
}

template <typename T>
inline void store(T* to, Vector<T> value) {
  *reinterpret_cast<Vector<T>*>(to) = value;
}

// to: on a vector's boundary.
template <typename T>
inline void stream_store(T* to, Vector<T> value) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
#elif defined(__x86_64__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(value));
#else
  store(to, value);
#endif
}

inline void store_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Scalars begin to end - 1 of a vector: a mask of the level's kind. What lies outside is loaded as zero, and is not
// read.
template <typename T>
class Part {
 public:
#if defined(__AVX512F__)
  Part(int begin, int end) : mask_((1u << end) - (1u << begin)) {}
  Vector<T> load(const T* from) const {
    if constexpr (std::is_same_v<T, float>) {
      return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask_), from);
    } else {
      return _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask_), from);
    }
  }

 private:
  unsigned mask_;
#elif defined(__AVX2__)
  Part(int begin, int end) {
    if constexpr (std::is_same_v<T, float>) {
      const __m256i at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      mask_ = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(begin), at),
                                  _mm256_cmpgt_epi32(_mm256_set1_epi32(end), at));
    } else {
      const __m256i at = _mm256_setr_epi64x(0, 1, 2, 3);
      mask_ = _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(begin), at),
                                  _mm256_cmpgt_epi64(_mm256_set1_epi64x(end), at));
    }
  }
  Vector<T> load(const T* from) const {
    if constexpr (std::is_same_v<T, float>) {
      return _mm256_maskload_ps(from, mask_);
    } else {
      return _mm256_maskload_pd(from, mask_);
    }
  }

 private:
  __m256i mask_;
#else
  Part(int begin, int end) : begin_(begin), end_(end) {}
  Vector<T> load(const T* from) const {
    Vector<T> scalars{};
    for (int s = 0; s < kWide<T>; ++s)
      if (s >= begin_ && s < end_) scalars[s] = from[s];
    return scalars;
  }

 private:
  int begin_;
  int end_;
#endif
};

// The first `count` scalars.
template <typename T>
inline void store_first(T* to, Vector<T> value, int64_t count) {
  T scalars[kWide<T>];
  store(scalars, value);
  for (int64_t s = 0; s < count; ++s) to[s] = scalars[s];
}

// Vector `part` of the lanes of a vector of pixels: every scalar as often as a pixel has lanes.
template <typename T, int64_t lanes, int64_t part>
inline Vector<T> to_lanes(Vector<T> pixels) {
  if constexpr (lanes == 1) return pixels;
  return [&]<int... s>(std::integer_sequence<int, s...>) {
    return __builtin_shufflevector(pixels, pixels, ((int{part * kWide<T>} + s) / int{lanes})...);
  }(std::make_integer_sequence<int, kWide<T>>{});
}

// Calls each(part) for the parts that to_lanes makes of a vector of pixels.
template <int64_t lanes, typename Each>
__attribute__((always_inline)) inline void for_each_part(const Each& each) {
  each(std::integral_constant<int64_t, 0>{});
  if constexpr (lanes == 2) each(std::integral_constant<int64_t, 1>{});
}

// Into the L2 cache: L1 has too few slots for what is still in flight. Inlined by force: GCC takes a function that only
// prefetches for one without effect, and drops its calls.
template <typename T>
__attribute__((always_inline)) inline void prefetch(const T* row, int64_t count) {
  for (int64_t m = 0; m < count; m += kLine<T>) __builtin_prefetch(row + m, 0, 2);
}

}  // namespace
}  // namespace ptycho::cpu::PTYCHO_LEVEL
