"""Which rows of a failed edge are followed through the layers, and what is found: after the gate's comparisons."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from compiler.files import write_json
from runtimes.errors import Interrupted, RunError
from runtimes.export import Stage
from runtimes.generation.answers import Written
from runtimes.localisation.finding import BISECT, Localised
from runtimes.protocol import Batch
from runtimes.rows.batches import collate
from runtimes.saved import SavedModel
from runtimes.tasks.interface import Head
from runtimes.verification.comparison import Rows, mixed_order
from runtimes.verification.gate import Check, Decisions, Outputs, Verification

MODULE = "runtimes.pytorch.localise"


class LocaliseGraphs(Protocol):
    """What follows graphs of ONNX, by their files, through the model that they were made from."""

    def __call__(
        self,
        saved: SavedModel,
        head: Head,
        graphs: Sequence[Path],
        batch: Batch,
        results: Mapping[str, str] | None = None,
    ) -> Localised: ...


def localiser() -> LocaliseGraphs:
    """What follows graphs of ONNX through their source. Raises RunError E402 without its packages."""
    try:
        return cast(LocaliseGraphs, importlib.import_module(MODULE).localise_graphs)
    except ImportError as error:
        message = f"layers are compared by torch, transformers, onnx and onnxruntime: {error}"
        raise RunError("E402", message, 'install them: pip install "recipec[torch,onnx]"') from error


def localise_failure(
    verification: Verification, stages: Sequence[Stage], rows: Rows, written: Sequence[Written], batch_size: int
) -> Localised | None:
    """Where the first edge that failed leaves the noise; None where all passed, or its stage can't be followed.

    It raises no RunError but Interrupted: the gate has failed already, and what can't be followed must not hide that.
    """
    edge = next((edge for edge, _ in verification.failures()), None)
    pairs = ((one, other) for one, other in pairwise(stages) if edge is not None and other.name == edge.target)
    before, stage = next(pairs, (None, None))
    if edge is None or before is None or stage is None or stage.localise is None:
        return None
    localise, files = stage.localise, before.files
    try:
        return first_found(
            lambda batch: localise(batch, files), failing_batches(edge.checks, rows, written, batch_size)
        )
    except Interrupted as error:
        message = f"{error.message}; its gate has failed at {verification.first_failure}"
        raise Interrupted(error.code, message, error.hint) from error
    except RunError as error:
        return _not_followed(edge.checks, error)


def first_found(localise: Callable[[Batch], Localised], batches: Iterator[Batch]) -> Localised:
    """What is found on the first of some batches that shows something; else on the last of them. One at least."""
    found = localise(next(batches))
    for batch in batches:
        if found.found:
            return found
        found = localise(batch)
    return found


def _not_followed(checks: Sequence[Check], error: RunError) -> Localised:
    """That layers could not be compared, and why."""
    row = row_of([check for check in checks if not check.passed])
    return Localised(
        rows=() if row is None else (row,),
        note=error.message,
        followed=False,
    )


def write_localised(folder: Path, found: Localised) -> None:
    """Writes bisect.json, every layer in it."""
    write_json(folder / BISECT, found.to_json())


def failing_batches(
    checks: Sequence[Check], rows: Rows, written: Sequence[Written], batch_size: int
) -> Iterator[Batch]:
    """The row of the first check that failed by itself, then in the padded batch that it was compared in.

    Where none names a row it is the longest golden one. Where only what was written differs, that row alone.
    """
    failed = [check for check in checks if not check.passed]
    row = row_of(failed)
    forced = [each for each in written if each.row == row]
    if forced and all(check.name.startswith("written") for check in failed):
        yield written_batch(forced[0])
        return
    places = np.flatnonzero(rows.all_numbers == row)
    longest = rows.golden[int(rows.table.lengths[rows.golden].argmax())]
    place = int(places[0]) if places.size else int(longest)
    yield batch_of(rows, np.array([place]))
    among = rows.places if place < len(rows.numbers) else rows.probe_places
    order = among[mixed_order(len(among))]
    start = int(np.flatnonzero(order == place)[0]) // batch_size * batch_size
    if len(order[start : start + batch_size]) > 1:
        yield batch_of(rows, order[start : start + batch_size])


def row_of(checks: Sequence[Check]) -> int | None:
    """The number of a row that failed, the first that is named."""
    for check in checks:
        if isinstance(check, Outputs) and check.row is not None:
            return check.row
        if isinstance(check, Decisions) and check.disagreeing:
            return check.disagreeing[0]
    return None


def batch_of(rows: Rows, places: np.ndarray) -> Batch:
    """Some rows of the table as a batch, numbered as the split numbers them."""
    return replace(collate(rows.table, places), rows=rows.all_numbers[places])


def written_batch(written: Written) -> Batch:
    """A prompt with what was written after it, as one row."""
    ids = np.array([[*written.prompt, *written.ids]], np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return Batch(
        inputs=inputs,
        targets=ids,
        weights=np.ones(ids.shape, np.float32),
        positions=np.ones(ids.shape, bool),
        rows=np.array([written.row]),
    )
