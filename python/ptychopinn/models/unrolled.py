# SPDX-License-Identifier: BSD-3-Clause
"""The default generator: unrolled data-consistency steps, with a small network of its own after every second one.

Every step predicts the patterns of a group from its canvas, replaces their amplitudes by the measured ones, propagates
back and merges the corrections on the canvas (the step of ePIE, for all patterns of the group at once). A small
two-level network then corrects the canvas. The overlap constraint holds by construction, because
all patches are extracted from one canvas. The network's cost is per canvas, so the cost per pattern falls with the size
of the group. Its last layer is initially zero: an untrained generator is the physical iteration. See docs/maths.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptycho_ext import (
    correct_fields,
    exit_waves,
    exit_waves_adjoint,
    extract_patches_adjoint,
    pattern_step,
    runs_in_cache,
    update_canvas,
)
from ptychopinn.errors import InputError
from ptychopinn.models.registry import ON_CPU, Generator, register_generator, require_positive, with_new_inputs, zeroed
from ptychopinn.physics.initial_estimate import initial_waves, level_feature, transmission_level
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.physics.overlap import illumination_weight
from ptychopinn.physics.propagation import far_field, inverse_far_field

#: Modulus, relative to the mean transmission, below which the phase of a canvas is undefined.
_FAINT = 1e-3

#: Real input channels of the network at full resolution: canvas (2), data-consistency direction (2), illumination (1);
#: and at half resolution, the dose and the level.
_INPUTS, _HALF_INPUTS = 5, 2
#: Logarithm of the counts that a pixel of the canvas received, of which the dose is a fraction.
_DOSE = 10.0


class CorrectionNetwork(nn.Module):
    """Two-level convolutional network at half resolution with a recurrent state.

    Tensors have their channels last, which is faster for convolutions on the CPU. The real and imaginary parts of the
    four pixels of a 2 x 2 block are the channels of one pixel at half resolution, so that input and output are copied
    once each.

    Args:
        width: feature channels of both levels.
        state: channels of the recurrent state, at half resolution; 0: none.
        last: True: no network follows, to hand the state to.
    """

    def __init__(self, width: int, state: int, last: bool) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4 * _INPUTS + _HALF_INPUTS + state, width, 3, padding=1, **ON_CPU)
        self.fine = nn.Conv2d(width, width, 3, padding=1, **ON_CPU)
        self.coarse_1 = nn.Conv2d(width, width, 3, padding=1, **ON_CPU)
        self.coarse_2 = nn.Conv2d(width, width, 3, padding=1, **ON_CPU)
        self.join = nn.Conv2d(2 * width, width, 3, padding=1, **ON_CPU)
        self.leave = zeroed(nn.Conv2d(width, 8, 3, padding=1, **ON_CPU))
        self.remember = zeroed(nn.Conv2d(width, state, 3, padding=1, **ON_CPU)) if state and not last else None

    def forward(
        self, canvas: Tensor, direction: Tensor, level: Level, covered: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Correct the object and compute the next state.

        Args:
            canvas: complex, (B, H, W): the object.
            direction: complex, (B, H, W): its data-consistency direction.
            level: what normalises both to order one, and the correction back.
            covered: real, (B, H / 2, W / 2, 6), illumination in 2 x 2 blocks, relative to its maximum, the dose, and
                the logarithm of the mean transmission.
            state: real, (B, H / 2, W / 2, S).

        Returns:
            corrected object, complex (B, H, W), and state, real (B, H / 2, W / 2, S): the input's of the last network.
        """
        features = torch.cat([*_block_rows(canvas), *_block_rows(direction), covered, state], -1)
        features = (features * level.of_features).permute(0, 3, 1, 2)
        fine = F.relu(self.enter(features))
        fine = F.relu(self.fine(fine))
        coarse = F.relu(self.coarse_1(F.avg_pool2d(fine, 2)))
        coarse = F.relu(self.coarse_2(coarse))
        joined = F.relu(self.join(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], 1)))
        correction = self.leave(joined).permute(0, 2, 3, 1).to(covered.dtype)
        if self.remember is not None:
            state = torch.tanh(self.remember(joined).permute(0, 2, 3, 1))
        return _add_blocks(canvas, level.of_correction, correction), state


class Level(NamedTuple):
    """The mean transmission of every group as the factors of the network's inputs and output.

    Attributes:
        of_features: real, (B, 1, 1, F): the inverse for the object and its direction, 1 for other features.
        of_correction: real, (B, 1, 1), the gain included.
    """

    of_features: Tensor
    of_correction: Tensor


def _block_rows(canvas: Tensor) -> tuple[Tensor, ...]:
    """Both rows of the 2 x 2 blocks of a complex canvas (B, H, W), as views, real (B, H / 2, W / 2, 4) each.

    In succession they are the real and imaginary parts of every block.
    """
    groups, height, width = canvas.shape
    return torch.view_as_real(canvas).view(groups, height // 2, 2, width // 2, 4).unbind(2)


def _add_blocks(canvas: Tensor, factor: Tensor, blocks: Tensor) -> Tensor:
    """Add real blocks (B, H / 2, W / 2, 8), times a factor (B, 1, 1), to a complex canvas (B, H, W)."""
    groups, height, width = canvas.shape
    parts = torch.view_as_real(canvas).view(groups, height // 2, 2, width // 2, 2, 2)
    added = blocks.unflatten(3, (2, 2, 2)).permute(0, 1, 3, 2, 4, 5)
    result = torch.addcmul(parts, factor[..., None, None, None], added)
    return torch.view_as_complex(result.reshape(groups, height, width, 2))


@register_generator("unrolled")
class UnrolledGenerator(Generator):
    """Unrolled data-consistency steps with a :class:`CorrectionNetwork` after some of them.

    Args:
        steps: unrolled steps, >= 1.
        every: the network is applied after every so many steps, and always after the last one.
        width: feature channels of a network.
        state: channels of the recurrent state, which a network hands to the next one.
        regularisation: added to the illumination in its quotient, relative to the maximum of the illumination.
        phase: 0 to 1, initial weight of the object's phase against its amplitude in the steps. At 1 both have the same
            weight. At 0 the initial steps leave the phase zero, for samples that mostly absorb; it is learned as far as
            the patterns require. The option matters most for groups of one pattern, which does not determine whether
            fine detail is in the amplitude or in the phase.

    Raises:
        InputError: an option is out of its range.

    Equation of a step (D the direction, u the network's correction, all on the canvas)::

        D = sum_k A_k^*( sum_m conj(P_m) F^*[ (sqrt(n_k) / sqrt(I_k) - 1) F(P_m A_k O) ] ) / (sum_k A_k^*(|P|^2) + eps)
        V <- momentum V + D;    O <- O + step . V + gain u(O, D, illumination, dose, level, state)

    with ``A_k`` the extraction of patch k and ``A_k^*`` its adjoint. D is minus the gradient of the amplitude loss
    (with its background under both roots), divided by the illumination. ``step . V`` has a learned factor for the
    component of V parallel to O, which changes the modulus, and one for the component perpendicular to it, which
    changes the phase. The dose is the logarithm of the counts that a pixel of the canvas received, so that a network
    can tell noise from detail. A network sees the object relative to its mean transmission, and the level, the
    logarithm of that: how phase and amplitude of a sample are related depends on its thickness as a rule.

    Source:
        The step: A. M. Maiden and J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009).
    """

    canvas_multiple = 4

    def __init__(
        self,
        steps: int = 6,
        every: int = 2,
        width: int = 16,
        state: int = 8,
        regularisation: float = 0.05,
        phase: float = 1.0,
    ) -> None:
        super().__init__()
        require_positive(steps=steps, every=every)
        self.steps = steps
        self.every = every
        self.state = state if steps > every else 0  # a network that is applied once needs no state
        self.regularisation = regularisation
        number = math.ceil(steps / every)
        self.networks = nn.ModuleList(CorrectionNetwork(width, self.state, k == number - 1) for k in range(number))
        self.register_load_state_dict_pre_hook(_from_earlier_weights)  # type: ignore[no-untyped-call]
        if not 0 <= phase <= 1:
            raise InputError(f"model.options: phase must be between 0 and 1, got {phase}")
        # Their sum is 2: the error is divided between amplitude and phase.
        self.step_size = nn.Parameter(torch.tensor([[2 - phase, phase]], **ON_CPU).repeat(steps, 1))
        self.start_phase = nn.Parameter(torch.tensor(float(phase), **ON_CPU))
        self.momentum = nn.ParameterList(nn.Parameter(torch.tensor(0.5, **ON_CPU)) for _ in range(steps - 1))
        self.gain = nn.Parameter(torch.tensor(0.3, **ON_CPU))

    def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
        groups = counts.shape[0]
        height, width = canvas_size
        # A use each, so that one sum of all their gradients is formed in place of one for every further use.
        *probes, probe = _uses(probe, 2 * self.steps + 1)
        weight = illumination_weight(probe)
        illumination = extract_patches_adjoint(weight.expand(counts.shape).contiguous(), positions, canvas_size)
        peak = illumination.amax((-2, -1), keepdim=True)
        offset = self.regularisation * peak
        inverse_illumination = 1 / (illumination + offset)
        relative = F.pixel_unshuffle((illumination / peak).unsqueeze(1), 2)
        dose = torch.log1p(F.avg_pool2d(illumination.unsqueeze(1), 2)) / _DOSE
        level = transmission_level(counts, weight)  # value of uncovered pixels, and scale of the network's channels
        covered = torch.cat([relative, dose, level_feature(level).unsqueeze(1).expand_as(dose)], 1).permute(0, 2, 3, 1)

        waves, mode = initial_waves(counts, probe)
        canvas = exit_waves_adjoint(waves.unsqueeze(-3), positions, mode.unsqueeze(0), canvas_size)
        real, imaginary = torch.view_as_real(canvas).unbind(-1)
        canvas = torch.complex(
            (real + level * offset) * inverse_illumination, imaginary * (self.start_phase * inverse_illumination)
        )

        floors = _uses(_FAINT * level.flatten(), self.steps)
        inverses = _uses(inverse_illumination, self.steps)
        others = level.new_ones(groups, 1, 1, covered.shape[-1] + self.state)
        scales = Level(torch.cat([(1 / level).unsqueeze(-1).expand(-1, -1, -1, 16), others], -1), self.gain * level)
        state = canvas.real.new_zeros(groups, height // 2, width // 2, self.state)
        factors = self.step_size.unbind()
        velocity = momentum = None
        networks = iter(self.networks)
        for step in range(self.steps):
            remaining = self.steps - 1 - step
            corrected = remaining % self.every == 0
            canvas, velocity, direction = update_canvas(
                canvas,
                _corrections(canvas, counts, positions, probes[2 * step], probes[2 * step + 1]),
                inverses[step],
                floors[step],
                factors[step],
                velocity,
                momentum,
                keep_direction=corrected,
            )
            momentum = self.momentum[step] if remaining else None
            if corrected:
                canvas, state = next(networks)(canvas, direction, scales, covered, state)
        return canvas


def _corrections(canvas: Tensor, counts: Tensor, positions: Tensor, probe: Tensor, again: Tensor) -> Tensor:
    """The corrections of all patterns of a group, summed on its canvas; with the probe twice, for its gradients."""
    if runs_in_cache(canvas.device, probe.shape[-2:]):
        corrections = pattern_step(
            canvas, positions, probe, counts, loss="amplitude", background=BACKGROUND, to_probe=False,
            to_positions=False,
        ).canvas  # fmt: skip
        assert corrections is not None
        return corrections
    fields = far_field(exit_waves(canvas, positions, probe))
    correction, _, _ = correct_fields(fields, counts, loss="amplitude", background=BACKGROUND)
    return exit_waves_adjoint(inverse_far_field(correction), positions, again, canvas.shape[-2:])


def _uses(tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    """The tensor so many times."""
    return tensor.expand(count, *tensor.shape).unbind()


def _from_earlier_weights(module: UnrolledGenerator, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Read the weights of earlier versions as the same function.

    Their networks may be one, of which every network gets a copy, and may not have the dose or the level, which get
    weights of zero.
    """
    shared = f"{prefix}network."
    for name in [name for name in state_dict if name.startswith(shared)]:
        value, part = state_dict.pop(name), name.removeprefix(shared)
        for number, network in enumerate(module.networks):
            if part in network.state_dict():
                state_dict[f"{prefix}networks.{number}.{part}"] = value
    before = 4 * _INPUTS + _HALF_INPUTS
    for number in range(len(module.networks)):
        name = f"{prefix}networks.{number}.enter.weight"
        if name in state_dict:
            state_dict[name] = with_new_inputs(state_dict[name], before + module.state, before)
