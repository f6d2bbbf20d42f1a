"""What differs where a row is answered with several numbers: each is an output, measured and reported by its name."""

# N = rows, C = targets

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.diagnostics import printable, short
from compiler.metrics import MAE, MSE, R2, RMSE, Metric, Pearson, Spearman, name_of
from runtimes.metrics.values import measure_values
from runtimes.rows.features import Ragged
from runtimes.tasks.interface import Answer, Array, Floats
from runtimes.tasks.labels import label_config

Numbers = npt.NDArray[np.float64]
METRICS: tuple[Metric, ...] = (MSE(), RMSE(), MAE(), Pearson(), Spearman(), R2())
_WIDTH = 12  # of a figure in a line


def numbers_of(value: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    """The number of each target: those of a list, or the same for all."""
    return value if isinstance(value, tuple) else (value,) * count


def config(targets: Sequence[str]) -> dict[str, Any]:
    """What config.json says of a head with these outputs."""
    return {**label_config(targets), "problem_type": "regression"}


def targets_of(rows: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> npt.NDArray[np.float32]:
    """[N, C] the numbers of each row; zeros where a row has none."""
    numbers = [[row.get(name, 0.0) for name in targets] for row in rows]
    return np.array(numbers, np.float32).reshape(-1, len(targets))


def score(metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name: the mean over the targets, each in its own unit."""
    figures = [_figures(metrics, *pair) for pair in _columns(targets, outputs)]
    return {name: float(np.mean([found[name] for found in figures])) for name in map(name_of, metrics)}


def details(targets: Sequence[str], truth: Ragged, outputs: Ragged, unlearnt: Ragged | None) -> dict[str, Any]:
    """Every metric of each target in its own unit, and the same of what is answered without looking at a row."""
    tuned = [_figures(METRICS, *pair) for pair in _columns(truth, outputs)]
    plain = [_figures(METRICS, *pair) for pair in _columns(truth, unlearnt)] if unlearnt is not None else []
    return {
        "by_target": [
            {"target": name, **tuned[place], **({"baseline": plain[place]} if plain else {})}
            for place, name in enumerate(targets)
        ]
    }


def _columns(truth: Ragged, outputs: Ragged) -> list[tuple[Numbers, Numbers]]:
    """[N] the numbers that rows have, and those that they were given, of each target."""
    pairs = zip(truth.values.T.astype(np.float64), outputs.values.T.astype(np.float64), strict=True)
    return [*pairs]


def _figures(metrics: Sequence[Metric], truth_N: Numbers, given_N: Numbers) -> dict[str, float]:
    return {name_of(metric): measure_values(metric, truth_N, given_N) for metric in metrics}


def detail_lines(by_target: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures of each target for a terminal, and under them those of always answering its mean."""
    names = [short(printable(found["target"])) for found in by_target]
    width = max(_WIDTH, *(len(name) + 2 for name in names))
    columns = [name_of(metric) for metric in METRICS]
    lines = [f"    {'target':<{width}}" + "".join(f"{column:>{_WIDTH}}" for column in columns)]
    for name, found in zip(names, by_target, strict=True):
        rows = {name: found, **({"  mean": found["baseline"]} if "baseline" in found else {})}
        lines += [
            f"    {title:<{width}}" + "".join(f"{_figure(figures[column]):>{_WIDTH}}" for column in columns)
            for title, figures in rows.items()
        ]
    return lines


def _figure(value: float) -> str:
    """A figure with four decimals, or with few digits where it is too long for its column."""
    shown = f"{value:.4f}"
    return shown if len(shown) < _WIDTH else f"{value:.5g}"


def baseline(targets: Array, count: int) -> tuple[str, Floats]:
    """Always the mean of each target over the train rows."""
    means_C = np.mean(targets, axis=0, dtype=np.float64).astype(np.float32)
    return "mean", np.tile(means_C, (count, 1))


def answer(targets: Sequence[str], outputs: Floats) -> Answer:
    """Each number by the name of its target."""
    [numbers_C] = outputs.tolist()
    return {"values": dict(zip(targets, numbers_C, strict=True))}


def line(values: Mapping[str, float]) -> str:
    """Each number with the name of its target."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
