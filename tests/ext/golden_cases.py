# SPDX-License-Identifier: BSD-3-Clause
"""The cases of the golden files: how each output is computed with the adapters of ptychopinn.compat.

A file has the name of a function (`func`) and its parameters (`params`); HANDLERS compute its outputs from its inputs,
one entry per output.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptychopinn.compat import _layout, diffsim, tf_helper, torch_helper


@dataclass
class Result:
    """A result, the mask of comparable pixels (None: all), and the factor by which errors of its numerator grow."""

    value: Any
    where: Tensor | None = None
    gain: Tensor | float = 1.0


Outputs = dict[str, Callable[[], Any]]


@dataclass
class Case:
    """One file: its function, its parameters and its arrays."""

    func: str
    params: dict[str, Any]
    arrays: dict[str, Tensor]

    @classmethod
    def load(cls, path: Path) -> Case:
        with np.load(path) as file:
            arrays = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files if file[key].dtype.kind != "U"}
            return cls(str(file["func"]), json.loads(str(file["params"])), arrays)

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]


def decided(cover: Tensor) -> Tensor:
    """Return the pixels whose quotient by cover (..., H, W) exceeds rounding: cover > 1e-3, or none within a pixel."""
    reach = torch.nn.functional.max_pool2d(cover.reshape(-1, 1, *cover.shape[-2:]), 3, 1, 1).reshape(cover.shape)
    return (cover > 1e-3) | (reach == 0)


# Handlers: for every output of a case, the function that computes it as a tensor, a number or a Result.


def translate(case: Case) -> Outputs:
    images, offsets = case["in_images"], case["in_translations"]
    moved = partial(tf_helper.translate, images, offsets, case.params["interpolation"])

    def helper() -> Tensor:
        planes = images.movedim(-1, 1)
        shifts = offsets.repeat(len(images) // len(offsets), 1).repeat_interleave(planes.shape[1], 0)
        return torch_helper.Translation(planes.flatten(0, 1), shifts[:, None]).reshape(planes.shape).movedim(1, -1)

    return {"out_xla": moved, "out_simple": partial(moved, use_xla_translate=False), "out_torch_helper": helper}


def translate_gradient(case: Case) -> Outputs:
    images, offsets = case["in_images"].requires_grad_(), case["in_translations"].requires_grad_()
    tf_helper.translate(images, offsets).backward(case["in_grad_output"])
    # At integer shifts the derivative is discontinuous, and rounding decides the side.
    return {
        "out_grad_images": lambda: images.grad,
        "out_grad_translations": lambda: Result(offsets.grad, where=offsets.detach() != offsets.detach().round()),
    }


def layout(case: Case) -> Outputs:
    channel, flat, gridsize = case["in_channel"], case["in_flat"], case.params["gridsize"]
    return {
        "out_channel_to_flat": lambda: tf_helper.channel_to_flat(channel),
        "out_flat_to_channel": lambda: tf_helper.flat_to_channel(flat, gridsize=gridsize),
        "out_togrid": lambda: tf_helper.togrid(flat, gridsize=gridsize),
        "out_grid_to_channel": lambda: tf_helper.grid_to_channel(tf_helper.togrid(flat, gridsize=gridsize)),
        "out_channel_to_patches": lambda: tf_helper._channel_to_patches(channel, gridsize=gridsize),
        "out_flatten_offsets": lambda: tf_helper.flatten_offsets(case["in_offsets"]),
    }


def pad_trim(case: Case) -> Outputs:
    return {
        "out_pad_patches": lambda: tf_helper.pad_patches(case["in_patches"], case.params["padded_size"]),
        "out_trim_reconstruction": lambda: tf_helper.trim_reconstruction(case["in_canvas"], case.params["N"]),
    }


def padded_size(case: Case) -> Outputs:
    sizes = {key: case.params[key] for key in ("N", "gridsize", "offset", "max_position_jitter")}
    side, distance = case.params["gridsize"], case.params["torch_max_neighbor_distance"]
    theirs = partial(torch_helper.get_padded_size, N=sizes["N"], grid_size=(side, side))
    return {
        "out_tf": lambda: tf_helper.get_padded_size(**sizes),
        "out_torch": lambda: theirs(max_neighbor_distance=distance),
    }


def centermask(case: Case) -> Outputs:
    inputs = case["in_inputs"]
    mask = partial(tf_helper.mk_centermask, inputs, case.params["N"], case.params["c"])
    return {
        "out_center": mask,
        "out_border": partial(mask, "border"),
        "out_torch_center": lambda: torch_helper.mk_centermask(inputs.movedim(-1, 1)),
    }


def extract_position(case: Case) -> Outputs:
    assert not case.params.get("jitter"), "jitter is random, and cannot be compared"
    images, offsets, N = case["in_imgs"], case["in_offsets_xy"], case.params["N"]
    region, by_channel = images.movedim(-1, 1), offsets.permute(0, 3, 1, 2)
    return {
        "out_patches": lambda: tf_helper.extract_patches_position(images, offsets, N=N),
        "out_torch_extract_channels_from_region": lambda: torch_helper.extract_channels_from_region(
            region, by_channel, N=N
        ),
    }


def center_channels(case: Case) -> Outputs:
    return {"out_channels": lambda: tf_helper.center_channels(case["in_channels"], case["in_offsets_xy"])}


def reassembly(case: Case) -> Outputs:
    real, image, offsets = case["in_channels_real"], case["in_channels_complex"], case["in_offsets_xy"]
    side, batch = case.params["padded_size"], case.params["batch_size"]
    options: dict[str, Any] = {}
    if "mid_offsets_centred" in case.arrays:
        ours = _layout.centred(tf_helper.flatten_offsets(offsets), None)
        torch.testing.assert_close(ours.float(), case["mid_offsets_centred"], rtol=0, atol=1e-3)
        mid = case["mid_offsets_centred"].unflatten(0, (offsets.shape[0], offsets.shape[3]))
        offsets, options = mid.transpose(1, 2)[:, None], {"centre": torch.zeros(2)}
    position = partial(tf_helper._reassemble_patches_position_real, padded_size=side, **options)
    each = tf_helper.mk_reassemble_position_real(offsets, padded_size=side, **options)
    shared = tf_helper.mk_reassemble_position_batched_real(offsets, batch, padded_size=side, **options)
    merge = partial(tf_helper.reassemble_whole_object, image, offsets, side, **options)

    def quotient(fn: tf_helper.Reassemble) -> Result:
        return Result(tf_helper.reassemble_patches(image, fn), gain=1 / tf_helper.mk_norm(real, fn))

    def summed(fn: tf_helper.Reassemble, batch_size: int | None) -> Result:
        return Result(merge(batch_size=batch_size), gain=1 / tf_helper.mk_norm(real, fn).amin(0))

    def ratio(fn: tf_helper.Reassemble, batch_size: int | None) -> Result:
        cover = fn(torch.ones_like(real)).sum(0)
        return Result(merge(norm=True, batch_size=batch_size), (cover > 1e-3) | (cover == 0), 1 / cover.clamp(max=1))

    return {
        "out_position_real": lambda: position(real, offsets),
        "out_position_real_noagg": lambda: position(real, offsets, agg=False),
        "out_position_complex": lambda: position(image, offsets),
        "out_batched_real": lambda: tf_helper._reassemble_position_batched(real, offsets, side, batch, **options),
        "out_batched_complex_via_mk": lambda: shared(image),
        "out_mk_norm": lambda: tf_helper.mk_norm(real, each),
        "out_mk_norm_batched": lambda: tf_helper.mk_norm(real, shared),
        "out_reassemble_patches": lambda: quotient(each),
        "out_reassemble_patches_batched": lambda: quotient(shared),
        "out_whole_object_normFalse": lambda: summed(each, None),
        "out_whole_object_normFalse_batched": lambda: summed(shared, batch),
        "out_whole_object_normTrue": lambda: ratio(each, None),
        "out_whole_object_normTrue_batched": lambda: ratio(shared, batch),
    }


def shift_and_sum(case: Case) -> Outputs:
    image, offsets, options = case["in_obj_tensor"], case["in_global_offsets"], {"M": case.params["M"]}
    if "mid_adjusted_offsets" in case.arrays:
        ours, mid = _layout.centred(offsets.reshape(-1, 2), None), case["mid_adjusted_offsets"]
        torch.testing.assert_close(ours.float(), mid, rtol=0, atol=1e-3)
        offsets, options = mid.reshape(offsets.shape), options | {"centre": torch.zeros(2)}
    summed = partial(tf_helper.shift_and_sum, global_offsets=offsets, **options)
    ones = torch.ones_like(image)

    def quotient() -> Result:
        cover = summed(ones).real
        gain = 1 / cover.clamp(min=1e-3)
        return Result(tf_helper.reassemble_position(image, offsets, **options), decided(cover[..., 0])[..., None], gain)

    return {
        "out_shift_and_sum": lambda: summed(image),
        "out_shift_and_sum_ones": lambda: summed(ones),
        "out_shift_and_sum_simple_path": lambda: summed(image, use_xla_translate=False),
        "out_reassemble_position": quotient,
    }


def grid(case: Case) -> Outputs:
    image, channels = case["in_image"], case["in_channels"]
    N, sizes = case.params["N"], {key: case.params[key] for key in ("gridsize", "offset")}
    patches = tf_helper._channel_to_patches(channels, gridsize=sizes["gridsize"])
    inverse = partial(tf_helper.extract_patches_inverse, patches, N, **sizes)
    summed = partial(tf_helper.reassemble_patches_real, average=False, **sizes)
    return {
        "out_extract_patches": lambda: tf_helper.extract_patches(image, N, sizes["offset"]),
        "out_inverse_sum": lambda: inverse(average=False),
        "out_inverse_avg": lambda: inverse(average=True),
        "out_patches_real_default_avg": lambda: tf_helper.reassemble_patches_real(channels, **sizes),
        "out_reassemble_patches_complex": lambda: tf_helper.reassemble_patches(case["in_channels_complex"], summed),
    }


def diffract(case: Case) -> Outputs:
    image, amp, probe, photons = case["in_obj"], case["in_amp"], case["in_probe"], case.params["nphotons"]
    h, w = image.shape[1:3]
    scale = diffsim.scale_nphotons(amp, probe[0, ..., None], nphotons=photons)
    wave = scale * torch.polar(amp, case["in_phase"]) * probe[0, ..., None]
    simulated = partial(torch_helper.illuminate_and_diffract, image[..., 0], probe, nphotons=photons)
    return {
        "out_tf_padded": lambda: tf_helper.pad_and_diffract(image, h, w)[0],
        "out_tf_amp_pad": lambda: tf_helper.pad_and_diffract(image, h, w)[1],
        "out_tf_amp_nopad": lambda: tf_helper.pad_and_diffract(image, h, w, pad=False)[1],
        "out_torch_modes_amp_pad": lambda: torch_helper.pad_and_diffract(case["in_obj_modes"])[0],
        "out_torch_illum_intensity": lambda: simulated()[0],
        "out_torch_scaled_probe": lambda: simulated()[2],
        "out_tf_scale_nphotons": lambda: scale,
        "out_tf_illuminated_amp_times_scale": lambda: diffsim.diffract_obj(wave),
    }


def torch_reassemble(case: Case) -> Outputs:
    patches, offsets, crop = case["in_inputs"], case["in_offsets"], case.params["crop_size"]
    names = ("N", "grid_size", "max_neighbor_distance")
    side = torch_helper.get_padded_size(**{key: case.params[key] for key in names})
    merge = partial(
        torch_helper.reassemble_patches_position_real,
        offsets_xy=offsets,
        **({"padded_size": side} if crop is None else {"crop_size": crop}),
    )
    mask = torch_helper._centre_window(patches)
    intensity = {
        "probe2d": case["in_probe"].abs() ** 2,
        "probe_modes": (case["in_probe_modes"].abs() ** 2).sum(2),
        "binary": mask,
    }
    probes = {"probe2d": case["in_probe"], "probe_modes": case["in_probe_modes"], "binary": case["in_probe"]}

    def cover(weights: Tensor) -> Tensor:
        return decided(merge(weights.expand(patches.shape).contiguous(), agg=False).sum(1))

    covered = cover(mask if crop is None else torch.ones(()))
    outputs: Outputs = {
        "out_merged": lambda: Result(merge(patches)[0], covered),
        "out_mask": lambda: Result(merge(patches)[1], covered),
        "out_padded_size": lambda: merge(patches)[2],
    }
    weighted = partial(torch_helper.reassemble_patches_position_real_probe, patches, offsets, padded_size=side)
    for name, probe in probes.items():
        run = partial(weighted, probe, uniform=name == "binary")
        where = partial(cover, intensity[name])
        outputs[f"out_probe_{name}"] = lambda run=run, where=where: Result(run()[0], where())
        outputs[f"out_probe_mask_{name}"] = lambda run=run, where=where: Result(run()[1], where())
    return outputs


def torch_channels(case: Case) -> Outputs:
    centres, com = case["in_global_coords_or_centers"], case["in_com"]
    sizes = {key: case.params[key] for key in ("max_offset", "middle")}
    if case.func == "reassemble_single_channel":
        total, count = torch_helper.reassemble_single_channel(case["in_im"], centres, com, **sizes)
    else:
        sizes["padded_size"] = case.params["padded_size"]
        relative = case["in_relative_coords"]
        total, count = torch_helper.reassemble_multi_channel(case["in_im"], relative, centres, com, **sizes)
    return {"out_image": lambda: total, "out_ones": lambda: count}


def accumulator(case: Case) -> Outputs:
    patches, positions, weights = case["in_patches"], case["in_positions_px"], case["in_probe_mag_sq"]
    size = tuple(case.params["canvas"])
    plain = torch_helper.VectorizedBarycentricAccumulator(size, dtype=patches.dtype)
    plain.accumulate_batch(patches, positions)
    weighted = torch_helper.VectorizedWeightedAccumulator(size, dtype=patches.dtype)
    uniform = torch_helper.VectorizedWeightedAccumulator(size, dtype=patches.dtype)
    weighted.accumulate_batch(patches, positions, weights)
    uniform.accumulate_batch(patches, positions, torch.ones_like(weights))
    assert (plain.accepted, plain.total) == (case.params["accepted"], len(patches))
    return {
        "out_barycentric_canvas": lambda: plain.canvas,
        "out_barycentric_counts": lambda: plain.weights,
        "out_weighted_canvas": lambda: weighted.canvas,
        "out_weighted_weights": lambda: weighted.weights,
        "out_uniform_canvas": lambda: uniform.canvas,
        "out_uniform_weights": lambda: uniform.weights,
    }


#: `func` of a file -> row of TOLERANCES in test_golden.py, handler.
HANDLERS: dict[str, tuple[str, Callable[[Case], Outputs]]] = {
    "translate": ("translate", translate),
    "translate gradient (XLA path)": ("translate gradient", translate_gradient),
    "layout": ("layout", layout),
    "pad_patches+trim_reconstruction": ("pad and trim", pad_trim),
    "get_padded_size": ("sizes", padded_size),
    "mk_centermask": ("centre masks", centermask),
    "extract_patches_position": ("extract", extract_position),
    "center_channels": ("centre channels", center_channels),
    "_reassemble_patches_position_real/_reassemble_position_batched/mk_norm/reassemble_patches"
    "/reassemble_whole_object": ("group canvases", reassembly),
    "shift_and_sum/reassemble_position": ("scan canvas", shift_and_sum),
    "extract_patches/extract_patches_inverse/reassemble_patches_real/reassemble_patches(default fn)": (
        "regular grid",
        grid,
    ),
    "pad_and_diffract(tf,torch)/illuminate_and_diffract(torch)/scale_nphotons/diffract_obj(no poisson)": (
        "diffraction",
        diffract,
    ),
    "torch.helper.reassemble_patches_position_real(_probe)": ("torch", torch_reassemble),
    "reassemble_single_channel": ("torch", torch_channels),
    "reassemble_multi_channel": ("torch", torch_channels),
    "VectorizedBarycentricAccumulator/VectorizedWeightedAccumulator": ("accumulator", accumulator),
}
