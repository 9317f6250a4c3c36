// SPDX-License-Identifier: BSD-3-Clause
// The exceptions of errors.h; torch catches them and turns them into Python's RuntimeError.
#include "runtime/errors.h"

#include <stdexcept>

#ifdef __linux__
#include <dlfcn.h>
#include <unwind.h>
#endif

namespace ptycho {
namespace {

// An exception from here is caught in torch, whose frames are unwound by libgcc_s. That has a table which its first use
// fills; in a library with an unwinder of its own (-static-libgcc) the first use is in the middle of the exception, and
// aborts. So it is used once when this library is loaded.
[[maybe_unused]] const bool unwinder_is_ready = [] {
#ifdef __linux__
  using Frame = _Unwind_Reason_Code (*)(_Unwind_Context*, void*);
  using Backtrace = _Unwind_Reason_Code (*)(Frame, void*);
  void* const library = dlopen("libgcc_s.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return false;
  if (const auto backtrace = reinterpret_cast<Backtrace>(dlsym(library, "_Unwind_Backtrace")))
    backtrace([](_Unwind_Context*, void*) { return _URC_END_OF_STACK; }, nullptr);
  dlclose(library);
#endif
  return true;
}();

}  // namespace

void throw_rule(const char* op, const char* argument, const std::string& rule, const std::string& value) {
  throw std::runtime_error(std::string(op) + ": " + argument + " must " + rule + ", got " + value);
}

void throw_torch_error(const char* call, const char* file, int line) {
  throw std::runtime_error(std::string(call) + " API call failed at " + file + ", line " + std::to_string(line));
}

}  // namespace ptycho
