# SPDX-License-Identifier: BSD-3-Clause
"""The default generator: a few unrolled steps of data consistency, after every second of them a small network.

Every step predicts the patterns of a group from its canvas, replaces their amplitudes by the measured ones, propagates
back and merges the corrections on the canvas (the step of ePIE and its relatives, for all patterns of the group at
once); then a small U-shaped network with shared weights corrects the canvas. The overlap constraint is built in:
there is one canvas, and patches are only ever cut out of it. The network works on the canvas rather than on patches, so
its cost per pattern falls with the size of the group. An untrained generator is exactly the physics: the network's last
layer starts at zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptycho_ext import correct_fields, exit_waves, exit_waves_adjoint, extract_patches_adjoint
from ptychopinn.errors import InputError
from ptychopinn.models.registry import Generator, register_generator
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.physics.overlap import illumination_weight
from ptychopinn.physics.propagation import far_field, near_field, squared_modulus
from ptychopinn.physics.start import start_waves, transmission_level

#: Modulus, relative to the mean transmission, below which a canvas has no phase to speak of.
_FAINT = 1e-3

#: Real channels that the network sees: canvas (2), data-consistency direction (2), illumination (1).
_INPUTS = 5


class CorrectionNetwork(nn.Module):
    """Two-level convolutional network at half resolution with a recurrent state.

    Its tensors have their channels last, which the convolutions are quicker in on the CPU: the four pixels of a 2 x 2
    block, of two lanes each, are the channels of one pixel at half resolution, so that only one copy is made on the way
    in and one on the way out.

    Args:
        width: feature channels of both levels.
        state: channels of the state carried from step to step, at half resolution; 0: none.
    """

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4 * _INPUTS + state, width, 3, padding=1)
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.coarse_1 = nn.Conv2d(width, width, 3, padding=1)
        self.coarse_2 = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 8, 3, padding=1)
        self.remember = nn.Conv2d(width, state, 3, padding=1) if state else None
        for last in (self.leave, self.remember):
            if last is not None:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, canvases: list[Tensor], relative: Tensor, state: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """A correction and, unless it is the last one, the next state.

        Args:
            canvases: complex, (B, H, W) each: the object and the direction of its data consistency, of order one.
            relative: real, (B, H / 2, W / 2, 4), illumination in 2 x 2 blocks.
            state: real, (B, H / 2, W / 2, S).

        Returns:
            complex (B, H, W) and real (B, H / 2, W / 2, S).
        """
        features = torch.cat([*(_blocks(canvas) for canvas in canvases), relative, state], -1).permute(0, 3, 1, 2)
        fine = F.relu(self.enter(features))
        fine = F.relu(self.fine(fine))
        coarse = F.relu(self.coarse_1(F.avg_pool2d(fine, 2)))
        coarse = F.relu(self.coarse_2(coarse))
        joined = F.relu(self.join(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], 1)))
        correction = _canvas(self.leave(joined).permute(0, 2, 3, 1).to(relative.dtype))
        if not last and self.remember is not None:
            state = torch.tanh(self.remember(joined).permute(0, 2, 3, 1))
        return correction, state


def _blocks(canvas: Tensor) -> Tensor:
    """complex (B, H, W) as real (B, H / 2, W / 2, 8): both lanes of the pixels of every 2 x 2 block."""
    groups, height, width = canvas.shape
    lanes = torch.view_as_real(canvas).view(groups, height // 2, 2, width // 2, 2, 2)
    return lanes.permute(0, 1, 3, 2, 4, 5).flatten(3)


def _canvas(blocks: Tensor) -> Tensor:
    """The inverse of :func:`_blocks`."""
    groups, height, width = blocks.shape[:3]
    lanes = blocks.unflatten(3, (2, 2, 2)).permute(0, 1, 3, 2, 4, 5)
    return torch.view_as_complex(lanes.reshape(groups, 2 * height, 2 * width, 2))


@register_generator("unrolled")
class UnrolledGenerator(Generator):
    """Unrolled physics with a shared :class:`CorrectionNetwork`.

    Args:
        steps: unrolled steps, >= 1.
        every: the network follows every so many steps, the last one always.
        width: feature channels of the network.
        state: channels of its recurrent state.
        regularisation: weight, relative to the brightest pixel, below which illumination is not divided out.
        phase: 0 to 1, how much of the first steps goes to the object's phase rather than its amplitude. At 1 both are
            alike. At 0 the steps begin without a phase, which they learn as far as the patterns ask for it: for samples
            that mostly absorb. It is decisive for groups of one pattern, which tells little of whether fine detail is
            in the amplitude or in the phase.

    Equation of a step (D the direction, u the network's correction, all on the canvas)::

        D = sum_k A_k^*( sum_m conj(P_m) F^*[ (sqrt(n_k) / sqrt(I_k) - 1) F(P_m A_k O) ] ) / (sum_k A_k^*(|P|^2) + eps)
        V <- momentum V + D;    O <- O + step . V + gain u(O, D, illumination, state)

    with ``A_k`` the extraction of patch k and ``A_k^*`` its adjoint. D is the gradient of the amplitude loss (with its
    background in both roots), divided by the illumination; ``step . V`` has a learned factor for the component of V
    along O, which changes the modulus, and one for that across it, which changes the phase.
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
        for name, number in (("steps", steps), ("every", every)):
            if number < 1:
                raise InputError(f"model.options: {name} must be at least 1, got {number}")
        self.steps = steps
        self.every = every
        self.state = state if steps > every else 0  # a network that comes once has nothing to remember
        self.regularisation = regularisation
        self.network = CorrectionNetwork(width, self.state)
        if not 0 <= phase <= 1:
            raise InputError(f"model.options: phase must be between 0 and 1, got {phase}")
        # Together 2: what one of them leaves of a misfit is the other's.
        self.step_size = nn.Parameter(torch.tensor([[2 - phase, phase]]).repeat(steps, 1))
        self.start_phase = nn.Parameter(torch.tensor(float(phase)))
        self.momentum = nn.ParameterList(nn.Parameter(torch.tensor(0.5)) for _ in range(steps - 1))
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
        groups = counts.shape[0]
        height, width = canvas_size
        weight = illumination_weight(probe)
        illumination = extract_patches_adjoint(weight.expand(counts.shape).contiguous(), positions, canvas_size)
        peak = illumination.amax((-2, -1), keepdim=True)
        floor = self.regularisation * peak
        # Complex, once for all steps: torch would convert them at every product.
        per_light = (1 / (illumination + floor)).to(probe.dtype)
        relative = F.pixel_unshuffle((illumination / peak).unsqueeze(1), 2).permute(0, 2, 3, 1)

        waves, mode = start_waves(counts, probe)
        level = transmission_level(counts, weight)  # fills what no light reached, and scales the network's channels
        per_level = (1 / level).to(probe.dtype)
        canvas = extract_patches_adjoint(mode.conj() * waves, positions, canvas_size)
        canvas = (canvas + level * floor) * per_light
        canvas = torch.complex(canvas.real, self.start_phase * canvas.imag)

        state = canvas.real.new_zeros(groups, height // 2, width // 2, self.state)
        velocity = None
        for step in range(self.steps):
            fields = far_field(exit_waves(canvas, positions, probe))
            correction, _, _ = correct_fields(fields, counts, loss="amplitude", background=BACKGROUND)
            direction = exit_waves_adjoint(near_field(correction), positions, probe, canvas_size) * per_light
            velocity = direction if velocity is None else self.momentum[step - 1] * velocity + direction
            canvas = canvas + _split_step(self.step_size[step], velocity, canvas, level)
            left = self.steps - 1 - step
            if left % self.every == 0:
                canvases = [canvas * per_level, direction * per_level]
                correction, state = self.network(canvases, relative, state, last=left == 0)
                canvas = canvas + self.gain * level * correction
        return canvas


def _split_step(factors: Tensor, velocity: Tensor, canvas: Tensor, level: Tensor) -> Tensor:
    """The velocity with its components along and across the canvas's values times one factor each."""
    unit = canvas * torch.rsqrt(squared_modulus(canvas) + (_FAINT * level) ** 2)
    relative = velocity * unit.conj()
    return unit * torch.complex(factors[0] * relative.real, factors[1] * relative.imag)
