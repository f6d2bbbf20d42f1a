"""What the benchmarks of exports share: the machine in words, and times of several runners that take turns."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

PAUSE = 0.1
"""Seconds between two runners: idle threads of a runtime wait busily for a while, and would be in the next's way."""


def machine(threads: int, packages: Sequence[str] = ("torch", "transformers", "onnxruntime")) -> str:
    """Where something was measured, and with what."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    name = found[1] if found else platform.processor() or "CPU"
    system = f"{os.cpu_count()} cores of {name}, {platform.system()} {platform.machine()}"
    versions = ", ".join(f"{package} {metadata.version(package).partition('+')[0]}" for package in packages)
    return f"{system}; {threads} thread{'s' if threads > 1 else ''} for each runtime; {versions}"


def set_threads(count: int) -> None:
    """Gives torch as many threads as each other runtime is given."""
    torch.set_num_threads(count)


def medians(runners: Mapping[str, Sequence[Callable[[], object]]], repeats: int) -> dict[str, float]:
    """Median seconds of a call of each runner, over all its calls; in each round the runners take turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for calls in runners.values():
        for call in calls:
            call()  # compiled, loaded and allocated before anything is timed
    for number in range(repeats):
        names = [*runners] if number % 2 == 0 else [*runners][::-1]
        for name in names:
            time.sleep(PAUSE)
            times[name] += [_seconds(call) for call in runners[name]]
    return {name: statistics.median(found) for name, found in times.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
