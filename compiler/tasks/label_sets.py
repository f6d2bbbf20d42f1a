"""Label sets: what differs where a row may have several labels, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compiler.diagnostics import Diagnostic
from compiler.tasks.labels import LabelNumbers, Labels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.recipe import Recipe
    from compiler.tasks.interface import Targets

LOSSES = ("binary-cross-entropy", "focal")
NO_METRICS = ("matthews",)
"""Metrics of labels that are not of sets of them."""


class SetNumbers:
    """The label sets of rows as numbers, in the order in which they came."""

    def __init__(self, declared: Labels) -> None:
        self.names = LabelNumbers(declared)
        self.numbers: dict[tuple[str, ...], int] = {}

    def number(self, names: tuple[str, ...]) -> float:
        """The number of the set that a row has."""
        for name in names:
            self.names.number(name)
        return float(self.numbers.setdefault(names, len(self.numbers)))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names in order: as declared, or those found, sorted."""
        return self.names.labels

    def members(self, targets: Targets) -> npt.NDArray[np.bool_]:
        """[N, C] which labels each row has."""
        import numpy as np

        places = {name: place for place, name in enumerate(self.labels)}
        has_SC = np.zeros((len(self.numbers), len(places)), bool)
        for names, number in self.numbers.items():
            has_SC[number, [places[name] for name in names]] = True
        has_NC: npt.NDArray[np.bool_] = has_SC[targets.astype(np.int64)]
        return has_NC

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] the rarest label of each row, so that a split keeps the shares of rare ones; C where it has none."""
        import numpy as np

        has_NC = self.members(targets)
        if not has_NC.size:
            return np.zeros(len(targets), np.int64)
        often_NC = np.where(has_NC, has_NC.sum(axis=0), len(targets) + 1)
        rarest_N: npt.NDArray[np.int64] = np.where(has_NC.any(axis=1), often_NC.argmin(axis=1), has_NC.shape[1])
        return rarest_N

    def counts(self, targets: Targets) -> dict[str, int]:
        """How many of the rows have each label."""
        return dict(zip(self.labels, self.members(targets).sum(axis=0).tolist(), strict=True))


def check_sets(recipe: Recipe, *, sets: bool) -> Iterator[Diagnostic]:
    """Losses and metrics are those of label sets, or those of one label a row."""
    loss = recipe.training.loss
    if not sets:
        if loss is not None and loss.type == LOSSES[0]:
            message = f'the loss "{loss.type}" is for rows that may have several labels'
            yield recipe.finding("R201", "/training/loss/type", message, 'add "multi_label": true to /task')
        if recipe.wrote("/task/threshold") is not None:
            message, hint = 'nothing reads "threshold" without multi_label', 'add "multi_label": true, or remove it'
            yield recipe.finding("R202", "/task/threshold", message, hint, key=True)
        return
    if loss is not None and loss.type not in LOSSES:
        message = f'the loss "{loss.type}" is for rows that have one label each'
        yield recipe.finding("R201", "/training/loss/type", message, f"with multi_label: {', '.join(LOSSES)}")
    for index, metric in enumerate(recipe.metrics):
        if metric.type in NO_METRICS:
            message = f'the metric "{metric.type}" is for rows that have one label each'
            yield recipe.finding("R201", f"/metrics/{index}/type", message, "with multi_label: f1, or accuracy")
    balance = recipe.training.balance
    if balance is not None and balance.type != "weights":
        message = f'nothing reads the balance "{balance.type}" with multi_label: a row is of no one class'
        yield recipe.finding("R202", "/training/balance", message, 'write "balance": "weights"', key=True)
    if recipe.wrote("/training/label_smoothing") is not None:
        message = 'nothing reads "label_smoothing" with multi_label'
        yield recipe.finding("R202", "/training/label_smoothing", message, "remove it", key=True)
