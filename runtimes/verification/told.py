"""What a manifest says of its graph and of rows that do not travel, as far as the graph and the golden rows show it.

The held-out rows are not in a bundle: of their metrics only the names can be held to anything, unless their owner
gives them. Of what was answered on them, held_out.npy, the golden rows are a part.
"""

# Axes: P = positions of all rows (one a row, or one for each token), C = outputs of a position

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from runtimes.bundles.bundle import Bundle
from runtimes.bundles.golden import Golden
from runtimes.bundles.manifest import Manifest
from runtimes.rows.features import Ragged
from runtimes.verification.gate import Findings, compare_each

Floats = npt.NDArray[np.float32]


def compare_inputs(bundle: Bundle) -> Findings:
    """What the graphs are given, as they say themselves. Raises RunError where they do not load."""
    own, told = bundle.graph_inputs, bundle.manifest.inputs
    faults = [
        *(f"{name} is not told of" for name in own if name not in told),
        *(f"{name} is none" for name in told if name not in own),
    ]
    return compare_each(faults, len(own), name="inputs")


def misnamed_metrics(manifest: Manifest, measured: Collection[str]) -> Iterator[str]:
    """Figures that are told and can't be those of the manifest's metrics: `measured` are, over the golden rows."""
    yield from sorted(manifest.golden.metrics.keys() - {*measured})
    for what, figures in (("held-out rows", manifest.held_out.metrics), ("export", manifest.exported)):
        yield from (f"{name} of the {what}" for name in sorted({*measured} - figures.keys()))


def compare_held_out(bundle: Bundle, golden: Sequence[Golden], source: Ragged) -> Findings:
    """Whether held_out.npy has an answer for each held-out row where rows have one, and all the golden ones.

    `source`: the golden answers, each row computed alone. Raises RunError E601 for a file of another shape.
    """
    found_PC, rows = bundle.held_out(), bundle.manifest.held_out.rows
    single = bool((source.lengths == 1).all())
    faults = [f"{len(found_PC)} rows of {rows}"] if single and len(found_PC) != rows else []
    real = [number for number, row in enumerate(golden) if row.real and len(source.row(number))]
    allowed_C = np.broadcast_to(bundle.manifest.batch_tolerance * np.asarray(bundle.head.units), found_PC.shape[1:])
    order = np.argsort(found_PC[:, 0], kind="stable")
    lacking = (number for number in real if not _among(source.row(number), found_PC, order, allowed_C))
    faults += [f"golden row {number} is not in it" for number in lacking]
    return compare_each(faults, len(real), name="held_out")


def _among(row_PC: Floats, all_PC: Floats, order: npt.NDArray[np.int64], allowed_C: npt.NDArray[np.float64]) -> bool:
    """Whether a row's outputs are among others, one after another. `order`: of those by their first output."""
    first, wide = float(row_PC[0, 0]), float(allowed_C[0])
    low = np.searchsorted(all_PC[:, 0], first - wide, side="left", sorter=order)
    high = np.searchsorted(all_PC[:, 0], first + wide, side="right", sorter=order)
    return any(_alike(row_PC, all_PC[start : start + len(row_PC)], allowed_C) for start in order[low:high])


def _alike(one_PC: Floats, other_PC: Floats, allowed_C: npt.NDArray[np.float64]) -> bool:
    return one_PC.shape == other_PC.shape and bool((np.abs(one_PC.astype(np.float64) - other_PC) <= allowed_C).all())
