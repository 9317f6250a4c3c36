// SPDX-License-Identifier: BSD-3-Clause
// How block programs (maths/block.h) are run: by CUDA, or without a CUDA compiler by the tests' launch_serially.h,
// which offers the same names and runs them on the CPU. Nothing here waits for the device, so all of it can be captured
// into a CUDA graph.
#pragma once

#include "runtime/torch_compat.h"

#ifndef __CUDACC__
#include "launch_serially.h"
#else
#include <atomic>
#include <cub/device/device_radix_sort.cuh>
#include <stdexcept>

#include "maths/block.h"
#include "runtime/cuda/stream.h"

namespace ptycho::cuda {

inline void require_success(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // cleared, or the next launch would report it
  throw std::runtime_error(std::string(what) + " " + cudaGetErrorString(error));
}

// The device of a tensor, current while this lives, and the stream that is current on it.
class Queue {
 public:
  explicit Queue(const Tensor& tensor)
      : guard_(tensor.get_device_index()),
        device(tensor.get_device_index()),
        stream(current_stream(tensor.get_device_index())) {}
  Queue(const Queue&) = delete;
  // An uninitialised tensor of sizes `first` and then `last`, otherwise like the model.
  Tensor output(const Tensor& model, Shape first, Shape last) const {
    return new_tensor(model, first, last, type_code(model));
  }

 private:
  DeviceGuard guard_;

 public:
  const int device;
  const cudaStream_t stream;
};

template <typename Program>
class Block {
 public:
  __device__ explicit Block(typename Program::Shared& shared) : shared_(shared) {}
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t count() const { return gridDim.x; }
  __device__ typename Program::Shared& shared() { return shared_; }
  __device__ unsigned char* memory() {
    extern __shared__ __align__(16) unsigned char ptycho_memory[];
    return ptycho_memory;
  }
  template <typename State>
  __device__ State registers() {
    return State{};
  }
  template <typename Phase>
  __device__ void each(const Phase& phase) {
    phase(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
  template <typename State, typename Phase>
  __device__ void each(State& state, const Phase& phase) {
    phase(static_cast<int>(threadIdx.x), state);
    __syncthreads();
  }
  template <typename Phase>
  __device__ void end(const Phase& phase) {
    phase(static_cast<int>(threadIdx.x));
  }
  template <typename Integer>
  __device__ void add(Integer* at, Integer value) {
    atomicAdd(as_unsigned(at), static_cast<Unsigned<Integer> >(value));
  }
  template <typename Integer>
  __device__ void most(Integer* at, Integer value) {
    static_assert(std::is_unsigned_v<Integer>);
    atomicMax(as_unsigned(at), static_cast<Unsigned<Integer> >(value));
  }
  // The barrier makes the block's writes thread 0's, its fence orders them before the count and what follows after it.
  __device__ bool last(int64_t* at, int64_t count) {
    __syncthreads();
    bool is_last = false;
    if (threadIdx.x == 0) {
      __threadfence();
      is_last = atomicAdd(as_unsigned(at), 1ull) + 1 == static_cast<unsigned long long>(count);
      __threadfence();
    }
    return __syncthreads_or(is_last);
  }

 private:
  template <typename Integer>
  using Unsigned = std::conditional_t<sizeof(Integer) == 8, unsigned long long, unsigned>;
  template <typename Integer>
  __device__ static Unsigned<Integer>* as_unsigned(Integer* at) {
    static_assert(std::is_integral_v<Integer> && (sizeof(Integer) == 8 || sizeof(Integer) == 4));
    return reinterpret_cast<Unsigned<Integer>*>(at);
  }

  typename Program::Shared& shared_;
};

template <typename Program>
__global__ void __launch_bounds__(Program::kThreads, minimum_blocks<Program>())
    run(const __grid_constant__ Program program) {
  __shared__ typename Program::Shared shared;
  Block<Program> block(shared);
  program(block);
}

// The bytes that memory_bytes() of a program may be on the device.
template <typename Program>
int memory_at_most(const Queue& queue) {
  int most = 0;
  require_success(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue.device),
                  "ptycho_ext: the device must tell its shared memory, got");
  constexpr int unit = 128;  // that shared memory is handed out in
  return most - static_cast<int>((sizeof(typename Program::Shared) + unit - 1) / unit * unit);
}

template <typename Program>
bool has_memory(const Queue& queue, int64_t bytes) {
  return bytes <= memory_at_most<Program>(queue);
}

// Beyond 48 KiB it is granted to a kernel, not to a launch, so all there is, whichever thread of the host asks; and
// most of a multiprocessor's cache is made shared memory, so that it has room for several blocks.
template <typename Program>
void allow_memory(const Queue& queue) {
  const char* const what = "ptycho_ext: a kernel must have its shared memory, got";
  require_success(
      cudaFuncSetAttribute(run<Program>, cudaFuncAttributeMaxDynamicSharedMemorySize, memory_at_most<Program>(queue)),
      what);
  require_success(cudaFuncSetAttribute(run<Program>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                       cudaSharedmemCarveoutMaxShared),
                  what);
}

// How many blocks run at once on the device of the queue; asked once per device.
template <typename Program>
int64_t resident_blocks(const Queue& queue) {
  constexpr int devices = 64;
  static std::atomic<int64_t> known[devices];
  const bool has_place = queue.device < devices;
  if (has_place && known[queue.device] > 0) return known[queue.device];
  const char* const what = "ptycho_ext: the device must tell how many blocks it runs at once, got";
  int blocks = 0, multiprocessors = 0;
  require_success(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, run<Program>, Program::kThreads, 0), what);
  require_success(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, queue.device), what);
  const int64_t resident = int64_t{blocks} * multiprocessors;
  if (has_place) known[queue.device] = resident;
  return resident;
}

// A block for each of `blocks`, or as many as a grid holds; the programs walk on in steps of the grid.
template <typename Program>
void launch(const Queue& queue, const Program& program, int64_t blocks) {
  static_assert(std::is_trivially_copyable_v<Program>);
  if (blocks == 0) return;
  const auto grid = static_cast<unsigned>(std::min<int64_t>(blocks, 0x7fffffff));
  size_t bytes = 0;
  if constexpr (requires { program.memory_bytes(); }) {
    bytes = static_cast<size_t>(program.memory_bytes());
    allow_memory<Program>(queue);
  }
  // clang-format off
  run<<<grid, Program::kThreads, bytes, queue.stream>>>(program);
  // clang-format on
  require_success(cudaGetLastError(), "ptycho_ext: a CUDA kernel must launch, got");
}

inline void zero(const Queue& queue, void* memory, size_t bytes) {
  if (bytes == 0) return;
  require_success(cudaMemsetAsync(memory, 0, bytes, queue.stream), "ptycho_ext: memory must be set to zero, got");
}

// Stable sort by the lowest `bits` of the keys. model: a tensor of the device.
template <typename Key>
void sort_by_key(const Queue& queue, const Tensor& model, const Key* keys, Key* sorted_keys, const int64_t* values,
                 int64_t* sorted_values, int64_t count, int bits) {
  size_t bytes = 0;
  const auto sort = [&](void* scratch) {
    require_success(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, values, sorted_values, count, 0,
                                                    bits, queue.stream),
                    "ptycho_ext: the sort of a plan must succeed, got");
  };
  sort(nullptr);
  const Tensor scratch = new_tensor(model, static_cast<int64_t>(bytes), aoti_torch_dtype_uint8());
  sort(scratch.mutable_data_ptr());
}

}  // namespace ptycho::cuda
#endif
