# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA operators without a GPU: their sources, with every block run on the CPU (tests/native), against the CPU's.

What is run is all but CUDA itself: launchers, grids, the plan and its sort, which cell of which tile a thread owns,
which 16 bytes it reads, edges and tails. Results must be those of the CPU operators bit for bit; only the derivative by
positions sums in another order.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from block_cases import CPU, same, same_position_gradients, same_wave_sums, scan, shifted
from hypothesis import given
from hypothesis import strategies as st
from op_cases import CANVAS, COUNT_TYPES, DTYPES, PATCH, POSITIONS, data, raw_inputs, scene, update_scene, weights

import ptycho_ext as px


def test_both_sets_of_operators_have_the_same_schemas(blocks: Any) -> None:
    registered = [str(s) for s in torch._C._jit_get_all_schemas() if s.name.startswith("ptycho_blocks::")]
    library = [str(s) for s in torch._C._jit_get_all_schemas() if s.name.startswith("ptycho::")]
    assert sorted(s.replace("ptycho_blocks::", "ptycho::") for s in registered) == sorted(library) != []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", list(raw_inputs(torch.float32)))
def test_every_operator_gives_the_bits_of_the_cpu(blocks: Any, op: str, dtype: torch.dtype) -> None:
    args = raw_inputs(dtype)[op]
    if op == "extract_patches_grad_positions":
        same_position_gradients(blocks, *args)
    elif op in ("exit_waves_grad_positions", "exit_waves_adjoint_probe"):
        same_wave_sums(blocks, op, *args)
    else:
        same(getattr(blocks, op)(*args), getattr(CPU, op)(*args))


POINT = st.one_of(st.floats(-90, 90), st.integers(-160, 160).map(lambda v: v / 2), st.sampled_from([-1e300, 1e300]))


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
@pytest.mark.parametrize("size", [(1, 3), (16, 16), (13, 40), (90, 101)])
@pytest.mark.parametrize("counts_type", COUNT_TYPES)
def test_fields_are_corrected_with_the_bits_of_the_cpu(
    blocks: Any, counts_type: torch.dtype, size: tuple[int, int], loss: str
) -> None:
    """Patterns of one part and of several, of one mode and of several, with everything and with nothing optional."""
    for dtype, modes in itertools.product(DTYPES, (1, 3)):
        fields, counts, mask, scale = scene(dtype, counts_type, modes, (9,), size).values()
        by_correction = data(fields.shape, dtype, 4)
        by_values, by_slopes = data((2, 9), torch.float64, 5)
        everything, nothing = (fields, counts, mask, scale, loss, 0.1), (fields, counts, None, None, loss, 0.0)
        each = (fields, counts, mask.expand(9, *size).contiguous(), None, loss, 0.1)
        for inputs in (everything, nothing, each):
            want = CPU.correct_fields(*inputs)
            same(blocks.correct_fields(*inputs), want)
            same(blocks.correct_fields(*inputs, False), (want[0][:, :0], *want[1:]))
            for grads in ((by_correction, by_values, by_slopes), (by_correction, None, None), (None, by_values, None)):
                same(blocks.correct_fields_backward(*grads, *inputs), CPU.correct_fields_backward(*grads, *inputs))
            if inputs is everything:
                place = fields.clone()
                sums = blocks.correct_fields_out(place, *inputs[1:], place)
                same((place, *sums), want)


@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("size", [(1, 3), (13, 18), (90, 101)])
def test_canvases_are_updated_to_the_bits_of_the_cpu(blocks: Any, size: tuple[int, int], lead: tuple[int, ...]) -> None:
    """Canvases of one part and of several, with everything and with nothing optional."""
    for dtype in DTYPES[2:]:
        everything = tuple(update_scene(dtype, lead, size).values())
        by_canvas, by_velocity, by_direction = (data((*lead, *size), dtype, seed) for seed in (5, 6, 7))
        for inputs in (everything, everything[:5]):
            want = CPU.update_canvas(*inputs)
            same(blocks.update_canvas(*inputs), want)
            options = () if inputs is everything else (None, None)
            same(blocks.update_canvas(*inputs, *options, False), (*want[:2], want[2].flatten()[:0]))
            for grads in ((by_canvas, by_velocity, by_direction), (by_canvas, None, None), (None, None, None)):
                same(blocks.update_canvas_backward(*grads, *inputs), CPU.update_canvas_backward(*grads, *inputs))


@given(
    sizes=st.tuples(*[st.integers(1, 70), st.integers(0, 90)] * 2),
    groups=st.integers(1, 2),
    points=st.lists(st.tuples(POINT, POINT), min_size=1, max_size=4),
    offset=st.integers(0, 3),
    dtype=st.sampled_from(DTYPES),
)
def test_any_geometry(
    blocks: Any,
    sizes: tuple[int, int, int, int],
    groups: int,
    points: list[tuple[float, float]],
    offset: int,
    dtype: torch.dtype,
) -> None:
    """Sizes of one and of many cells, every border, and data that begin anywhere between two 16-byte boundaries."""
    patch = sizes[::2]
    size = (patch[0] + sizes[1], patch[1] + sizes[3])
    positions = torch.tensor(points, dtype=torch.float64).expand(groups, -1, -1).contiguous()
    positions = positions + torch.arange(groups).view(-1, 1, 1) * 0.3
    canvas, patches = shifted((groups, *size), dtype, offset), shifted((groups, len(points), *patch), dtype, offset)
    weight = weights(patch, dtype)
    each = weights(tuple(patches.shape), dtype)
    each[..., 0] = 0
    for op, args in {
        "extract_patches": (canvas, positions, list(patch)),
        "extract_patches_adjoint": (patches, positions, list(size)),
        "reassemble_patches": (patches, positions, weight, list(size), 0.3),
        "reassemble_patches_adjoint": (canvas, positions, each),
        "overlap_project": (patches, positions, each, list(size), 0.1),
        "overlap_project_backward": (patches.flip(-1), patches, positions, each, list(size), 0.1, True),
        "translate_images": (canvas, positions[:, 0], "bilinear"),
        "translate_images_adjoint": (canvas, positions[:, 0], "nearest"),
    }.items():
        same(getattr(blocks, op)(*args), getattr(CPU, op)(*args))
    for mode in ("bilinear", "nearest"):
        same(
            blocks.translate_images(canvas, positions[:, 0], mode), CPU.translate_images(canvas, positions[:, 0], mode)
        )
    same_position_gradients(blocks, patches, canvas, positions)


@given(
    sizes=st.tuples(*[st.integers(1, 70), st.integers(0, 50)] * 2),
    groups=st.integers(1, 2),
    points=st.lists(st.tuples(POINT, POINT), min_size=1, max_size=4),
    modes=st.integers(0, 3),
    offset=st.integers(0, 3),
    dtype=st.sampled_from(DTYPES),
)
def test_exit_waves_of_any_geometry(
    blocks: Any,
    sizes: tuple[int, int, int, int],
    groups: int,
    points: list[tuple[float, float]],
    modes: int,
    offset: int,
    dtype: torch.dtype,
) -> None:
    patch = sizes[::2]
    size = (patch[0] + sizes[1], patch[1] + sizes[3])
    positions = torch.tensor(points, dtype=torch.float64).expand(groups, -1, -1).contiguous()
    positions = positions + torch.arange(groups).view(-1, 1, 1) * 0.3
    canvas, waves = (
        shifted((groups, *size), dtype, offset),
        shifted((groups, len(points), modes, *patch), dtype, offset),
    )
    for probe in (shifted((modes, *patch), dtype, offset), waves.flip(-1)):
        same(blocks.exit_waves(canvas, positions, probe), CPU.exit_waves(canvas, positions, probe))
        args = (waves, positions, probe, list(size))
        same(blocks.exit_waves_adjoint(*args), CPU.exit_waves_adjoint(*args))
        same_wave_sums(blocks, "exit_waves_grad_positions", waves, canvas, positions, probe)
    same(
        blocks.exit_waves_adjoint_probe(waves, canvas, positions, False),
        CPU.exit_waves_adjoint_probe(waves, canvas, positions, False),
    )
    same_wave_sums(blocks, "exit_waves_adjoint_probe", waves, canvas, positions, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [30, 600])
def test_exit_waves_with_plans(blocks: Any, count: int, dtype: torch.dtype) -> None:
    size, patch = (97, 130), (11, 18)
    positions = scan(count, size)
    waves, canvas, probe = data((2, count, 2, *patch), dtype), data((2, *size), dtype, 3), data((2, *patch), dtype, 4)
    order, *lists = blocks.plan_tiles(positions, list(patch), list(size))
    same(blocks.exit_waves(canvas, positions, probe, order), CPU.exit_waves(canvas, positions, probe))
    for plan in ((), lists):
        got = blocks.exit_waves_adjoint(waves, positions, probe, list(size), *plan)
        same(got, CPU.exit_waves_adjoint(waves, positions, probe, list(size)))
    for op, args in (("exit_waves_adjoint_probe", (True,)), ("exit_waves_grad_positions", (probe,))):
        same_wave_sums(blocks, op, waves, canvas, positions, *args)
        same(
            getattr(blocks, op)(waves, canvas, positions, *args, order),
            getattr(blocks, op)(waves, canvas, positions, *args),
        )


def test_exit_waves_at_a_position_that_is_not_finite_are_nan(blocks: Any) -> None:
    size, patch = (60, 70), (6, 9)
    positions = scan(40, size)
    broken = positions.clone()
    broken[1, 2, 0] = torch.nan
    canvas, waves, probe = (data(shape, torch.complex64) for shape in ((2, *size), (2, 40, 3, *patch), (3, *patch)))
    got, want = blocks.exit_waves(canvas, broken, probe), blocks.exit_waves(canvas, positions, probe)
    assert got[1, 2].isnan().all()
    got[1, 2] = want[1, 2]
    same(got, want)
    assert blocks.exit_waves_adjoint(waves, broken, probe, size)[1].isnan().all()
    assert blocks.exit_waves_adjoint_probe(waves, canvas, broken, True).isnan().all()
    gradient = blocks.exit_waves_grad_positions(waves, canvas, broken, probe)
    assert gradient[1, 2].isnan().all() and gradient.isnan().sum() == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [30, 600])
def test_plans_given_and_made_by_the_operator(blocks: Any, count: int, dtype: torch.dtype) -> None:
    size, patch = (97, 130), (11, 18)
    positions = scan(count, size)
    patches, canvas = data((2, count, *patch), dtype), data((2, *size), dtype, 3)
    weight = weights(patch, dtype)
    order, start, listed = blocks.plan_tiles(positions, list(patch), list(size))
    assert order.sort().values.tolist() == list(range(2 * count))
    for plan in ((), (start, listed)):
        same(
            blocks.extract_patches_adjoint(patches, positions, list(size), *plan),
            CPU.extract_patches_adjoint(patches, positions, list(size)),
        )
        same(
            blocks.reassemble_patches(patches, positions, weight, list(size), 0.4, *plan),
            CPU.reassemble_patches(patches, positions, weight, list(size), 0.4),
        )
    same(
        blocks.extract_patches(canvas, positions, list(patch), order),
        CPU.extract_patches(canvas, positions, list(patch)),
    )
    same_position_gradients(blocks, patches, canvas, positions, order)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "count"), [((60, 70), 4), ((60, 70), 90), ((210, 130), 4), ((97, 130), 600)])
def test_groups_in_shared_memory_and_on_canvases(
    blocks: Any, size: tuple[int, int], count: int, dtype: torch.dtype
) -> None:
    """Few patches on small canvases, and what does not fit: the same bits, with a plan too."""
    patch, groups = (11, 18), 67 if count == 4 else 2
    positions = scan(count, size, groups)
    patches, grad = data((groups, count, *patch), dtype), data((groups, count, *patch), dtype, 1)
    plan = blocks.plan_tiles(positions, list(patch), list(size))
    for weight in (weights(patch, dtype), weights(tuple(patches.shape), dtype)):
        args = (patches, positions, weight, list(size), 0.3)
        for lists in ((), plan):
            same(blocks.overlap_project(*args, *lists), CPU.overlap_project(*args))
            for wanted in (False, True):
                got = blocks.overlap_project_backward(grad, *args, wanted, *lists)
                same(got, CPU.overlap_project_backward(grad, *args, wanted))


def test_plan_lists_every_patch_in_every_tile_that_it_touches(blocks: Any) -> None:
    size, patch, count = (100, 161), (40, 33), 50
    positions = scan(count, (160, 220))
    _, start, listed = blocks.plan_tiles(positions, list(patch), list(size))
    across, down = -(-size[1] // 32), -(-size[0] // 32)
    assert len(start) == 2 * down * across + 1 and start[0] == 0 and len(listed) >= start[-1]
    floors = positions.floor().view(-1, 2).long()
    for tile in range(2 * down * across):
        group, y, x = tile // (down * across), tile // across % down * 32, tile % across * 32
        bottom, right = min(y + 32, size[0]), min(x + 32, size[1])
        wanted = [
            k
            for k in range(group * count, (group + 1) * count)
            if y - patch[0] - 1 < floors[k, 0] < bottom and x - patch[1] - 1 < floors[k, 1] < right
        ]
        assert listed[start[tile] : start[tile + 1]].tolist() == wanted


def test_large_patches_are_divided_among_blocks(blocks: Any) -> None:
    canvas, grads = data((300, 260), torch.float32), data((2, 280, 250), torch.float32, 1)
    positions = torch.tensor([[0.25, 3.5], [11.75, -2.25]], dtype=torch.float64)
    same(
        blocks.extract_patches(canvas, positions, [280, 250]),
        CPU.extract_patches(canvas, positions, [280, 250]),
    )
    same_position_gradients(blocks, grads, canvas, positions)


@pytest.mark.parametrize("count", [5, 600])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_position_that_is_not_finite_makes_nan(blocks: Any, value: float, count: int) -> None:
    """A kernel cannot raise: what depends on the position is NaN, other patches and canvases are not affected."""
    size, patch = (60, 70), (6, 9)
    positions = scan(count, size)
    broken = positions.clone()
    broken[1, 2, 0] = value
    canvas, patches, weight = (
        data((2, *size), torch.complex64),
        data((2, count, *patch), torch.complex64),
        torch.ones(patch),
    )
    got, want = blocks.extract_patches(canvas, broken, patch), blocks.extract_patches(canvas, positions, patch)
    assert got[1, 2].isnan().all()
    got[1, 2] = want[1, 2]
    same(got, want)
    gradient = blocks.extract_patches_grad_positions(patches, canvas, broken)
    assert gradient[1, 2].isnan().all() and gradient.isnan().sum() == 2
    for mode in ("bilinear", "nearest"):
        moved = blocks.translate_images(patches.view(-1, *patch), broken.view(-1, 2), mode)
        assert moved[count + 2].isnan().all() and moved.isnan().sum() == patch[0] * patch[1]
    image, total = blocks.reassemble_patches(patches, broken, weight, size, 0.1)
    assert image[1].isnan().all() and total[1].isnan().all()
    assert torch.equal(image[0], CPU.reassemble_patches(patches, positions, weight, size, 0.1)[0][0])
    assert blocks.extract_patches_adjoint(patches, broken, size)[1].isnan().all()
    inside = (positions[1] > 0).all(-1)
    projected = blocks.overlap_project(patches, broken, weight, size, 0.1)
    assert inside.any() and projected[1, inside].isnan().all() and not projected[0].isnan().any()
    for part in blocks.overlap_project_backward(
        patches, patches, broken, weight.expand(patches.shape), size, 0.1, True
    ):
        assert part[1, inside].isnan().all() and not part[0].isnan().any()


@pytest.mark.parametrize(
    "change", ["moved", "incomplete", "out of range", "twice", "start out of range", "start backwards"]
)
def test_no_list_is_trusted(blocks: Any, change: str) -> None:
    """A plan of other positions, or no plan at all, makes canvases NaN, never wrong, and no read outside a tensor."""
    size, patch = (97, 130), (11, 18)
    positions = scan(40, size)
    patches = data((2, 40, *patch), torch.float32)
    order, start, listed = blocks.plan_tiles(positions, patch, size)
    at = positions
    if change == "moved":
        at = positions.clone()
        at[0, 7] += torch.tensor([32.0, 0.0])
    elif change == "incomplete":  # each list is in order and its patches touch the tile, but one is not in it
        listed, start = torch.cat([listed[:3], listed[4:]]), start - (start > 3).long()
    elif change == "out of range":
        listed[3], order[3] = 1 << 40, -1
    elif change == "twice":
        listed[3] = listed[2]
    elif change == "start out of range":
        start[2], start[3] = -5, 1 << 40
    else:
        start[2], start[3] = start[3].clone(), start[2].clone()
    canvas = blocks.extract_patches_adjoint(patches, at, size, start, listed)
    assert canvas[0].isnan().all()
    assert not (~canvas.isnan() & (canvas != CPU.extract_patches_adjoint(patches, at, size))).any()
    for eps in (None, 0.9):
        got = blocks.reassemble_patches(patches, at, torch.ones(patch), size, eps, start, listed)
        for part, want in zip(got, CPU.reassemble_patches(patches, at, torch.ones(patch), size, eps), strict=True):
            assert part[0].isnan().all()
            assert not (~part.isnan() & (part != want)).any()
    blocks.extract_patches(canvas, at, patch, order)


def test_refuses_what_the_host_can_see(blocks: Any) -> None:
    canvas, patches = data((2, *CANVAS), torch.float32), data((2, 5, *PATCH), torch.float32)
    _, start, listed = blocks.plan_tiles(POSITIONS, PATCH, CANVAS)
    for lists in ((start, None), (start[1:], listed), (start.double(), listed), (start[None], listed)):
        with pytest.raises(RuntimeError, match=r"^extract_patches_adjoint: plan must be made for these positions"):
            blocks.extract_patches_adjoint(patches, POSITIONS, CANVAS, *lists)
    with pytest.raises(RuntimeError, match=r"^extract_patches: canvas must be float32"):
        blocks.extract_patches(canvas.half(), POSITIONS, PATCH)
    with pytest.raises(RuntimeError, match=r"^extract_patches: plan must be made for these positions"):
        blocks.extract_patches(canvas, POSITIONS, PATCH, start)


@pytest.mark.parametrize("groups", [0, 2])
def test_nothing_to_do(blocks: Any, groups: int) -> None:
    none, positions = torch.zeros(groups, 0, 2, 3), torch.zeros(groups, 0, 2, dtype=torch.float64)
    assert blocks.extract_patches(torch.zeros(groups, 4, 6), positions, (2, 3)).shape == (groups, 0, 2, 3)
    for plan in ((), blocks.plan_tiles(positions, (2, 3), (4, 6))[1:]):
        canvas = blocks.extract_patches_adjoint(none, positions, (4, 6), *plan)
        assert canvas.shape == (groups, 4, 6) and not canvas.any()
        image, total = blocks.reassemble_patches(none, positions, torch.ones(2, 3), (4, 6), 0.1, *plan)
        assert not image.any() and not total.any()
    flat, at = torch.zeros(groups, 2, 0, 3), torch.zeros(groups, 2, 2, dtype=torch.float64)
    assert not blocks.extract_patches_grad_positions(flat, torch.zeros(groups, 4, 6), at).any()
    assert blocks.overlap_project(flat, at, torch.zeros(0, 3), (4, 6), 0.1).shape == flat.shape
    for part in blocks.overlap_project_backward(none, none, positions, torch.ones(2, 3), (4, 6), 0.1, True):
        assert not part.any()
    assert not blocks.extract_patches_adjoint(flat, at, (4, 6)).any()
    assert blocks.translate_images(torch.zeros(groups, 0, 3), positions.new_zeros(groups, 2), "bilinear").numel() == 0


def test_outputs_are_written_where_they_are_told(blocks: Any) -> None:
    canvas, patches = data((2, *CANVAS), torch.complex64), data((2, 5, *PATCH), torch.complex64)
    weight, size = weights(PATCH, torch.complex64), list(CANVAS)
    out, image, total = torch.full_like(patches, 7), torch.full_like(canvas, 7), torch.full(canvas.shape, 7.0)
    blocks.extract_patches_out(canvas, POSITIONS, None, out)
    same(out, px.extract_patches(canvas, POSITIONS, PATCH))
    blocks.extract_patches_adjoint_out(patches, POSITIONS, None, None, image)
    same(image, px.extract_patches_adjoint(patches, POSITIONS, CANVAS))
    blocks.reassemble_patches_out(patches, POSITIONS, weight, 0.2, None, None, image, total)
    same((image, total), px.reassemble_patches(patches, POSITIONS, CANVAS, weight, eps=0.2))
    blocks.overlap_project_out(patches, POSITIONS, weight, size, 0.2, None, None, None, out)
    same(out, px.overlap_project(patches, POSITIONS, CANVAS, weight, eps=0.2))
    blocks.translate_images_out(canvas, POSITIONS[:, 0], "nearest", image)
    same(image, px.translate_images(canvas, POSITIONS[:, 0], "nearest"))
