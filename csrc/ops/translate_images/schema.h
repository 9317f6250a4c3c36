// SPDX-License-Identifier: BSD-3-Clause
// The schemas of translate_images and its adjoint; library.cpp states what they have in common.
#pragma once

namespace ptycho {

inline constexpr const char* translate_images_schemas[] = {
    "translate_images(Tensor images, Tensor shifts, str mode) -> Tensor",
    // Not `mode`: torch passes a mutating operator's arguments by name through a function that has one of that name.
    "translate_images_out(Tensor images, Tensor shifts, str interpolation, Tensor(a!) out) -> ()",
    "translate_images_adjoint(Tensor images, Tensor shifts, str mode) -> Tensor",
};

}  // namespace ptycho
