// SPDX-License-Identifier: BSD-3-Clause
// Every operator's schemas, in API order: the table of contents of the native side. Backends register their kernels at
// the end of ops/<op>/cpu.cpp and cuda.cu. All but the _out forms are functional (fresh outputs, inputs untouched);
// they take any leading dimensions: canvas (..., H, W), positions (..., n, 2), patches (..., n, h, w), images
// (..., H, W), shifts (..., 2), far fields (..., M, h, w). order, tile_start and tile_patches are the plan that
// plan_tiles makes; without it operators make their own.
// What the CPU refuses after a look at the data makes NaN on CUDA, and an order that is no permutation is not noticed.
#include "ops/correct_fields/schema.h"
#include "ops/exit_waves/schema.h"
#include "ops/extract_patches/schema.h"
#include "ops/overlap_project/schema.h"
#include "ops/pattern_step/schema.h"
#include "ops/plan_tiles/schema.h"
#include "ops/reassemble_patches/schema.h"
#include "ops/translate_images/schema.h"
#include "ops/update_canvas/schema.h"
#include "runtime/torch_compat.h"

STABLE_TORCH_LIBRARY(PTYCHO_LIBRARY, m) {
  const auto define = [&](const auto& schemas) {
    for (const char* schema : schemas) m.def(schema);
  };
  define(ptycho::plan_tiles_schemas);
  define(ptycho::extract_patches_schemas);
  define(ptycho::translate_images_schemas);
  define(ptycho::reassemble_patches_schemas);
  define(ptycho::overlap_project_schemas);
  define(ptycho::correct_fields_schemas);
  define(ptycho::exit_waves_schemas);
  define(ptycho::update_canvas_schemas);
  define(ptycho::pattern_step_schemas);
}
