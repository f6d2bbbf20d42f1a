"""Generation by MLX with an encoder-decoder: a graph that reads, and one that writes, its caches going in and out."""

# Axes: B = rows, T = tokens of the source, V = vocabulary, H = heads, D = size of a head

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from runtimes.errors import RunError
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import right_padded
from runtimes.generation.virtual import behind_virtual
from runtimes.mlx.backend import ADAPTER, headers, require_lowered
from runtimes.mlx.devices import use_device
from runtimes.mlx.lower import Run, lower
from runtimes.mlx.quantization import Quantization, load_base, parts_of
from runtimes.mlx.trace.sequence_decoding import trace_sequence_decoder
from runtimes.mlx.weights import Weights, weight_files
from runtimes.pytorch.sequence_cached import SequenceSizes

Arrays = dict[str, mx.array]
_MASK = "attention_mask"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The mask of sources and what the decoder sees of them, and its own keys and values: by the names of the graph."""

    source: Arrays
    own: Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxSequenceDecoder:
    """Two graphs with the weights of a saved model."""

    read: Run
    write: Run
    reading: Weights
    writing: Weights
    layers: tuple[SequenceSizes, ...]
    start_id: int
    max_positions: int | None
    encodes = True

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Encoded]:
        """The logits [B, V] of the first token of each answer, and what the steps read."""
        ids_BT, mask_BT = right_padded(ids_BT, mask_BT)
        given = {"input_ids": mx.array(ids_BT), _MASK: mx.array(mask_BT)}
        source, _ = self.read(self.reading.parameters, self.reading.buffers, given, None)
        mask = mx.array(behind_virtual(mask_BT, source["source_key_0"].shape[2]))
        first_B1 = np.full((len(ids_BT), 1), self.start_id, np.int64)
        return self.step(first_B1, mask_BT, Encoded({_MASK: mask, **source}, self._empty(len(ids_BT))))

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Encoded) -> tuple[Floats, Encoded]:
        """The logits [B, V] of one token more for each row."""
        given = {"input_ids": mx.array(ids_B1), **cache.source, **cache.own}
        outputs, _ = self.write(self.writing.parameters, self.writing.buffers, given, None)
        logits = outputs.pop("logits")
        mx.eval(logits, outputs)
        return np.array(logits), Encoded(cache.source, outputs)

    def reorder(self, cache: Encoded, rows: Ids) -> Encoded:
        """The caches of these rows of them."""
        places = mx.array(rows)
        source, own = ({name: value[places] for name, value in arrays.items()} for arrays in (cache.source, cache.own))
        return Encoded(source, own)

    def _empty(self, num_rows: int) -> Arrays:
        """The decoder's own cache before the first token."""
        return {
            f"{name}_{at}": mx.zeros((num_rows, num_heads, 0, size))
            for at, layer in enumerate(self.layers)
            for name, (num_heads, size) in (("key", layer.own.key), ("value", layer.own.value))
        }


def mlx_sequence_decoder(
    folder: Path, *, device: str = "cpu", adapter: Path | None = None, held: Quantization | None = None
) -> MlxSequenceDecoder:
    """The decoder of a saved transformers model, or of an adapter on it; `held`: how the base's weights are held.

    Raises RunError for what can't be traced or lowered, and for weights that the files lack.
    """
    use_device(device)
    files = (*weight_files(folder), *(() if adapter is None else (adapter / ADAPTER,)))
    traced = trace_sequence_decoder(folder, headers(weight_files(folder)), adapter)
    require_lowered(traced.encoder, traced.decoder)
    graphs = (traced.encoder, traced.decoder)
    (reads, reading), (writes, writing) = (
        load_base(graph, files, traced.names, part) for graph, part in zip(graphs, parts_of(held, *graphs), strict=True)
    )
    if missing := [*reading.missing, *writing.missing]:
        raise RunError("E502", f"{folder}: the weights lack {', '.join(missing[:4])}", "run the training again")
    return MlxSequenceDecoder(
        read=lower(reads),
        write=lower(writes),
        reading=reading,
        writing=writing,
        layers=traced.layers,
        start_id=traced.start_id,
        max_positions=traced.max_positions,
    )
