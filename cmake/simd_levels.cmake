# SPDX-License-Identifier: BSD-3-Clause
# ptycho_simd(target): compiles the inner loops once per instruction set into the target, which chooses at run time.
# Elsewhere than on x86-64, and for PTYCHO_NATIVE, there is one level: whatever the compiler's flags allow.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT PTYCHO_NATIVE)
  set(PTYCHO_LEVELS baseline avx2 avx512)
  set_property(SOURCE csrc/maths/simd/kernels_of_level.cpp csrc/maths/simd/fields_of_level.cpp
    csrc/maths/simd/fourier_of_level.cpp csrc/maths/simd/updates_of_level.cpp csrc/maths/simd/simd_level.cpp
    APPEND PROPERTY COMPILE_DEFINITIONS PTYCHO_SIMD_LEVELS)
else()
  set(PTYCHO_LEVELS baseline)
endif()
set(PTYCHO_FLAGS_baseline "")
set(PTYCHO_FLAGS_avx2 -mavx2)
set(PTYCHO_FLAGS_avx512 -mavx512f -mavx512vl -mprefer-vector-width=512)

# Nothing here reads errno or floating-point traps, and square roots and selections in loops become vectors without them;
# the results are the same.
set_property(SOURCE csrc/maths/simd/fields.cpp csrc/maths/simd/updates.cpp
  APPEND PROPERTY COMPILE_OPTIONS -fno-math-errno -fno-trapping-math)

function(ptycho_simd target)
  foreach(level IN LISTS PTYCHO_LEVELS)
    add_library(ptycho_kernels_${level} OBJECT
      csrc/maths/simd/kernels.cpp csrc/maths/simd/fields.cpp csrc/maths/simd/fourier.cpp csrc/maths/simd/updates.cpp)
    set_property(TARGET ptycho_kernels_${level} PROPERTY POSITION_INDEPENDENT_CODE ON)
    target_link_libraries(ptycho_kernels_${level} PRIVATE ptycho_options)
    target_compile_options(ptycho_kernels_${level} PRIVATE ${PTYCHO_FLAGS_${level}})
    target_compile_definitions(ptycho_kernels_${level} PRIVATE PTYCHO_LEVEL=${level})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:ptycho_kernels_${level}>)
  endforeach()
  target_sources(${target} PRIVATE csrc/maths/simd/kernels_of_level.cpp
    csrc/maths/simd/fields_of_level.cpp csrc/maths/simd/fourier_of_level.cpp csrc/maths/simd/updates_of_level.cpp
    csrc/maths/simd/simd_level.cpp)
endfunction()
