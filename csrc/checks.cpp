// SPDX-License-Identifier: BSD-3-Clause
// The rules, each stated once and composed per operator. Shapes are written with the project's letters (H W canvas, n
// patches, h w patch) and values as Python prints them, so that the fake kernels can say the same sentences.
#include "checks.h"

#include <cmath>
#include <sstream>
#include <stdexcept>

namespace ptycho {
namespace {

std::string text(const Sizes& sizes) {  // as Python prints a tuple
  std::ostringstream out;
  out << '(';
  for (size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "") << sizes[i];
  out << (sizes.size() == 1 ? ",)" : ")");
  return out.str();
}

std::string text(ScalarType type) {
  switch (type) {
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(type);
  }
}

std::string text(const Tensor& tensor) {  // its kind of device
  return tensor.is_cpu() ? "cpu" : tensor.is_cuda() ? "cuda" : "another device";
}

struct Check {
  const char* op;

  void require(bool ok, const char* argument, const std::string& rule, const std::string& value) const {
    if (!ok) throw std::runtime_error(std::string(op) + ": " + argument + " must " + rule + ", got " + value);
  }
  void data(const char* argument, const Tensor& tensor) const {
    const ScalarType type = tensor.scalar_type();
    require(type == ScalarType::Float || type == ScalarType::Double || is_complex(type), argument,
            "be float32, float64, complex64 or complex128", text(type));
  }
  void type(const char* argument, const Tensor& tensor, ScalarType wanted) const {
    require(tensor.scalar_type() == wanted, argument, "be " + text(wanted), text(tensor.scalar_type()));
  }
  void dims(const char* argument, const Tensor& tensor, int64_t least, const char* shape) const {
    require(tensor.dim() >= least, argument, std::string("have shape ") + shape, text(sizes_of(tensor)));
  }
  void shape(const char* argument, const Tensor& tensor, const Sizes& wanted) const {
    require(sizes_of(tensor) == wanted, argument, "have shape " + text(wanted), text(sizes_of(tensor)));
  }
  void device(const char* argument, const Tensor& tensor, const Tensor& data) const {
    const bool kind = text(tensor) == text(data);
    const auto name = [&](const Tensor& t) {
      return kind ? text(t) + ":" + std::to_string(t.get_device_index()) : text(t);
    };
    require(kind && tensor.get_device_index() == data.get_device_index(), argument, "be on device " + name(data),
            name(tensor));
  }
  void size(const char* argument, const Sizes& sizes) const {
    require(sizes.size() == 2 && sizes[0] > 0 && sizes[1] > 0, argument, "be two positive integers", text(sizes));
  }
  void holds_patch(const char* argument, const Sizes& canvas_size, const Sizes& patch_size) const {
    require(canvas_size[0] >= patch_size[0] && canvas_size[1] >= patch_size[1], argument,
            "be at least a patch's " + text(patch_size), text(canvas_size));
  }
  void positions_of_canvas(const Tensor& positions, const Tensor& canvas) const {
    type("positions", positions, ScalarType::Double);
    dims("positions", positions, 2, "(..., n, 2)");
    shape("positions", positions, join(leading(canvas, 2), {positions.size(positions.dim() - 2), 2}));
    device("positions", positions, canvas);
  }
  void positions_of_patches(const Tensor& positions, const Tensor& patches) const {
    type("positions", positions, ScalarType::Double);
    shape("positions", positions, join(leading(patches, 2), {2}));
    device("positions", positions, patches);
  }
};

}  // namespace

void check_extract_patches_inputs(const Tensor& canvas, const Tensor& positions, const Sizes& patch_size) {
  const Check check{"extract_patches"};
  check.data("canvas", canvas);
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.positions_of_canvas(positions, canvas);
  check.size("patch_size", patch_size);
  check.holds_patch("canvas", trailing(canvas), patch_size);
}

void check_extract_patches_adjoint_inputs(const Tensor& patches, const Tensor& positions, const Sizes& canvas_size) {
  const Check check{"extract_patches_adjoint"};
  check.data("patches", patches);
  check.dims("patches", patches, 3, "(..., n, h, w)");
  check.positions_of_patches(positions, patches);
  check.size("canvas_size", canvas_size);
  check.holds_patch("canvas_size", canvas_size, trailing(patches));
}

void check_extract_patches_grad_positions_inputs(const Tensor& grad_patches, const Tensor& canvas,
                                                 const Tensor& positions) {
  const Check check{"extract_patches_grad_positions"};
  check.data("canvas", canvas);
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.positions_of_canvas(positions, canvas);
  check.type("grad_patches", grad_patches, canvas.scalar_type());
  check.dims("grad_patches", grad_patches, 3, "(..., n, h, w)");
  const int64_t dims = grad_patches.dim();
  check.shape("grad_patches", grad_patches,
              join(leading(positions, 1), {grad_patches.size(dims - 2), grad_patches.size(dims - 1)}));
  check.device("grad_patches", grad_patches, canvas);
  check.holds_patch("canvas", trailing(canvas), trailing(grad_patches));
}

void check_plan_tiles_inputs(const Tensor& positions, const Sizes& patch_size, const Sizes& canvas_size) {
  const Check check{"plan_tiles"};
  check.type("positions", positions, ScalarType::Double);
  check.dims("positions", positions, 2, "(..., n, 2)");
  check.shape("positions", positions, join(leading(positions, 1), {2}));
  check.size("patch_size", patch_size);
  check.size("canvas_size", canvas_size);
  check.holds_patch("canvas_size", canvas_size, patch_size);
}

void check_out(const char* op, const char* argument, const Tensor& out, const Tensor& model, const Sizes& sizes) {
  const Check check{op};
  check.type(argument, out, model.scalar_type());
  check.shape(argument, out, sizes);
  check.device(argument, out, model);
  check.require(out.is_contiguous(), argument, "be contiguous", "other strides");
}

void check_translate_images_inputs(const char* op, const Tensor& images, const Tensor& shifts,
                                   const std::string& mode) {
  const Check check{op};
  check.data("images", images);
  check.dims("images", images, 2, "(..., H, W)");
  check.type("shifts", shifts, ScalarType::Double);
  check.shape("shifts", shifts, join(leading(images, 2), {2}));
  check.device("shifts", shifts, images);
  check.require(mode == "bilinear" || mode == "nearest", "mode", "be 'bilinear' or 'nearest'", "'" + mode + "'");
}

static void check_merge_inputs(const Check& check, const Tensor& patches, const Tensor& positions,
                               const Tensor& weights, const Sizes& canvas_size) {
  check.data("patches", patches);
  check.dims("patches", patches, 3, "(..., n, h, w)");
  check.positions_of_patches(positions, patches);
  check.type("weights", weights, real_type(patches.scalar_type()));
  const int64_t dims = patches.dim();
  if (weights.dim() == 2) {
    check.shape("weights", weights, {patches.size(dims - 2), patches.size(dims - 1)});
  } else {
    check.shape("weights", weights, sizes_of(patches));
  }
  check.device("weights", weights, patches);
  check.size("canvas_size", canvas_size);
  check.holds_patch("canvas_size", canvas_size, trailing(patches));
}

void check_reassemble_patches_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                     const Sizes& canvas_size) {
  check_merge_inputs(Check{"reassemble_patches"}, patches, positions, weights, canvas_size);
}

void check_reassemble_patches_adjoint_inputs(const Tensor& image, const Tensor& positions, const Tensor& weights) {
  const Check check{"reassemble_patches_adjoint"};
  check.data("image", image);
  check.dims("image", image, 2, "(..., H, W)");
  check.positions_of_canvas(positions, image);
  check.type("weights", weights, real_type(image.scalar_type()));
  check.dims("weights", weights, 2, "(..., h, w)");
  const Sizes patch_size = trailing(weights);
  if (weights.dim() > 2) check.shape("weights", weights, join(leading(positions, 1), {patch_size[0], patch_size[1]}));
  check.device("weights", weights, image);
  check.size("weights' size", patch_size);
  check.holds_patch("image", trailing(image), patch_size);
}

void check_overlap_project_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                  const Sizes& canvas_size) {
  check_merge_inputs(Check{"overlap_project"}, patches, positions, weights, canvas_size);
}

void check_plan(bool ok, const char* op) {
  if (!ok)
    throw std::runtime_error(std::string(op) +
                             ": plan must be made for these positions and sizes, got another's (make a new ScanPlan)");
}

std::optional<Tensor> plan_list(const char* op, const Tensor& positions, const std::optional<Tensor>& list) {
  if (!list) return std::nullopt;
  check_plan(list->scalar_type() == ScalarType::Long && list->dim() == 1 && text(*list) == text(positions) &&
                 list->get_device_index() == positions.get_device_index(),
             op);
  return torch::stable::contiguous(*list);
}

void check_finite(const char* op, const char* argument, const Tensor& coordinates) {
  const double* values = coordinates.const_data_ptr<double>();
  for (int64_t i = 0, count = coordinates.numel(); i < count; ++i) {
    if (!std::isfinite(values[i])) {
      const char* value = std::isnan(values[i]) ? "nan" : values[i] > 0 ? "inf" : "-inf";
      Check{op}.require(false, argument, "be finite", value);
    }
  }
}

}  // namespace ptycho
