// SPDX-License-Identifier: BSD-3-Clause
// How operators fail: functions that throw and are never inlined, so that nothing is paid for a message, not even its
// code in the instruction cache, before something is wrong.
#pragma once

#include <string>

namespace ptycho {

// "<op>: <argument> must <rule>, got <value>"
[[noreturn, gnu::cold]] void throw_rule(const char* op, const char* argument, const std::string& rule,
                                        const std::string& value);

// A call into torch that returned an error.
[[noreturn, gnu::cold]] void throw_torch_error(const char* call, const char* file, int line);

}  // namespace ptycho
