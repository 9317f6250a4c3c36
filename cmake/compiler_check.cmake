# SPDX-License-Identifier: BSD-3-Clause
# Refuses compilers that cannot build the operators, in one sentence, before their first strange error: C++20 and
# __builtin_shufflevector are needed. A file of its own, so that the tests can run it with cmake -P.
set(PTYCHO_GCC_NEEDED 12)
set(PTYCHO_Clang_NEEDED 14)
set(PTYCHO_AppleClang_NEEDED 14)

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(ptycho_compiler GCC)
  set(ptycho_example "CXX=g++-${PTYCHO_GCC_NEEDED}")
elseif(CMAKE_CXX_COMPILER_ID MATCHES "^(Apple)?Clang$")
  set(ptycho_compiler ${CMAKE_CXX_COMPILER_ID})
  set(ptycho_example "CXX=clang++-${PTYCHO_Clang_NEEDED}")
else()
  return()  # not tested, so not refused
endif()
set(ptycho_needed ${PTYCHO_${ptycho_compiler}_NEEDED})
if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS ptycho_needed)
  message(FATAL_ERROR "${ptycho_compiler} ${CMAKE_CXX_COMPILER_VERSION} is too old: "
    "ptychopinn needs ${ptycho_compiler} ${ptycho_needed} or newer "
    "(${ptycho_example} pip install --no-build-isolation .)")
endif()
