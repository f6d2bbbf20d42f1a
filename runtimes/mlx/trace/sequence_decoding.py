"""The graphs of an encoder-decoder that writes: one makes of sources what the decoder sees, the other goes on."""

# Axes: B = rows, T = tokens of the source, P = cached tokens, S = new tokens, H = heads, D = size of a head

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from compiler.weights import Tensor as Stored
from runtimes.errors import RunError
from runtimes.mlx.graph import Graph, Input
from runtimes.mlx.trace.fakes import faked, weightless
from runtimes.mlx.trace.training import build, flat, graph_of
from runtimes.pytorch.cached import CacheError
from runtimes.pytorch.decoding import max_positions
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.sequence_cached import SequenceSizes, continued, sequence_sizes, source_cache
from runtimes.pytorch.sequence_decoding import SEQUENCE_TO_SEQUENCE, start_of
from runtimes.pytorch.virtual import called_as_inner, configuration_of
from runtimes.tasks import Head

HEAD = Head(auto_class=SEQUENCE_TO_SEQUENCE, peft_task="SEQ_2_SEQ_LM", config={}, num_outputs=0, encodes=True)
SOURCE = Input(dtype="int64", axes=("batch", "source"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedSequenceDecoder:
    """The graphs of an encoder-decoder, and what is known of its model.

    `encoder`: from input_ids and attention_mask [B, T] to source_key_i and source_value_i [B, H, T, D] of each layer.
    `decoder`: from these, the attention_mask, new input_ids [B, S], and key_i and value_i [B, H, P, D], to logits
    [B, V] of the last token, and key_i and value_i [B, H, P + S, D].
    """

    encoder: Graph
    decoder: Graph
    names: Mapping[str, str]  # from the files' names to the model's
    layers: tuple[SequenceSizes, ...]
    start_id: int
    max_positions: int | None


def trace_sequence_decoder(
    folder: Path, stored: Mapping[str, Stored], adapter: Path | None = None
) -> TracedSequenceDecoder:
    """The graphs of a saved encoder-decoder, with an adapter on it where there is one.

    `stored`: the tensors of the model's files. Raises RunError E406 when the model can't be built, E408 when it can't
    be traced.
    """
    model, inner, reader, names = _built(folder, stored, adapter)
    layers = _layers(model, inner)
    source = {"input_ids": SOURCE, "attention_mask": SOURCE}
    encoder = flat(model, source, lambda given: _read(reader, given))
    written = _inputs(layers)
    decoder = flat(model, written, lambda given: _written(inner, given, len(layers)))
    return TracedSequenceDecoder(
        encoder=graph_of(encoder, source, "inner"),
        decoder=graph_of(decoder, written, "inner"),
        names=names,
        layers=layers,
        start_id=start_of(inner),
        max_positions=max_positions(inner.config),
    )


def trace_whole(folder: Path, stored: Mapping[str, Stored], adapter: Path | None = None) -> TracedSequenceDecoder:
    """As trace_sequence_decoder, but the decoder keeps no cache of its own.

    From all decoder_input_ids [B, S] of each row, and what it sees of the sources, to logits [B, S, V].
    """
    model, inner, reader, names = _built(folder, stored, adapter)
    layers = _layers(model, inner)
    source = {"input_ids": SOURCE, "attention_mask": SOURCE}
    encoder = flat(model, source, lambda given: _read(reader, given))
    kept = {name: own for name, own in _inputs(layers).items() if name.startswith("source_")}
    seen = {"decoder_input_ids": Input(dtype="int64", axes=("batch", "labels")), "attention_mask": SOURCE, **kept}

    def call(given: dict[str, Tensor]) -> dict[str, Tensor]:
        found = continued(inner, given["decoder_input_ids"], given["attention_mask"], ((), ()), _source(given, layers))
        return {"logits": found.logits.to(torch.float32)}

    return TracedSequenceDecoder(
        encoder=graph_of(encoder, source, "inner"),
        decoder=graph_of(flat(model, seen, call), seen, "inner"),
        names=names,
        layers=layers,
        start_id=start_of(inner),
        max_positions=max_positions(inner.config),
    )


def _built(
    folder: Path, stored: Mapping[str, Stored], adapter: Path | None
) -> tuple[nn.Module, Any, Any, Mapping[str, str]]:
    """The model without weights, with the adapter on it; the one inside it; what reads sources; the files' names."""
    with weightless(), quiet():
        loaded, names = build(folder, HEAD, stored)
        model: nn.Module = loaded.model
        if adapter is not None:
            import peft

            model = peft.get_peft_model(loaded.model, peft.PeftConfig.from_pretrained(str(adapter)))
    model.eval()
    inner: Any = loaded.model  # the adapter's modules are inside it
    reader: Any = called_as_inner(model) if isinstance(model, PeftModel) and configuration_of(model) else inner
    return model, inner, reader, names


def _source(given: Mapping[str, Tensor], layers: tuple[SequenceSizes, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of the sources in each layer."""
    keys, values = ([given[f"source_{name}_{at}"] for at in range(len(layers))] for name in ("key", "value"))
    return keys, values


def _layers(model: nn.Module, inner: Any) -> tuple[SequenceSizes, ...]:
    try:
        with quiet(), faked(model) as mode, mode:
            return sequence_sizes(inner)
    except CacheError as error:
        raise RunError("E408", f"the model does not trace: {error}", "run it on PyTorch: --runtime pytorch") from error


def _inputs(layers: tuple[SequenceSizes, ...]) -> dict[str, Input]:
    kept: dict[str, Input] = {}
    for at, layer in enumerate(layers):
        for prefix, sizes, axis in (("", layer.own, "past"), ("source_", layer.source, "source")):
            for name, (num_heads, size) in (("key", sizes.key), ("value", sizes.value)):
                kept[f"{prefix}{name}_{at}"] = Input(dtype="float32", axes=("batch", num_heads, axis, size))
    return {"input_ids": Input(dtype="int64", axes=("batch", "tokens")), "attention_mask": SOURCE, **kept}


def _read(model: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys, values = source_cache(model, given["input_ids"], given["attention_mask"])
    return {
        **{f"source_key_{at}": key for at, key in enumerate(keys)},
        **{f"source_value_{at}": value for at, value in enumerate(values)},
    }


def _written(model: Any, given: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    def kept(prefix: str) -> tuple[list[Tensor], list[Tensor]]:
        keys, values = ([given[f"{prefix}{name}_{at}"] for at in range(num_layers)] for name in ("key", "value"))
        return keys, values

    found = continued(model, given["input_ids"], given["attention_mask"], kept(""), kept("source_"))
    return {
        "logits": found.logits[:, -1].to(torch.float32),
        **{f"key_{at}": key for at, key in enumerate(found.keys)},
        **{f"value_{at}": value for at, value in enumerate(found.values)},
    }
