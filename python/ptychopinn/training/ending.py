# SPDX-License-Identifier: BSD-3-Clause
"""When a training has done what it can: the held-out loss against the noise floor of the photon statistics.

A training on many patterns ends before its epochs are over, with rates that fall to their end, when its held-out groups
are explained nearly as well as photon statistics allow, or, without a time limit, when their loss has ceased to fall.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L

from ptychopinn._one_line import one_line
from ptychopinn.config import TrainingConfig

#: What is logged besides the losses: the loss of averaged held-out groups over its noise floor.
RATIO = "val_ratio"
#: Ratio below which a fit is near the noise.
_NEAR = 3.0
#: Relative error of the amplitudes above the noise, beyond which a fit is poor.
_POOR = 0.05
#: Fewest epochs, and fewest patterns that a training has seen, before it ends by itself: slow parts of the phase hardly
#: lower the loss, and appear last (docs/quality.md).
FEWEST_EPOCHS, _FEWEST_PATTERNS = 6, 50_000
#: Fraction of the epochs so far in which the rates fall to their end.
_LAST = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """How well the groups that were held out are explained, each with its neighbours averaged.

    Args:
        ratio: loss over the noise floor of the photon statistics; 1: to the noise.
        r_factor: relative error of the amplitudes of the far fields, whose noise is included.
    """

    ratio: float
    r_factor: float

    __repr__ = one_line

    @classmethod
    def of(cls, values: Mapping[str, Any], loss: str) -> Fit | None:
        """That of the figures of an epoch; None: nothing was held out.

        Args:
            values: "val_fit" and "val_ratio" by name.
            loss: "poisson" or "amplitude".
        """
        if RATIO not in values:
            return None
        unit = 0.5 if loss == "poisson" else 1.0  # near the data, the Poisson loss is twice the amplitude loss
        return cls(float(values[RATIO]), math.sqrt(max(0.0, unit * float(values["val_fit"]))))

    @property
    def is_poor(self) -> bool:
        """Whether more of the amplitudes is not explained than a sound scan leaves: 5 %, without the noise.

        Example:
            >>> Fit(1.3, 0.2).is_poor, Fit(300.0, 0.02).is_poor, Fit(3.0, 0.1).is_poor
            (True, False, True)
        """
        return self.r_factor * math.sqrt(max(0.0, 1 - 1 / self.ratio)) > _POOR

    @property
    def summary(self) -> str:
        """As a clause.

        Example:
            >>> Fit(1.31, 0.021).summary
            'explains the data to within 1.3 times shot noise'
            >>> Fit(310.0, 0.021).summary
            'explains the data to within 310 times shot noise (2.1 % of the amplitudes)'
        """
        figure = f"{self.ratio:.0f}" if self.ratio >= 10 else f"{self.ratio:.2g}"
        clause = f"explains the data to within {figure} times shot noise"
        return clause if self.ratio < _NEAR else f"{clause} ({100 * self.r_factor:.2g} % of the amplitudes)"


def has_settled(ratios: list[float]) -> bool:
    """Whether the ratios of all epochs so far have ceased to fall.

    The mean of the last third is compared with that of the third before, in logarithms: a fall of less than 3 %.

    Example:
        >>> has_settled([8, 4, 2, 1.5, 1.2, 1.1]), has_settled([8, 4, 1.5, 1.5, 1.5, 1.5])
        (False, True)
    """
    third = len(ratios) // 3
    if not third:
        return False
    values = [math.log(max(ratio, 1e-12)) for ratio in ratios]
    last, before = values[-third:], values[-2 * third : -third]
    return sum(before) / third - sum(last) / third < 0.03


class EndByQuality(L.Callback):
    """Ends a training by the ratios of its epochs; part of the checkpoint, so that a resumed training ends alike.

    Args:
        config: of the training.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.ratio = config.stop_ratio
        #: Whether it may end because the loss has ceased to fall: whoever states a time has it for what falls last.
        self.by_settling = config.minutes is None
        self.ratios: list[float] = []
        #: Number of epochs after which the training ends; None: not decided.
        self.last: int | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if RATIO not in trainer.callback_metrics:
            return
        done = trainer.current_epoch + 1
        self.ratios.append(float(trainer.callback_metrics[RATIO]))
        enough = done >= FEWEST_EPOCHS and done * pl_module.patterns_per_epoch >= _FEWEST_PATTERNS
        if self.last is None and enough:
            reached = self.ratios[-1] <= self.ratio
            if reached or (self.by_settling and has_settled(self.ratios)):
                more = math.ceil(_LAST * done)
                self.last = done + more
                why = f"is {self.ratios[-1]:.3g} times the noise floor" if reached else "has ceased to fall"
                if self.last < (trainer.max_epochs or math.inf):
                    _log.info("the held-out loss %s: %d more epochs, with falling rates", why, more)
                pl_module.schedule.end_within(pl_module.steps_done, more * pl_module.steps_per_epoch)
        if self.last is not None and done >= self.last:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"ratios": self.ratios, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ratios, self.last = list(state_dict["ratios"]), state_dict["last"]
