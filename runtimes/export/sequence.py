"""Encoder-decoders by onnxruntime: a graph that reads and a graph that writes; numpy and nothing else."""

# Axes: B = rows, T = tokens of the source, S = tokens of the target, V = vocabulary, H = heads, D = size of a head

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.decoded import Floats, Ids
from runtimes.decoding import right_padded
from runtimes.export.decoding import ort_value
from runtimes.export.facts import graph_names
from runtimes.export.session import Session, failure, open_session
from runtimes.virtual import behind_virtual

_PAST, _PRESENT, _OWN = "past_key_values.", "present.", ".decoder."


@dataclass(frozen=True, slots=True)
class Encoded:
    """The mask of sources, and keys and values by the names of the inputs: of the sources, and of what is written."""

    mask: Ids
    cache: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSequenceDecoder:
    """Two open graphs."""

    encoder: Session
    decoder: Session
    sizes: Mapping[str, tuple[int, int]]
    """Of each input of the decoder's own cache: H and D."""
    start_id: int
    max_positions: int | None
    encodes = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the two are given."""
        return (*self.encoder.inputs, "decoder_input_ids")

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Encoded]:
        """The logits [B, V] of the first token of each answer, and what the steps read."""
        encoded = self._encode(*right_padded(ids_BT, mask_BT))
        first_B1 = np.full((len(ids_BT), 1), self.start_id, np.int64)
        return self.step(first_B1, mask_BT, encoded)

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Encoded) -> tuple[Floats, Encoded]:
        """The logits [B, V] of one token more for each row."""
        names = ["logits", *(name.replace(_PAST, _PRESENT) for name in self.sizes)]
        outputs = self._decode(ids_B1, cache, names)
        logits_BSV: Floats = outputs.pop("logits").numpy()
        own = {name.replace(_PRESENT, _PAST): value for name, value in outputs.items()}
        return logits_BSV[:, -1], Encoded(cache.mask, {**cache.cache, **own})

    def reorder(self, cache: Encoded, rows: Ids) -> Encoded:
        """The caches of these rows of them."""
        kept = {name: ort_value(value.numpy()[rows]) for name, value in cache.cache.items()}
        return Encoded(cache.mask[rows], kept)

    def outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The logits [B, S, V] of a padded batch, each after the tokens that should have been written before it."""
        encoded = self._encode(inputs["input_ids"], inputs["attention_mask"])
        found = self._decode(inputs["decoder_input_ids"], encoded, ["logits"])["logits"]
        return np.asarray(found.numpy(), np.float32)

    def _encode(self, ids_BT: Ids, mask_BT: Ids) -> Encoded:
        given = {"input_ids": ids_BT, "attention_mask": mask_BT}
        names = [output.name for output in self.encoder.inner.get_outputs()]
        taken = {name: ort_value(value) for name, value in given.items() if name in self.encoder.inputs}
        kept = self.encoder.values(names, taken)
        source = {name.replace(_PRESENT, _PAST): value for name, value in kept.items()}
        empty = {
            name: ort_value(np.zeros((len(ids_BT), num_heads, 0, size), np.float32))
            for name, (num_heads, size) in self.sizes.items()
        }
        num_tokens = next(iter(source.values())).shape()[2]
        return Encoded(behind_virtual(mask_BT, num_tokens), {**source, **empty})

    def _decode(self, ids: Ids, encoded: Encoded, names: list[str]) -> dict[str, Any]:
        tokens = {"input_ids": ids, "encoder_attention_mask": encoded.mask}
        given = {name: ort_value(value) for name, value in tokens.items()} | dict(encoded.cache)
        return self.decoder.values(names, {name: value for name, value in given.items() if name in self.decoder.inputs})


def onnx_sequence_decoder(
    folder: Path, *, start_id: int, precision: str = "fp32", threads: int = 0, max_positions: int | None = None
) -> OnnxSequenceDecoder:
    """The decoder of the two graphs in a folder, on the CPU; `threads` 0: one for each core. Raises RunError.

    `start_id`: the token that the decoder reads first. `max_positions`: tokens that it can write.
    """
    files = [folder / name for name in graph_names(encodes=True, precision=precision)]
    encoder, decoder = (open_session(file, threads=threads, results=()) for file in files)
    shapes = {value.name: value.shape for value in decoder.inner.get_inputs() if value.name.startswith(_PAST)}
    sizes = {name: (int(shape[1]), int(shape[3])) for name, shape in shapes.items() if _OWN in name}
    if not sizes:
        raise failure(files[-1], f"keeps no cache: it has no inputs {_PAST}*{_OWN}*")
    return OnnxSequenceDecoder(
        encoder=encoder, decoder=decoder, sizes=sizes, start_id=start_id, max_positions=max_positions
    )
