# SPDX-License-Identifier: BSD-3-Clause
# torch's stable ABI as the target torch_stable: headers, libtorch_cpu and the version the ABI is held to. The building
# interpreter is asked where torch lies; find_package(Torch) would add the unstable libraries and a CUDA toolkit search.
# A library built for the target runs under every later torch 2.x.
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
set(TORCH_STABLE_TARGET 0x020a000000000000)

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
    "import os, torch; print(torch.__version__, os.path.dirname(torch.__file__), sep=';')"
  OUTPUT_VARIABLE torch_found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "The building interpreter ${Python_EXECUTABLE} has no torch: "
    "pip install torch, then pip install --no-build-isolation .")
endif()
list(GET torch_found 0 TORCH_STABLE_VERSION)
list(GET torch_found 1 torch_root)
string(REGEX MATCH "^[0-9]+\\.[0-9]+" torch_release "${TORCH_STABLE_VERSION}")
if(torch_release VERSION_LESS 2.10)
  message(FATAL_ERROR "torch ${TORCH_STABLE_VERSION} is too old: "
    "pip install 'torch>=2.10', then pip install --no-build-isolation .")
endif()

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../csrc/runtime/without_iostream")
target_include_directories(torch_stable SYSTEM INTERFACE
  "${torch_root}/include" "${torch_root}/include/torch/csrc/api/include")
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=${TORCH_STABLE_TARGET})
target_link_libraries(torch_stable INTERFACE "${torch_root}/lib/libtorch_cpu${CMAKE_SHARED_LIBRARY_SUFFIX}")
message(STATUS "torch ${TORCH_STABLE_VERSION} (stable ABI ${TORCH_STABLE_TARGET}) in ${torch_root}")
