"""What a stage on the way to deployment costs: bytes and seconds, as information beside what the gate decides."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from compiler.diagnostics import counted
from runtimes.export import Stage
from runtimes.export.facts import data_file
from runtimes.protocol import Batch
from runtimes.rows.batches import collate
from runtimes.rows.features import Table
from runtimes.verification.gate import ScoreFunction

_MOST_REPEATS, _LEAST_REPEATS, _SECONDS = 30, 5, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Bytes on disk, and medians over repeated runs on a row of median length."""

    num_bytes: int
    seconds: float  # for one row
    batch_seconds: float  # for `batch_size` rows
    batch_size: int
    length: int  # tokens of each row, padding included
    repeats: int  # of a row; fewer of a batch
    cores: int  # that could be used: libraries take a thread for each, unless they are told otherwise


def cost_of(stage: Stage, scores: ScoreFunction, table: Table, batch_size: int) -> Cost:
    """What an opened stage costs."""
    place = np.argsort(table.lengths, kind="stable")[len(table.lengths) // 2]
    one, many = collate(table, np.asarray([place])), collate(table, np.repeat(place, batch_size))
    alone, together = _times(scores, one), _times(scores, many)
    return Cost(
        num_bytes=sum(map(size_of, stage.files)),
        seconds=median(alone),
        batch_seconds=median(together),
        batch_size=batch_size,
        length=int(table.lengths[place]),
        repeats=len(alone),
        cores=num_cores(),
    )


def size_of(file: Path) -> int:
    """Bytes of a file, and of the weights beside a graph."""
    return sum(one.stat().st_size for one in (file, data_file(file)) if one.exists())


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _times(scores: ScoreFunction, batch: Batch) -> list[float]:
    """Seconds of each run of a batch, after one that does not count."""
    scores(batch)
    return [*_runs(scores, batch)]


def _runs(scores: ScoreFunction, batch: Batch) -> Iterator[float]:
    end = time.perf_counter() + _SECONDS
    for repeat in range(_MOST_REPEATS):
        start = time.perf_counter()
        scores(batch)
        now = time.perf_counter()
        yield now - start
        if repeat + 1 >= _LEAST_REPEATS and now > end:
            return


def cost_lines(costs: Mapping[str, Mapping[str, Any]], stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A table for a terminal: a stage a line, with its metrics. Costs as JSON has them."""
    if not costs:
        return []
    batch_size, cores = (next(iter(costs.values()))[name] for name in ("batch_size", "cores"))
    names = [*dict.fromkeys(name for figures in stages.values() for name in figures)]
    width = max(map(len, costs))
    head = [f"{'':<{width}}", f"{'MiB':>9}", f"{'ms, 1 row':>11}", f"{f'ms, {batch_size} rows':>12}"]
    lines = ["  ".join([*head, *names])]
    for stage, cost in costs.items():
        cells = [f"{stage:<{width}}", f"{cost['num_bytes'] / 2**20:>9,.1f}"]
        cells += [f"{cost['seconds'] * 1000:>11,.2f}", f"{cost['batch_seconds'] * 1000:>12,.2f}"]
        cells += [f"{stages[stage][name]:>{len(name)}.4f}" for name in names if name in stages.get(stage, {})]
        lines.append("  ".join(cells))
    return [*lines, f"medians of repeated runs, rows of median length, {counted(cores, 'core')}"]
