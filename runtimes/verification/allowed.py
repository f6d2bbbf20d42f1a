"""What a bundle's manifest asks its receiver to allow, against the most that its receiver takes.

Who changes a bundle can change what is allowed of it as well. What a recipe may ask has a most; so has rounding: a
small share of the outputs themselves.
"""

# Axes: P = positions of all rows, C = outputs of a position

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from compiler.recipe import MOST_DROP, MOST_EXCUSED
from runtimes.bundles.manifest import Manifest
from runtimes.verification.gate import Findings, Scores, compare_each

MOST_NOISE = 0.01
"""Of the largest output, in float32. Healthy models are at 0.00003 and below; a recipe may ask for 12.5 times that."""
MOST_ROUNDED, MOST_BESIDE = 0.25, 1.0
"""Likewise of rounded weights, for a row alone (an eighth of what rounding moved: that is 2 at most) and beside others:
there, what is wider takes any answer."""


def compare_allowed(manifest: Manifest, source_PC: Scores, units: Sequence[float]) -> Findings:
    """What is allowed of outputs, decisions and metrics. Where it is not too much it is told, as the bundle's word."""
    asked = [*_asked(manifest, _largest(source_PC, units))]
    faults = [f"{what} {value:.2g}, {most:.2g} is the most" for what, value, most in asked if not 0 <= value <= most]
    told = ", ".join(f"{what} {value:.2g}" for what, value, _ in asked)
    return replace(compare_each(faults, len(asked), name="allowed"), note=f"by the bundle's word: {told}")


def _asked(manifest: Manifest, largest: float) -> Iterator[tuple[str, float, float]]:
    """What may differ, by how much, and by how much at most."""
    exact = manifest.precision == "fp32"
    yield "outputs by", manifest.tolerance, largest * (MOST_NOISE if exact else MOST_ROUNDED)
    yield "beside other rows by", manifest.batch_tolerance, largest * (MOST_NOISE if exact else MOST_BESIDE)
    yield "near ties' share", manifest.max_excused, MOST_EXCUSED
    yield "metrics by", manifest.max_metric_drop, 0.0 if exact else MOST_DROP


def _largest(source_PC: Scores, units: Sequence[float]) -> float:
    return float(np.max(np.abs(source_PC) / np.asarray(units), initial=0.0))
