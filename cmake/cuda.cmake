# SPDX-License-Identifier: BSD-3-Clause
# The target ptycho_ops_cuda: the CUDA side of the operators, a library of its own, so that one build serves machines with and
# without a GPU. It asks no CUDA of torch, only its stable headers; CUDA's runtime is linked statically, and no path of
# this machine is in it. PTYCHO_CUDA: ON, OFF, or AUTO for wherever a CUDA compiler works. TORCH_CUDA_ARCH_LIST (variable
# or environment) is torch's own spelling of the architectures, for example "8.0;9.0;10.0+PTX".
set(PTYCHO_CUDA AUTO CACHE STRING "CUDA operators: ON, OFF or AUTO (wherever a CUDA compiler works)")
set_property(CACHE PTYCHO_CUDA PROPERTY STRINGS AUTO ON OFF)
set(PTYCHO_CUDA_VERSION "")
set(PTYCHO_CUDA_TARGETS "")

if(PTYCHO_CUDA)
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES 80)  # for the compiler's test; the target has its own
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    if(NOT PTYCHO_CUDA STREQUAL "AUTO")
      message(FATAL_ERROR "PTYCHO_CUDA=ON needs a CUDA compiler that works, and there is none: "
        "put nvcc on the PATH (or name it in CUDACXX), or build with PTYCHO_CUDA=OFF")
    endif()
    message(STATUS "No CUDA compiler: operators for the CPU only")
    return()
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)  # the first with C++20
    if(NOT PTYCHO_CUDA STREQUAL "AUTO")
      message(FATAL_ERROR "PTYCHO_CUDA=ON needs CUDA 12.0 or newer, got ${CMAKE_CUDA_COMPILER_VERSION}: "
        "put its nvcc on the PATH (or name it in CUDACXX), or build with PTYCHO_CUDA=OFF")
    endif()
    message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION} is too old: operators for the CPU only")
    return()
  endif()
  set(PTYCHO_CUDA_VERSION "${CMAKE_CUDA_COMPILER_VERSION}")

  if(NOT TORCH_CUDA_ARCH_LIST)
    set(TORCH_CUDA_ARCH_LIST "$ENV{TORCH_CUDA_ARCH_LIST}")
  endif()
  if(NOT TORCH_CUDA_ARCH_LIST)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
      set(TORCH_CUDA_ARCH_LIST "8.0;9.0+PTX")
    else()
      set(TORCH_CUDA_ARCH_LIST "8.0;9.0;10.0+PTX")
    endif()
  endif()
  string(REGEX REPLACE "[ ,]+" ";" architectures "${TORCH_CUDA_ARCH_LIST}")
  foreach(name IN LISTS architectures)
    if(NOT name MATCHES "^([0-9]+)\\.([0-9][af]?)(\\+PTX)?$")
      message(FATAL_ERROR "TORCH_CUDA_ARCH_LIST must list versions such as 9.0 or 10.0+PTX, got ${name}")
    endif()
    if(CMAKE_MATCH_3)
      list(APPEND cuda_architectures ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
    else()
      list(APPEND cuda_architectures ${CMAKE_MATCH_1}${CMAKE_MATCH_2}-real)
    endif()
  endforeach()
  list(JOIN architectures " " PTYCHO_CUDA_TARGETS)
  message(STATUS "CUDA ${PTYCHO_CUDA_VERSION} for ${PTYCHO_CUDA_TARGETS}")

  file(GLOB ptycho_cuda CONFIGURE_DEPENDS csrc/ops/*/cuda.cu csrc/runtime/cuda/*.cpp csrc/runtime/cuda/*.cu)
  add_library(ptycho_ops_cuda MODULE ${ptycho_shared} ${ptycho_cuda})
  target_include_directories(ptycho_ops_cuda PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(ptycho_ops_cuda PRIVATE ptycho_options torch_stable ${CMAKE_DL_LIBS})
  # No fused multiply-adds, as on the CPU: the results are the same bits. -v: the report that the tests read.
  target_compile_options(ptycho_ops_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;-Xptxas=-v>")
  set_target_properties(ptycho_ops_cuda PROPERTIES
    CUDA_ARCHITECTURES "${cuda_architectures}"
    CUDA_STANDARD 20
    CUDA_STANDARD_REQUIRED ON
    CUDA_VISIBILITY_PRESET hidden
    CUDA_COMPILER_LAUNCHER "${Python_EXECUTABLE};${CMAKE_CURRENT_LIST_DIR}/keep_report.py")
endif()
