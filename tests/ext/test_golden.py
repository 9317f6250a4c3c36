# SPDX-License-Identifier: BSD-3-Clause
"""Parity with PtychoPINN: every golden file, through the adapters of ptychopinn.compat.

An output or function without a handler in golden_cases.py fails. The folder is tests/data/golden, or
PTYCHO_GOLDEN_DIR. Its README lists special cases of the original.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from golden_cases import HANDLERS, Case, Result
from torch import Tensor

from ptychopinn.compat import _tf_reassembly, _tf_translation, tf_helper, torch_helper

COMMITTED = Path(__file__).parents[1] / "data" / "golden"
FOLDER = Path(os.environ.get("PTYCHO_GOLDEN_DIR") or COMMITTED)

FRACTION = "the original rounds i - t to float32 before the fraction: weights are off by up to ulp(|i - t|) / 2"
QUOTIENT = "the same, in numerator and denominator"
NORMALISED = "its PyTorch helper samples a grid normalised to [-1, 1]: off by 6e-7 of the side"
MOVES = "permutations, sizes and masks, without arithmetic"

#: Row (of HANDLERS), row/output or row/type -> tolerance and why. It holds for sides up to 64 pixels and grows with the
#: side, as the spacing of float32 coordinates does. The error is that of numerators (see ``error``); integers and
#: masks must agree exactly at any tolerance.
TOLERANCES: dict[str, tuple[float, str]] = {
    "translate": (1e-5, FRACTION),
    "translate/float64": (1e-12, "no float32 anywhere"),
    "translate/out_torch_helper": (4e-5, NORMALISED),
    "translate gradient": (1e-5, FRACTION),
    "layout": (0, MOVES),
    "pad and trim": (0, MOVES),
    "sizes": (0, MOVES),
    "centre masks": (0, MOVES),
    "extract": (1e-5, FRACTION),
    "extract/out_torch_extract_channels_from_region": (4e-5, NORMALISED),
    "centre channels": (1e-5, FRACTION),
    "group canvases": (1e-5, FRACTION),
    "group canvases/out_reassemble_patches": (4e-5, QUOTIENT),
    "scan canvas": (1e-5, FRACTION),
    "scan canvas/out_reassemble_position": (4e-5, QUOTIENT),
    "regular grid": (2e-6, "the same float32 sums in another order"),
    "diffraction": (5e-6, "another FFT, in float32"),
    "accumulator": (1e-5, FRACTION),
    "torch": (4e-5, NORMALISED),
}


def error(result: Result, want: Tensor) -> float:
    """Largest difference of numerators (value / gain), relative to the larger of 1 and the largest numerator."""
    got = torch.as_tensor(result.value).detach()
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, original {tuple(want.shape)}"
    assert got.dtype == want.dtype, f"type {got.dtype}, original {want.dtype}"
    gain = torch.as_tensor(result.gain).expand(want.shape)
    if result.where is not None:
        where = result.where.expand(want.shape)
        got, want, gain = got[where], want[where], gain[where]
    assert torch.equal(got.isnan(), want.isnan()), "NaN at other positions than in the original"
    known = ~want.isnan()
    got, want, gain = got[known], want[known], gain[known]
    if want.numel() == 0:
        return 0.0
    if not (want.is_floating_point() or want.is_complex()):
        return float((got != want).any())
    return float(((got - want) / gain).abs().max() / (want / gain).abs().max().clamp(min=1))


def check(case: Case) -> None:
    """Compare every output of a case."""
    assert case.func in HANDLERS, f"golden: no handler for function {case.func!r}; add one to HANDLERS"
    row, handler = HANDLERS[case.func]
    outputs = handler(case)
    wanted = {key: value for key, value in case.arrays.items() if key.startswith("out_")}
    assert wanted, "golden: the file holds no output"
    unknown = sorted(wanted.keys() - outputs.keys())
    assert not unknown, f"golden: nothing computes {unknown} of {case.func!r}; add it to its handler"
    for key, want in wanted.items():
        result = outputs[key]()
        result = result if isinstance(result, Result) else Result(result)
        rows = [f"{row}/{key.removesuffix('_batched')}", f"{row}/{str(want.dtype).removeprefix('torch.')}", row]
        tolerance, why = TOLERANCES[next(name for name in rows if name in TOLERANCES)]
        tolerance *= max(1, max(want.shape[1:], default=1) / 64)
        off = error(result, want)
        assert off <= tolerance, f"{key}: off by {off:.1e}, allowed {tolerance:.1e} ({why})"


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.npz"))
    assert found, f"golden: no .npz files in {folder}"
    return found


@pytest.mark.filterwarnings("ignore:accumulator")
@pytest.mark.parametrize("path", files(FOLDER), ids=lambda path: path.stem)
def test_agrees_with_the_original(path: Path) -> None:
    check(Case.load(path))


def test_functions_of_the_files_and_handlers_correspond() -> None:
    assert {Case.load(path).func for path in files(COMMITTED)} == set(HANDLERS)
    assert {row for row, _ in HANDLERS.values()} == {name.split("/")[0] for name in TOLERANCES}


def test_unknown_functions_and_outputs_are_reported() -> None:
    with pytest.raises(AssertionError, match="golden: no handler for function 'shift'"):
        check(Case("shift", {}, {}))
    case = Case.load(COMMITTED / "center_channels_float32_N8_g1_B1_sub_s41.npz")
    with pytest.raises(AssertionError, match=r"golden: nothing computes \['out_extra'\]"):
        check(Case(case.func, case.params, case.arrays | {"out_extra": torch.zeros(1)}))


MUTATIONS = {
    "sign": lambda offsets: -offsets.flip(-1).to(torch.float64),
    "axes": lambda offsets: offsets.to(torch.float64),
    "half a pixel": lambda offsets: offsets.flip(-1).to(torch.float64) + 0.5,
}


@pytest.mark.filterwarnings("ignore:accumulator")
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize(
    "name",
    [
        "translate_bilinear_complex64_11x17_B7_T7_sub_s6",
        "translate_nearest_float32_10x10_B8_T2_sub_s8",
        "translate_grad_9x11_B4_sub_s302",
        "extract_position_complex64_N12_M24_g2_B2_oob_s35",
        "center_channels_complex64_N10_g2_B7_half_s42",
        "reassembly_B7_N8_P20_g2_bs8_sub_s52",
        "reassembly_B7_N12_P24_g2_bs64_int_s54",
        "shift_and_sum_n33_N8_M6_chunk32_sub_s63",
        "torch_reassemble_B2_C4_N8_cropNone_s91",
        "torch_reassemble_B2_C4_N9_crop5_s95",
        "torch_multi_channel_n7_N16_M10_s89",
        "torch_single_channel_n7_N12_M8_s99",
        "accumulator_n7_S8_40x44_sub_s96",
    ],
)
def test_wrong_offset_is_detected(monkeypatch: pytest.MonkeyPatch, name: str, mutation: str) -> None:
    for module in (tf_helper, _tf_translation, _tf_reassembly, torch_helper):
        monkeypatch.setattr(module, "to_yx", MUTATIONS[mutation])
    with pytest.raises(AssertionError):
        check(Case.load(COMMITTED / f"{name}.npz"))
