# SPDX-License-Identifier: BSD-3-Clause
"""Train the network in the package on random simulated scans and write it as a bundle; see docs/pretrained.md.

python scripts/pretrain.py --minutes 60 --seed 0 --checkpoint build/pretrain.pt
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

import torch

from ptychopinn.errors import InputError
from ptychopinn.persistence.pretrained import PRETRAINED
from ptychopinn.pretraining.losses import LOSSES
from ptychopinn.pretraining.workflow import PretrainingOptions, pretrain


def main(arguments: list[str] | None = None) -> int:
    defaults = PretrainingOptions()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=defaults.minutes, help="of the training (%(default)s)")
    parser.add_argument("--steps", type=int, help="in place of the minutes, for the same weights each time")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of weights and scans (%(default)s)")
    parser.add_argument("--out", type=Path, default=PRETRAINED, help="the bundle to write (that of the package)")
    parser.add_argument("--checkpoint", type=Path, help="file of the state, written every few minutes")
    parser.add_argument("--resume", action="store_true", help="continue from the state")
    parser.add_argument("--save-minutes", type=float, default=3.0, help="between two states (%(default)s)")
    parser.add_argument("--loss", choices=list(LOSSES), default=defaults.loss, help="what is minimised (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate, help="its peak (%(default)s)")
    parser.add_argument("--average", type=float, default=defaults.average, help="decay of the average of the weights")
    parser.add_argument("--clip", type=float, default=defaults.gradient_clip, help="largest gradient (%(default)s)")
    parser.add_argument("--patterns", type=int, default=defaults.patterns, help="of a batch (%(default)s)")
    parser.add_argument("--options", type=json.loads, default={}, help="of the generator, JSON ({})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (%(default)s)")
    parser.add_argument("--threads", type=int, help="of torch; the batches are made by one more (all but one)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ptychopinn.inference").setLevel(logging.WARNING)
    torch.set_num_threads(given.threads or max(1, (os.cpu_count() or 2) - 1))
    try:
        options = PretrainingOptions(
            minutes=given.minutes,
            steps=given.steps,
            seed=given.seed,
            loss=given.loss,
            learning_rate=given.learning_rate,
            average=given.average,
            gradient_clip=given.clip,
            patterns=given.patterns,
            model=given.options,
        )
        facts = pretrain(
            options,
            given.out,
            checkpoint=given.checkpoint,
            resume=given.resume,
            save_minutes=given.save_minutes,
            device=given.device,
        )
    except InputError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pretrain: interrupted; --resume continues from the state, if one is kept", file=sys.stderr)
        return 130
    scores = facts["scores"]
    print(
        f"{given.out}: {given.out.stat().st_size / 1024:.0f} kB, {facts['steps']} steps in {facts['seconds']:.0f} s; "
        f"on {scores['scans']}: median of mean FRC {scores['median_frc']}, lowest {scores['lowest_frc']}, median "
        f"correlation of the phase {scores['median_phase_correlation']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
