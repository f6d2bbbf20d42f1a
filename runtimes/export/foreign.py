"""Graphs that anybody wrote: which of their inputs and outputs are which of ours, and the sizes that they take.

Inputs are told by name, in any order, of whole numbers of 32 or 64 bits, or fractions of 16 or 32; what a graph wants
beside a row's tokens is made (see feeds). A graph that was frozen to the size of its trace
is filled up to it, so that the gate can say what else is wrong with it.
"""

# Axes: B = rows, T = tokens

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.diagnostics import did_you_mean
from runtimes.errors import RunError
from runtimes.export.facts import PAST
from runtimes.export.feeds import BRANCH, Arrays, Input, feeds, first, for_writing, input_of, is_made
from runtimes.export.session import Session, open_session
from runtimes.tasks.interface import Head

TYPES: Mapping[str, str] = {
    "int64": "int64",
    "int32": "int32",
    "float": "float32",
    "float16": "float16",
    "bool": "bool",
}
_STATES = ("encoder_hidden_states", "encoder_attention_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignGraph:
    """An open graph; it gives the outputs of a padded batch, whatever its inputs look like."""

    session: Session
    inputs: tuple[Input, ...]
    pad_id: int
    cached: bool  # positions are counted along the mask, as decoders count them

    @property
    def results(self) -> tuple[str, ...]:
        """What it calls what the model answers."""
        return self.session.results

    @property
    def rows(self) -> int | None:
        """The number of rows that it is frozen to."""
        return next((size for each in self._tokens() if (size := each.fixed(0)) is not None), None)

    @property
    def length(self) -> int | None:
        """The number of tokens that it is frozen to."""
        return next((size for each in self._tokens() if (size := each.fixed(1)) is not None and _is_ids(each)), None)

    def _tokens(self) -> Iterator[Input]:
        return (each for each in self.inputs if not each.name.startswith((PAST, BRANCH)))

    def outputs(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """The outputs [B, ...] of a padded batch, several of them stacked along a last axis. Raises RunError E604."""
        if self.rows is None and self.length is None:
            return self._run(inputs)
        return self._in_frozen_size(inputs)

    def filled(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The first rows of a padded batch, filled up to the size of the trace where it is frozen."""
        return {name: self._filled(name, values[: self.rows]) for name, values in inputs.items()}

    def _in_frozen_size(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """As `outputs`, filled up to the size of the trace, and what was filled left out again."""
        total, width = first(inputs).shape[:2]
        portion, found = self.rows or total, []
        for start in range(0, total, portion):
            part = self.filled({name: values[start : start + portion] for name, values in inputs.items()})
            found.append(self._run(part)[: min(portion, total - start)])
        whole = np.concatenate(found)
        per_token = self.length is not None and whole.ndim > 2
        return whole[:, :width] if per_token else whole

    def _filled(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        short = (self.rows or len(values)) - len(values)
        values = np.concatenate([values, np.repeat(values[-1:], short, axis=0)])
        if self.length is None or values.ndim != 2:
            return values
        padding = self.pad_id if name.endswith("input_ids") else 0
        return np.pad(values, [(0, 0), (0, max(0, self.length - values.shape[1]))], constant_values=padding)

    def _run(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        return self.session.outputs(feeds(self.inputs, inputs, cached=self.cached))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPair:
    """Two open graphs of an encoder-decoder: one that reads, and one that writes."""

    encoder: ForeignGraph
    decoder: ForeignGraph
    rows = length = None

    @property
    def results(self) -> tuple[str, ...]:
        """What the graph that writes calls what the model answers."""
        return self.decoder.results

    def outputs(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """The logits [B, T, V] of a padded batch, each after the tokens that should have been written before it."""
        states = self.encoder.outputs(inputs)
        given = {**for_writing(inputs), "encoder_hidden_states": states}
        return self.decoder.outputs(given)


def open_foreign(
    files: Sequence[Path], head: Head, reads: Sequence[str], *, pad_id: int, output: str = "", threads: int = 0
) -> ForeignGraph | ForeignPair:
    """The graph in a file, or the encoder and the decoder in two.

    `reads`: what rows have, by name; `output`: that which is compared, where it has another name than the model's.
    Raises RunError E604 for a graph that does not load, E610 for one whose inputs or outputs are others.
    """
    if output and len(head.results) > 1:
        message = f"the task has the outputs {' and '.join(head.results)}, and one name was given"
        raise RunError("E610", message, "export the graph with these names, and name none")
    if len(files) == 1:
        results = (output,) if output else head.results
        return _opened(files[0], results, reads, pad_id=pad_id, cached=head.cached, threads=threads)
    encoder = _opened(files[0], ("last_hidden_state",), reads, pad_id=pad_id, cached=False, threads=threads)
    wants = ("input_ids", "decoder_input_ids", "attention_mask", "decoder_attention_mask", *_STATES)
    decoder = _opened(files[1], head.results, wants, pad_id=pad_id, cached=True, threads=threads)
    return ForeignPair(encoder=encoder, decoder=decoder)


def _opened(
    file: Path, results: tuple[str, ...], reads: Sequence[str], *, pad_id: int, cached: bool, threads: int
) -> ForeignGraph:
    session = open_session(file, threads=threads, results=())
    inputs = _inputs(file, session)
    for each in inputs:
        _check_input(file, each.name, inputs, reads)
    outputs = [value.name for value in session.inner.get_outputs()]
    session = replace(session, results=_results(file, results, outputs))
    return ForeignGraph(session=session, inputs=inputs, pad_id=pad_id, cached=cached)


def open_inputs(file: Path) -> tuple[Input, ...]:
    """The inputs of the graph in a file. Raises RunError E604 or E610."""
    return _inputs(file, open_session(file, results=()))


def _inputs(file: Path, session: Session) -> tuple[Input, ...]:
    return tuple(_input(file, value) for value in session.inner.get_inputs())


def _input(file: Path, value: Any) -> Input:
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    if kind not in TYPES:
        message = f"{file}: the input {value.name} is a {value.type}, which no row has"
        raise RunError("E610", message, "export it again, with whole numbers or fractions as inputs")
    return input_of(file, value.name, TYPES[kind], value.shape)


def _check_input(file: Path, name: str, inputs: Sequence[Input], reads: Sequence[str]) -> None:
    if name in reads or is_made(name):
        return
    found = ", ".join(each.name for each in inputs)
    message = f'{file}: nothing of a row is called "{name}"; the graph takes {found}, and rows have {", ".join(reads)}'
    raise RunError("E610", message, did_you_mean(name, reads, noun="give it one of these names when it is exported"))


def _results(file: Path, wanted: tuple[str, ...], outputs: Sequence[str]) -> tuple[str, ...]:
    """The outputs that are compared: those of the model's names, or the only one. Raises RunError E610."""
    if {*wanted} <= {*outputs}:
        return wanted
    others = [name for name in outputs if not name.startswith(("present", "past"))]
    if len(wanted) == len(others) == 1:
        return tuple(others)
    lacking = next(name for name in wanted if name not in outputs)
    hint = did_you_mean(lacking, others, noun="name one with --output")
    raise RunError("E610", f"{file}: the graph has no output {lacking}; it gives {', '.join(others)}", hint)


def _is_ids(each: Input) -> bool:
    return len(each.shape) == 2 and each.dtype.startswith("int")
