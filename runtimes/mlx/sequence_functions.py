"""An encoder-decoder as a function for MLX: some traces read sources, the others write; one file has the weights once.

The decoder sees of a source its keys and values in each layer, which are computed once. Of what it writes it keeps no
cache: that would be longer with each token, and MLX has a trace for no length but those of the grid. So each step
computes all tokens so far anew.
"""

# B = rows, T = tokens of the source, S = tokens written, V = vocabulary

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from runtimes.export.functions import ROWS, TOKENS, WRITTEN, portions
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import right_padded
from runtimes.generation.virtual import behind_virtual
from runtimes.mlx.functions import FunctionSession, call, given_arrays, length_of, open_function

MASK, IDS = "attention_mask", "decoder_input_ids"
Arrays = dict[str, mx.array]


@dataclass(frozen=True, slots=True)
class Read:
    """The mask of sources, what the decoder sees of them, by its arguments' names, and the tokens written so far."""

    mask: Ids  # [B, T]
    source: Arrays  # [B, H, T, D] each
    written: Ids  # [B, S]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFunction:
    """An open function that reads and writes."""

    session: FunctionSession
    start_id: int
    max_positions: int | None
    encodes = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is given."""
        return self.session.inputs

    @property
    def sessions(self) -> tuple[FunctionSession, ...]:
        """The open functions."""
        return (self.session,)

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Read]:
        """The logits [B, V] of the first token of each answer, and what the steps read."""
        mask, source = self._read(*right_padded(ids_BT, mask_BT))
        first_B1 = np.full((len(ids_BT), 1), self.start_id, np.int64)
        return self.step(first_B1, mask_BT, Read(mask, source, first_B1[:, :0]))

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Read) -> tuple[Floats, Read]:
        """The logits [B, V] of one token more for each row."""
        written = Read(cache.mask, cache.source, np.concatenate([cache.written, ids_B1], axis=1))
        return self._logits(written)[:, -1], written

    def reorder(self, cache: Read, rows: Ids) -> Read:
        """These rows of what was read and written."""
        places = mx.array(rows)
        source = {name: values[places] for name, values in cache.source.items()}
        return Read(cache.mask[rows], source, cache.written[rows])

    def outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The logits [B, S, V] of a padded batch, each after the tokens that should have been written before it."""
        mask, source = self._read(inputs["input_ids"], inputs[MASK])
        return self._logits(Read(mask, source, inputs[IDS]))

    def _read(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Ids, Arrays]:
        """The mask of sources, as long as the trace that read them, and what the decoder sees of them."""
        length = length_of(self.session, self.session.described.shapes.lengths, ids_BT.shape[1])
        given, parts = {"input_ids": ids_BT, MASK: mask_BT}, list[tuple[mx.array, ...]]()
        for rows, size in self._portions(len(ids_BT)):
            own = {name: values[rows] for name, values in given.items()}
            results = call(self.session, given_arrays(self.session.described, own, {ROWS: size, TOKENS: length}))
            parts.append(tuple(result[: len(own[MASK])] for result in results))
        names = self.session.described.results
        source = {name: mx.concatenate([*each]) for name, each in zip(names, zip(*parts, strict=True), strict=True)}
        mask = np.pad(mask_BT, ((0, 0), (0, length - mask_BT.shape[1])))
        return behind_virtual(mask, source[names[0]].shape[2]), source

    def _logits(self, cache: Read) -> npt.NDArray[np.float32]:
        """The logits [B, S, V] at all tokens that were written."""
        num_tokens = cache.written.shape[1]
        length = length_of(self.session, self.session.described.shapes.written, num_tokens)
        found = []
        for rows, size in self._portions(len(cache.written)):
            own, filled = cache.written[rows], _filled(rows, size)
            given = given_arrays(self.session.described, {IDS: own}, {ROWS: size, WRITTEN: length})
            source = {name: values[mx.array(filled)] for name, values in cache.source.items()}
            [logits] = call(self.session, {**given, MASK: mx.array(cache.mask[filled]), **source})
            found.append(np.array(logits[: len(own), :num_tokens]))
        return np.concatenate(found)

    def _portions(self, num_rows: int) -> Iterator[tuple[slice, int]]:
        """Rows, and the size of the trace that takes them."""
        start = 0
        for taken, size in portions(num_rows, self.session.described.shapes.batch_sizes):
            yield slice(start, start + taken), size
            start += taken


def _filled(rows: slice, size: int) -> Ids:
    """The numbers of rows, the first one again until there are as many as a trace has."""
    return np.array([*range(rows.start, rows.stop), *[rows.start] * (size - (rows.stop - rows.start))])


def sequence_function(file: Path, *, start_id: int, max_positions: int | None = None) -> SequenceFunction:
    """The encoder-decoder in a file. Raises RunError E604.

    `start_id`: the token that the decoder reads first. `max_positions`: tokens that the model can write.
    """
    session = open_function(file)
    longest = session.described.shapes.written[-1]
    most = longest if max_positions is None else min(longest, max_positions)
    return SequenceFunction(session=session, start_id=start_id, max_positions=most)
