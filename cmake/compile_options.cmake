# SPDX-License-Identifier: BSD-3-Clause
# How every native target is compiled. Contraction into fused multiply-adds stays off, and so does -ffast-math: the
# results must be bitwise the same for any number of threads and on every instruction set.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)  # -O3
endif()
set(PTYCHO_COMPILE_OPTIONS -ffp-contract=off -fvisibility=hidden -Wall -Wextra)
if(PTYCHO_NATIVE)
  list(APPEND PTYCHO_COMPILE_OPTIONS -march=native)
endif()

# torch is imported before the library is loaded, so its symbols resolve by soname: no path of this machine is baked in.
set(CMAKE_SKIP_RPATH ON)

add_library(ptycho_options INTERFACE)
target_include_directories(ptycho_options INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../csrc")
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  # A libstdc++ that a toolchain links statically stays private: its symbols must not mix with those of torch's.
  target_link_options(ptycho_options INTERFACE LINKER:--exclude-libs,ALL)
endif()
target_compile_features(ptycho_options INTERFACE cxx_std_20)
target_compile_options(ptycho_options INTERFACE ${PTYCHO_COMPILE_OPTIONS})
if(PTYCHO_SANITIZE)
  target_compile_options(ptycho_options INTERFACE -fsanitize=${PTYCHO_SANITIZE} -fno-sanitize-recover=all -g)
  target_link_options(ptycho_options INTERFACE -fsanitize=${PTYCHO_SANITIZE})
endif()
