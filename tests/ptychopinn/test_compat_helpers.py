# SPDX-License-Identifier: BSD-3-Clause
"""What the golden files cannot hold of ptychopinn.compat: errors, derivatives, types, empty results, batch switches.

The numbers of the one-dimensional examples were measured on the original.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from ptychopinn.compat import tf_helper, torch_helper

RAMP = torch.tensor([1.0, 2, 4, 8, 16])


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("mode", "xla", "shift", "want"),
    [
        ("bilinear", True, 0.5, [0.5, 1.5, 3, 6, 12]),
        ("bilinear", True, -0.25, [1.25, 2.5, 5, 10, 12]),
        ("nearest", True, 0.5, [0, 1, 4, 4, 16]),
        ("bilinear", False, 0.0, [1, 2, 4, 8, 0]),
        ("bilinear", False, 1.0, [2, 4, 8, 0, 0]),
        ("bilinear", False, 0.5, [1.5, 3, 6, 12, 0]),
        ("bilinear", False, -0.25, [0, 1.75, 3.5, 7, 14]),
        ("nearest", False, 1.0, [2, 4, 8, 16, 16]),
    ],
)
@pytest.mark.parametrize("axis", ["x", "y"])
def test_both_paths_of_translate(axis: str, mode: str, xla: bool, shift: float, want: list[float]) -> None:
    # The other axis repeats the ramp so that the lost last row or column of the other path stays out of sight.
    image = RAMP.expand(3, 5) if axis == "x" else RAMP.expand(3, 5).T
    offset = torch.tensor([[shift, 0.0] if axis == "x" else [0.0, shift]])
    moved = tf_helper.translate(image[None, ..., None], offset, mode, use_xla_translate=xla)[0, ..., 0]
    assert (moved if axis == "x" else moved.T)[0].tolist() == want


def test_offsets_are_shared_cyclically_or_in_blocks() -> None:
    images, offsets = random(4, 5, 6, 2), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    cyclic = tf_helper.translate(images, offsets)
    assert torch.equal(cyclic[2], tf_helper.translate(images[2:3], offsets[:1])[0])
    blocks = tf_helper.translate(images, offsets, use_xla_translate=False)
    assert torch.equal(blocks[1], tf_helper.translate(images[1:2], offsets[:1], use_xla_translate=False)[0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: tf_helper.translate(random(3, 4, 4, 1), random(2, 2)), "divide the 3 images evenly, got 2"),
        (lambda: tf_helper.translate(random(3, 4, 4, 1), random(0, 2)), "divide the 3 images evenly, got 0"),
        (lambda: tf_helper.shift_and_sum(random(2, 8, 8, 1), random(2, 1, 1, 2), 5), "even and at most N=8, got 5"),
        (lambda: tf_helper.shift_and_sum(random(2, 8, 8, 1), random(2, 1, 1, 2), 10), "even and at most N=8, got 10"),
        (lambda: groups(padded_size=21), "even margin, got N=8, 21"),
        (lambda: groups(padded_size=6), "even margin, got N=8, 6"),
        (lambda: shared(6, 1), "at least N=8, got 6"),
        (lambda: tf_helper.mk_centermask(random(1, 8, 8, 1), 8, 1, "rim"), "'center' or 'border', got 'rim'"),
        (lambda: torch_groups(), "padded_size or crop_size must be given, not both"),
        (lambda: torch_groups(padded_size=12, crop_size=4), "padded_size or crop_size must be given, not both"),
    ],
)
def test_what_the_original_refuses_is_refused_in_a_sentence(call: Callable[[], Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def groups(padded_size: int) -> Tensor:
    return tf_helper._reassemble_patches_position_real(random(2, 8, 8, 3), random(2, 1, 2, 3), padded_size=padded_size)


def shared(padded_size: int, batch_size: int) -> Tensor:
    return tf_helper._reassemble_position_batched(random(2, 8, 8, 3), random(2, 1, 2, 3), padded_size, batch_size)


def torch_groups(**sizes: int) -> object:
    return torch_helper.reassemble_patches_position_real(random(2, 3, 8, 8), random(2, 3, 1, 2), **sizes)


@pytest.mark.parametrize(("batch_size", "canvases"), [(7, 2), (6, 1), (1, 1), (0, 2), (-1, 2)])
def test_the_number_of_patches_decides_how_many_canvases_there_are(batch_size: int, canvases: int) -> None:
    combined, separate = shared(20, batch_size), groups(20)
    assert combined.shape == (canvases, 20, 20, 1)
    torch.testing.assert_close(combined.sum(0), separate.sum(0))


def test_a_patch_size_that_is_no_multiple_of_4_needs_a_shared_canvas() -> None:
    patches, offsets = random(2, 10, 10, 1), random(2, 1, 2, 1)
    assert tf_helper.reassemble_whole_object(patches, offsets, 20, batch_size=1).shape == (20, 20, 1)
    with pytest.raises(ValueError, match="even margin, got N=9, 20"):
        tf_helper.reassemble_whole_object(patches, offsets, 20)
    grid = partial(tf_helper.reassemble_patches_real, average=False, gridsize=1, offset=4)
    with pytest.raises(ValueError, match="N must be a multiple of 4, got 10"):
        tf_helper.reassemble_patches(patches, grid)


def test_trimming_nothing_leaves_nothing() -> None:
    assert tf_helper.trim_reconstruction(random(2, 8, 8, 1), 8).shape == (2, 0, 0, 1)
    assert tf_helper.trim_reconstruction(random(2, 9, 9, 1), 8).shape == (2, 0, 0, 1)
    assert tf_helper.extract_patches_position(random(2, 9, 9, 1), random(2, 1, 2, 4), N=8).shape == (8, 0, 0, 1)
    image = random(2, 3, 8, 8)
    assert torch.equal(torch_helper.trim_reconstruction(image, 8), image)
    assert torch.equal(torch_helper.trim_reconstruction(image, 5), image[..., 1:6, 1:6])


def test_the_two_stitchers_of_the_original_have_opposite_signs() -> None:
    patches, offsets = random(5, 8, 8, dtype=torch.complex128), 4 * random(5, 1, 2, seed=1)
    one = tf_helper.reassemble_position(patches[..., None], -offsets[:, None], 6)
    other, mask, side = torch_helper.reassemble_patches_position_real(patches[None], offsets[None], crop_size=6)
    assert other.shape == (1, side, side) and mask.any()
    torch.testing.assert_close(one[..., 0], other[0])


def test_stitchers_return_a_constant_as_that_constant() -> None:
    ones, offsets = torch.ones(9, 8, 8, 1), 4 * random(9, 1, 1, 2)
    cover = tf_helper.shift_and_sum(ones, offsets, 6)
    image = tf_helper.reassemble_position(ones, offsets, 6)
    torch.testing.assert_close(image[cover > 1e-3], torch.ones_like(image[cover > 1e-3]), rtol=0, atol=1e-5)


def test_accumulators_drop_patches_at_the_border() -> None:
    patches, size = torch.ones(3, 4, 4), (12, 10)
    # [x, y] of the middles: inside; one pixel from the right border, dropped though it fits; inside at the left border.
    positions = torch.tensor([[5.0, 5.0], [7.0, 5.0], [2.0, 5.0]])
    plain = torch_helper.VectorizedBarycentricAccumulator(size, dtype=torch.float32)
    plain.accumulate_batch(patches, positions)
    assert (plain.accepted, plain.total) == (2, 3)
    want = torch.zeros(size)
    want[3:7, 3:7] += 1
    want[3:7, 0:4] += 1
    assert torch.equal(plain.weights, want) and torch.equal(plain.canvas, want)
    weighted = torch_helper.VectorizedWeightedAccumulator(size, dtype=torch.float32)
    with pytest.warns(UserWarning, match="1 of 3 patches do not lie inside the canvas"):
        weighted.accumulate_batch(patches, positions, torch.full((3, 4, 4), 0.5))
    torch.testing.assert_close(weighted.weights, plain.weights / 2)


def test_dark_objects_are_not_scaled() -> None:
    dark, probe = torch.zeros(2, 8, 8, dtype=torch.complex64), random(1, 8, 8, dtype=torch.complex64)
    intensity, _, scaled = torch_helper.illuminate_and_diffract(dark, probe, nphotons=1e6)
    assert not intensity.any() and torch.equal(scaled, probe[None])


OFFSETS = 2.3 * random(2, 1, 2, 4, seed=3)
GLOBAL = 2.3 * random(3, 1, 1, 2, seed=4)
#: Name -> shape of the images, offsets, function of both.
DIFFERENTIABLE: dict[str, tuple[tuple[int, ...], Tensor, Callable[[Tensor, Tensor], Tensor]]] = {
    "translate": ((4, 5, 6, 2), 2.3 * random(2, 2), tf_helper.translate),
    "simple": ((4, 5, 6, 2), 2.3 * random(2, 2), partial(tf_helper.translate, use_xla_translate=False)),
    "Translation": ((3, 5, 6), 2.3 * random(3, 1, 2), torch_helper.Translation),
    "extract": ((2, 9, 9, 1), OFFSETS, partial(tf_helper.extract_patches_position, N=4)),
    "centre": ((2, 5, 5, 4), OFFSETS, tf_helper.center_channels),
    "groups": ((2, 4, 4, 4), OFFSETS, partial(tf_helper._reassemble_patches_position_real, padded_size=8)),
    "image": ((2, 4, 4, 4), OFFSETS, partial(tf_helper.reassemble_whole_object, size=8, batch_size=4)),
    "sum": ((3, 6, 6, 1), GLOBAL, partial(tf_helper.shift_and_sum, M=4)),
    "simple sum": ((3, 6, 6, 1), GLOBAL, partial(tf_helper.shift_and_sum, M=4, use_xla_translate=False)),
    "region": ((2, 1, 8, 8), OFFSETS.permute(0, 3, 1, 2), partial(torch_helper.extract_channels_from_region, N=4)),
    "window": (
        (2, 4, 4, 4),
        OFFSETS.permute(0, 3, 1, 2),
        lambda images, offsets: torch_helper.reassemble_patches_position_real(images, offsets, padded_size=8)[0],
    ),
    "single": (
        (3, 1, 6, 6),
        GLOBAL,
        lambda images, offsets: torch_helper.reassemble_single_channel(
            images, offsets, torch.zeros(2), max_offset=3.2, middle=4
        )[0],
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives_by_images_and_offsets(name: str) -> None:
    shape, offsets, function = DIFFERENTIABLE[name]
    images = random(*shape, dtype=torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(function, (images, offsets.clone().requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_type_of_the_images_is_kept(name: str, dtype: torch.dtype) -> None:
    shape, offsets, function = DIFFERENTIABLE[name]
    assert function(random(*shape, dtype=dtype), offsets.float()).dtype == dtype
