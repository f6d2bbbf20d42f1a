"""What the training loop says while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """An optimizer step is done. `step` counts from 1; `epoch` is how many epochs are done, with its fraction."""

    step: int
    num_steps: int
    epoch: float
    loss: float  # weighted and smoothed as it is minimised, in nats
    learning_rate: float
    grad_norm: float  # before clipping
    num_tokens: int  # without padding; rows where a model reads no tokens
    unit: Literal["tokens", "rows"] = "tokens"
    seconds: float
    part: str = ""  # of several tasks the one whose rows these were: then the loss is its own, before it is weighed
    weight: float = 1.0  # what the task's loss was multiplied by


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """The validation rows were scored after a step. `loss`: the recipe's, unweighted, not smoothed."""

    step: int
    epoch: float
    loss: float
    metrics: Mapping[str, float]
    best: bool  # better than every evaluation before it


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReport:
    """A checkpoint was saved."""

    step: int
    folder: str  # its name inside the folder of checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeReport:
    """Training goes on after a step (0: from the start), because of checkpoints; damaged ones were passed over."""

    step: int
    damaged: tuple[str, ...]  # why each of them was not used


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchReport:
    """The device had no room; the step is done again with fewer rows at once."""

    step: int
    micro_batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """Training is over, and the engine holds the weights of `kept_step`."""

    step: int
    kept_step: int
    reason: str


Report = StepReport | EvaluationReport | CheckpointReport | ResumeReport | MicroBatchReport | StopReport
