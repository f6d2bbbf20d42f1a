"""The ONNX writer for encoder-decoders: `encoder_model.onnx` runs once a source, `decoder_model.onnx` writes.

The encoder's graph takes input_ids and attention_mask, and gives what the decoder sees of a source: keys and values
present.{i}.encoder.key and .value of each layer. The decoder's graph is one for first and later tokens: it takes
input_ids, encoder_attention_mask, these as past_key_values.{i}.encoder.*, and its own past_key_values.{i}.decoder.* of
any length, none included; it gives logits of every new token, and present.{i}.decoder.*. The names are optimum's, whose
layout has the decoder's weights in two graphs, the first of which computes the source's keys and values.
"""

# Axes: B = rows, T = tokens of the source, P = cached tokens, S = new tokens, V = vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from runtimes.export.facts import DECODER, ENCODER, ExportFacts
from runtimes.pytorch.cached import CacheError, LayerSizes
from runtimes.pytorch.onnx_graph import (
    Axes,
    ExportError,
    check_opset,
    check_runs,
    exported_with_cache,
    facts,
    identifier,
    name_axes,
    share_embedding,
    strip,
    write,
)
from runtimes.pytorch.sequence_cached import SequenceSizes, continued, inner_of, sequence_sizes, source_cache

TRACED = {"batch": 3, "source": 11, "past": 7, "sequence": 4}
"""Sizes of the trace: no two are equal, nor their sums, else the trace would merge them."""
PROBED = (
    {"batch": 2, "source": 5, "past": 0, "sequence": 6},
    {"batch": 1, "source": 9, "past": 8, "sequence": 1},
)
"""Sizes that the written graphs must run on: a target without a cache, and one token more for one row."""
_ROWS: Mapping[str, Axes] = {"input_ids": ("batch", "source"), "attention_mask": ("batch", "source")}


def export(model: PreTrainedModel, out: Path, *, opset: int | None = None) -> ExportFacts:
    """Facts about the graphs written to the folder `out`, float32; ExportError when there are none.

    Weights of more than 1 GiB go into a data file beside their graph. Each graph appears whole or not at all.
    """
    try:
        layers = sequence_sizes(inner_of(model))
    except CacheError as error:
        raise ExportError(f"{type(model).__name__} does not export: {error}") from error
    encoder = _write(_Source(model), _ROWS, out / ENCODER, opset)
    decoder = _write(_Target(inner_of(model), len(layers)), _decoder_axes(layers), out / DECODER, opset)
    return replace(
        decoder,
        inputs=(*encoder.inputs, *decoder.inputs),
        outputs=(*encoder.outputs, *decoder.outputs),
        num_bytes=encoder.num_bytes + decoder.num_bytes,
        num_nodes=encoder.num_nodes + decoder.num_nodes,
        custom_operators=(*encoder.custom_operators, *decoder.custom_operators),
    )


def _write(module: nn.Module, axes: Mapping[str, Axes], out: Path, opset: int | None) -> ExportFacts:
    graph = exported_with_cache(module, type(module.model).__name__, trace_inputs(axes, TRACED), axes, opset)
    name_axes(graph, axes)
    strip(graph)
    share_embedding(graph)
    check_opset(graph, opset)

    def check(file: Path) -> None:
        for sizes in PROBED:
            check_runs(file, trace_inputs(axes, sizes))

    return facts(graph, num_bytes=write(graph, out, check))


def _cached(half: str, num_layers: int) -> Iterator[str]:
    """What is kept of each layer, by its name after past_key_values or present."""
    return (f"{at}.{half}.{kind}" for at in range(num_layers) for kind in ("key", "value"))


def _decoder_axes(layers: Sequence[SequenceSizes]) -> dict[str, Axes]:
    def kept(half: str, axis: str, sizes: Callable[[SequenceSizes], LayerSizes]) -> dict[str, Axes]:
        shapes = [shape for layer in layers for shape in (sizes(layer).key, sizes(layer).value)]
        names = _cached(half, len(layers))
        return {
            f"past_key_values.{name}": ("batch", num_heads, axis, size)
            for name, (num_heads, size) in zip(names, shapes, strict=True)
        }

    return {
        "input_ids": ("batch", "sequence"),
        "encoder_attention_mask": ("batch", "source"),
        **kept("decoder", "past", lambda layer: layer.own),
        **kept("encoder", "source", lambda layer: layer.source),
    }


def trace_inputs(axes: Mapping[str, Axes], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Inputs of these sizes; the last token of the first source is padding, so that its mask is not all ones."""
    found: dict[str, Tensor] = {}
    for name, shape in axes.items():
        whole = [axis if isinstance(axis, int) else sizes[axis] for axis in shape]
        found[name] = torch.zeros(whole) if "." in name else torch.ones(whole, dtype=torch.int64)
        if name.endswith("attention_mask"):
            found[name][0, -1] = 0
    return found


class _Source(nn.Module):
    """What the decoder sees of sources, by name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        keys, values = source_cache(self.model, input_ids, attention_mask)
        kept = [tensor for pair in zip(keys, values, strict=True) for tensor in pair]
        names = _cached("encoder", len(keys))
        return {identifier(f"present.{name}"): tensor for name, tensor in zip(names, kept, strict=True)}


class _Target(nn.Module):
    """The decoder, whose caches are tensors that go in and come out by name."""

    def __init__(self, model: nn.Module, num_layers: int) -> None:
        super().__init__()
        self.model = model
        self.num_layers = num_layers

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        def kept(half: str) -> tuple[list[Tensor], list[Tensor]]:
            found = [given[identifier(f"past_key_values.{name}")] for name in _cached(half, self.num_layers)]
            return found[::2], found[1::2]

        found = continued(
            self.model, given["input_ids"], given["encoder_attention_mask"], kept("decoder"), kept("encoder")
        )
        after = [tensor for pair in zip(found.keys, found.values, strict=True) for tensor in pair]
        named = zip(_cached("decoder", self.num_layers), after, strict=True)
        return {"logits": found.logits, **{identifier(f"present.{name}"): tensor for name, tensor in named}}
