"""Generation by onnxruntime: numpy and the deployed graph, nothing else."""

# Axes: B = rows, T = tokens of the prompt, S = tokens so far, V = vocabulary, H = heads of keys, D = size of a head

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runtimes.export.facts import PAST, PRESENT, Provider, virtual_file
from runtimes.export.grouped import OPERATOR, GroupedDecoder
from runtimes.export.operators import operators
from runtimes.export.session import Session, failure, open_session, ort_value
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import positions
from runtimes.generation.virtual import VirtualCache, read_virtual
from runtimes.protocol import Batch
from runtimes.rows.readings import read_outputs
from runtimes.tasks.interface import Reading
from runtimes.verification.gate import ScoreFunction

Cache = Mapping[str, Any]
"""The session's own arrays of keys and values [B, H, S, D], by the names of the inputs; never copied between steps."""
_DTYPES: Mapping[str, type[np.floating]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxDecoder:
    """An open graph with a cache."""

    session: Session
    sizes: Mapping[str, tuple[int, int]]
    """Of each input of the cache: H and D."""
    dtype: type[np.floating]
    """Of the cache."""
    max_positions: int | None
    before: VirtualCache
    """What stands before each row."""
    encodes = False

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The open graphs: one."""
        return (self.session,)

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Cache]:
        """The logits [B, V] of the last position of prompts, and the cache."""
        return self.step(ids_BT, mask_BT, self._empty(len(ids_BT)))

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Cache) -> tuple[Floats, Cache]:
        """The logits [B, V] of one token more for each row."""
        outputs = self._run(ids_B1, mask_BS, cache)
        logits_BSV: Floats = outputs.pop("logits").numpy()
        return logits_BSV[:, -1], {name.replace(PRESENT, PAST): value for name, value in outputs.items()}

    def reorder(self, cache: Cache, rows: Ids) -> Cache:
        """The cache of these rows of it."""
        return {name: ort_value(value.numpy()[rows]) for name, value in cache.items()}

    def logits(self, ids_BT: Ids, mask_BT: Ids) -> Floats:
        """The logits [B, T, V] at every position of rows, padded on any side; nothing is cached before them."""
        found: Floats = self._run(ids_BT, mask_BT, self._empty(len(ids_BT)), ["logits"])["logits"].numpy()
        return found

    def outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Floats:
        """The logits [B, T, V] of a padded batch."""
        return self.logits(inputs["input_ids"], inputs["attention_mask"])

    def _empty(self, num_rows: int) -> Cache:
        """The cache before the first token of each row."""
        if self.before.layers:
            arrays = (array for layer in self.before.of_rows(num_rows) for array in layer)
            return {name: ort_value(array.astype(self.dtype)) for name, array in zip(self.sizes, arrays, strict=True)}
        return {
            name: ort_value(np.zeros((num_rows, num_heads, 0, size), self.dtype))
            for name, (num_heads, size) in self.sizes.items()
        }

    def _run(self, ids: Ids, mask: Ids, cache: Cache, wanted: list[str] | None = None) -> dict[str, Any]:
        """The outputs by name: all, or those that are wanted."""
        mask = self.before.seen(mask)
        tokens = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask, ids.shape[1])}
        given = {name: ort_value(value) for name, value in tokens.items() if name in self.session.inputs} | dict(cache)
        names = wanted or ["logits", *(name.replace(PAST, PRESENT) for name in self.sizes)]
        return self.session.values(names, given)


CachedDecoder = OnnxDecoder | GroupedDecoder
"""What runs a graph of a decoder, as its attention asks."""


def onnx_decoder(
    onnx_file: Path,
    *,
    threads: int = 0,
    max_positions: int | None = None,
    adapter: Path | None = None,
    provider: Provider = "cpu",
) -> CachedDecoder:
    """The decoder of a graph; `threads` 0: one for each core. Raises RunError.

    `max_positions`: tokens that a row may have, which config.json knows and the graph does not. `adapter`: a file that
    is activated in it.
    """
    session = open_session(onnx_file, threads=threads, adapter=adapter, provider=provider)
    cached = {value.name: value for value in session.inner.get_inputs() if value.name.startswith(PAST)}
    if not cached:
        raise failure(onnx_file, f"keeps no cache: it has no inputs {PAST}*")
    try:
        sizes = {name: (int(value.shape[1]), int(value.shape[3])) for name, value in cached.items()}
        dtype = _DTYPES[next(iter(cached.values())).type]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise failure(onnx_file, f"does not say what its cache is: {error}") from error
    if OPERATOR in operators(onnx_file):
        return GroupedDecoder(session=session, sizes=sizes, dtype=dtype, max_positions=max_positions)
    try:
        pairs = [*sizes.values()]
        before = read_virtual(virtual_file(onnx_file), [*zip(pairs[::2], pairs[1::2], strict=True)])
    except (OSError, ValueError) as error:
        raise failure(onnx_file, f"can't begin: {error}") from error
    return OnnxDecoder(
        session=session, sizes=sizes, dtype=dtype, max_positions=before.left(max_positions), before=before
    )


class Answering(Protocol):
    """What gives logits for the rows of a batch."""

    def outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The logits of a padded batch."""
        ...


def decoder_scores(decoder: Answering, reading: Reading) -> ScoreFunction:
    """The outputs of batches by a graph with a cache, which is empty."""

    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        return read_outputs(reading, decoder.outputs(batch.inputs), batch.targets)

    return scores
