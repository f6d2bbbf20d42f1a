"""How far an export may differ from its source: a multiple of the source's own rounding noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOISE_FACTOR = 8.0
FLOOR_ULPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The rounding noise of a model: what float32 itself makes of its outputs."""

    max_abs: float
    """Largest |float32 - float64| of any output, in its unit."""
    scale: float
    """Largest |output|, in float64 and its unit."""
    rows: int


def tolerance(noise: Noise, factor: float = NOISE_FACTOR) -> float:
    """The largest |difference| that a faithful export shows: `factor` times the noise, at least 32 ulp of the scale.

    The floor is for models so small that their float32 and float64 outputs agree by luck.
    """
    return max(factor * noise.max_abs, FLOOR_ULPS * float(np.spacing(np.float32(noise.scale))))
