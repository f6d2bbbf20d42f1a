"""Encoder-decoders by onnxruntime: a graph that reads and a graph that writes; numpy and nothing else."""

# Axes: B = rows, T = tokens of the source, S = tokens of the target, V = vocabulary, H = heads, D = size of a head

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.export.facts import PAST, PRESENT, Provider, graph_names
from runtimes.export.session import Session, failure, open_session, ort_value
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import right_padded

_OWN, _HIDDEN = ".decoder.", "last_hidden_state"


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a step reads, by the names of the inputs that are not its tokens.

    The mask of sources and what the encoder made of them; keys and values of the sources, none before the first step,
    and of what is written.
    """

    given: Mapping[str, Any]

    def after(self, outputs: Mapping[str, Any]) -> Encoded:
        """What the next step reads: what this one gave for it, by the names of its outputs."""
        kept = {name.replace(PRESENT, PAST): value for name, value in outputs.items()}
        return Encoded({**self.given, **kept, **_flag(True)})


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSequenceDecoder:
    """Two open graphs."""

    encoder: Session
    decoder: Session
    sizes: Mapping[str, tuple[int, int]]
    """Of each input of the decoder's caches: H and D."""
    start_id: int
    max_positions: int | None
    encodes = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the two are given."""
        return (*self.encoder.inputs, "decoder_input_ids")

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The open graphs."""
        return (self.encoder, self.decoder)

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Encoded]:
        """The logits [B, V] of the first token of each answer, and what the steps read."""
        first_B1 = np.full((len(ids_BT), 1), self.start_id, np.int64)
        return self._step(first_B1, self._encode(*right_padded(ids_BT, mask_BT)), [*self.sizes])

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Encoded) -> tuple[Floats, Encoded]:
        """The logits [B, V] of one token more for each row."""
        return self._step(ids_B1, cache, [name for name in self.sizes if _OWN in name])

    def reorder(self, cache: Encoded, rows: Ids) -> Encoded:
        """The caches of these rows of them."""
        flag = _flag(True)
        return Encoded(
            flag | {name: ort_value(value.numpy()[rows]) for name, value in cache.given.items() if name not in flag}
        )

    def outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The logits [B, S, V] of a padded batch, each after the tokens that should have been written before it."""
        encoded = self._encode(inputs["input_ids"], inputs["attention_mask"])
        found = self._decode(inputs["decoder_input_ids"], encoded, ["logits"])["logits"]
        return np.asarray(found.numpy(), np.float32)

    def _encode(self, ids_BT: Ids, mask_BT: Ids) -> Encoded:
        given = {name: ort_value(value) for name, value in {"input_ids": ids_BT, "attention_mask": mask_BT}.items()}
        taken = {name: value for name, value in given.items() if name in self.encoder.inputs}
        hidden = self.encoder.values([_HIDDEN], taken)[_HIDDEN]
        empty = {
            name: ort_value(np.zeros((len(ids_BT), num_heads, 0, size), np.float32))
            for name, (num_heads, size) in self.sizes.items()
        }
        source = {"encoder_attention_mask": given["attention_mask"], "encoder_hidden_states": hidden}
        return Encoded({**source, **empty, **_flag(False)})

    def _step(self, ids: Ids, cache: Encoded, kept: Sequence[str]) -> tuple[Floats, Encoded]:
        """`kept`: the caches that the step makes longer."""
        outputs = self._decode(ids, cache, ["logits", *(name.replace(PAST, PRESENT) for name in kept)])
        logits_BSV: Floats = outputs.pop("logits").numpy()
        return logits_BSV[:, -1], cache.after(outputs)

    def _decode(self, ids: Ids, encoded: Encoded, names: list[str]) -> dict[str, Any]:
        given = {"input_ids": ort_value(ids), **encoded.given}
        return self.decoder.values(names, {name: value for name, value in given.items() if name in self.decoder.inputs})


def _flag(cached: bool) -> dict[str, Any]:
    """The input that says whether keys and values of the sources are given."""
    return {"use_cache_branch": ort_value(np.array([cached]))}


def onnx_sequence_decoder(
    folder: Path,
    *,
    start_id: int,
    precision: str = "fp32",
    threads: int = 0,
    max_positions: int | None = None,
    provider: Provider = "cpu",
) -> OnnxSequenceDecoder:
    """The decoder of the two graphs in a folder; `threads` 0: one for each core. Raises RunError.

    `start_id`: the token that the decoder reads first. `max_positions`: tokens that it can write.
    """
    files = [folder / name for name in graph_names(encodes=True, precision=precision)]
    encoder, decoder = (open_session(file, threads=threads, results=(), provider=provider) for file in files)
    shapes = {value.name: value.shape for value in decoder.inner.get_inputs() if value.name.startswith(PAST)}
    sizes = {name: (int(shape[1]), int(shape[3])) for name, shape in shapes.items()}
    if not any(_OWN in name for name in sizes):
        raise failure(files[-1], f"keeps no cache: it has no inputs {PAST}*{_OWN}*")
    return OnnxSequenceDecoder(
        encoder=encoder, decoder=decoder, sizes=sizes, start_id=start_id, max_positions=max_positions
    )
