"""Whose turn it is: which of the tasks that are trained together a step is of. A function of the plan and the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compiler.plan import TaskTurns
from runtimes.randomness import order


@dataclass(frozen=True, slots=True)
class Turn:
    """A task, and how many turns it had before."""

    name: str
    number: int


class Turns:
    """The turns of each step. `steps`: of an epoch by task. `rotates`: one after another, else in an order drawn."""

    def __init__(self, steps: Mapping[str, int], *, rotates: bool, seed: int) -> None:
        self.names, self.counts = tuple(steps), np.array([*steps.values()], np.int64)
        self.rotates, self.seed = rotates, seed
        self._epoch: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return int(self.counts.sum())

    def of(self, step: int) -> Turn:
        """The turn of a step, which counts from 0."""
        epoch, position = divmod(step, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._drawn(epoch))
        _, tasks, numbers = self._epoch
        return Turn(self.names[int(tasks[position])], int(numbers[position]))

    def _drawn(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of each step of an epoch its task's place among the names, and how many turns that had before."""
        within = np.concatenate([np.arange(count) for count in self.counts])
        tasks = np.repeat(np.arange(len(self.names)), self.counts)
        at = np.argsort(within, kind="stable") if self.rotates else order(len(tasks), self.seed, epoch, "turns")
        tasks, numbers = tasks[at], np.empty(len(tasks), np.int64)
        for task, count in enumerate(self.counts):
            numbers[tasks == task] = epoch * count + np.arange(count)
        return tasks, numbers


@dataclass(frozen=True, slots=True)
class Weighing:
    """How the tasks' losses count. `rate`: of the log-variances s; 0 where none are learnt.

    The objective of a task with the loss L is weight * L, or weight * (share * exp(-s) * L + s / 2) (Kendall, Gal and
    Cipolla 2018, arXiv:1705.07115, with s the logarithm of the variance).
    """

    turns: Mapping[str, TaskTurns]
    rate: float

    @property
    def learns(self) -> bool:
        """Whether log-variances are learnt."""
        return self.rate > 0

    def factor(self, name: str, log_variance: float) -> float:
        """What the task's loss is multiplied by."""
        turns = self.turns[name]
        return turns.weight * turns.share * math.exp(-log_variance) if self.learns else turns.weight

    def moved(self, name: str, log_variance: float, loss: float) -> float:
        """The log-variance after a step of gradient descent on the objective."""
        turns = self.turns[name]
        gradient = turns.weight * (0.5 - turns.share * math.exp(-log_variance) * loss)
        return log_variance - self.rate * gradient
