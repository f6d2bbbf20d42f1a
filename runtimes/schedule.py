"""The learning rate of each optimizer step."""

from __future__ import annotations

import math
from typing import assert_never

from compiler.plan import Schedule


def learning_rate(schedule: Schedule, base: float, step: int) -> float:
    """The rate of the optimizer step with number `step`, from 0.

    With W warm-up steps and n steps in all: base * (step + 1) / (W + 1) while step < W; then, with the share
    p = (step - W) / (n - W) of the rest that is done, base (constant), base * (1 - p) (linear), or
    base * (1 + cos(pi p)) / 2 (cosine). No step has rate zero: the shapes reach zero where the next step would be.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, schedule.num_steps - warmup)
    match schedule.shape:
        case "constant":
            return base
        case "linear":
            return base * (1.0 - done)
        case "cosine":
            return base * 0.5 * (1.0 + math.cos(math.pi * done))
        case _:
            assert_never(schedule.shape)
