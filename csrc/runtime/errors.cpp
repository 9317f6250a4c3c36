// SPDX-License-Identifier: BSD-3-Clause
// The exceptions of errors.h; torch turns them into Python's RuntimeError.
#include "runtime/errors.h"

#include <stdexcept>

namespace ptycho {

void throw_rule(const char* op, const char* argument, const std::string& rule, const std::string& value) {
  throw std::runtime_error(std::string(op) + ": " + argument + " must " + rule + ", got " + value);
}

void throw_torch_error(const char* call, const char* file, int line) {
  throw std::runtime_error(std::string(call) + " API call failed at " + file + ", line " + std::to_string(line));
}

}  // namespace ptycho
