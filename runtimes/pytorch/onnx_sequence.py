"""The ONNX writer for encoder-decoders: `encoder_model` runs once a source, `decoder_model_merged` writes.

The names are those of optimum and transformers.js. The encoder's graph takes input_ids and attention_mask and gives
last_hidden_state. The decoder's graph is one for first and later tokens. It takes input_ids, encoder_attention_mask,
encoder_hidden_states, use_cache_branch, and past_key_values.{i}.encoder.* of the source and .{i}.decoder.* of what was
written, of any length, none included. It gives logits of every new token, present.{i}.decoder.*, and
present.{i}.encoder.*, which the first step computes and later ones read (onnx_source.py).
"""

# Axes: B = rows, T = tokens of the source, P = cached tokens, S = new tokens, V = vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from runtimes.export.facts import DECODER, ENCODER, PAST, PRESENT, ExportFacts
from runtimes.pytorch.cached import CacheError, LayerSizes
from runtimes.pytorch.onnx_graph import (
    BATCH,
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
from runtimes.pytorch.onnx_source import CACHED, compute_source_once
from runtimes.pytorch.sequence_cached import (
    ChosenLayer,
    SequenceSizes,
    chosen,
    encoded,
    inner_of,
    sequence_sizes,
    width,
)
from runtimes.pytorch.virtual import VirtualModel

TRACED = {BATCH: 3, "source": 11, "past": 7, "sequence": 4}
"""Sizes of the trace: no two are equal, nor their sums, else the trace would merge them."""
PROBED = (
    {BATCH: 2, "source": 5, "past": 0, "sequence": 6},
    {BATCH: 1, "source": 9, "past": 8, "sequence": 1},
)
"""Sizes that the written graphs must run on: a target without a cache, and one token more for one row."""
_ROWS: Mapping[str, Axes] = {"input_ids": (BATCH, "source"), "attention_mask": (BATCH, "source")}


def export(model: PreTrainedModel, out: Path, *, opset: int | None = None) -> ExportFacts:
    """Facts about the graphs written to the folder `out`, float32; ExportError when there are none.

    Weights of more than 1 GiB go into a data file beside their graph. Each graph appears whole or not at all.
    """
    inner = inner_of(model)
    try:
        layers = sequence_sizes(inner)
    except CacheError as error:
        raise ExportError(f"{type(model).__name__} does not export: {error}") from error
    num_virtual = model.num_tokens if isinstance(model, VirtualModel) else 0
    encoder = _write(_Source(model), _ROWS, out / ENCODER, opset)
    axes = _decoder_axes(layers, num_virtual, width(inner))
    decoder = _write(_Target(inner, len(layers), num_virtual), axes, out / DECODER, opset, compute_source_once)
    return replace(
        decoder,
        inputs=(*encoder.inputs, *decoder.inputs),
        outputs=(*encoder.outputs, *decoder.outputs),
        num_bytes=encoder.num_bytes + decoder.num_bytes,
        num_nodes=encoder.num_nodes + decoder.num_nodes,
        custom_operators=(*encoder.custom_operators, *decoder.custom_operators),
    )


def _write(
    module: nn.Module,
    axes: Mapping[str, Axes],
    out: Path,
    opset: int | None,
    rewrite: Callable[[onnx_ir.Model], object] = lambda graph: None,
) -> ExportFacts:
    graph = exported_with_cache(module, type(module.model).__name__, trace_inputs(axes, TRACED), axes, opset)
    name_axes(graph, axes)
    strip(graph)
    rewrite(graph)
    share_embedding(graph)
    check_opset(graph, opset)

    def check(file: Path) -> None:
        for sizes in PROBED:
            check_runs(file, trace_inputs(axes, sizes))

    return facts(graph, num_bytes=write(graph, out, check))


def _cached(half: str, num_layers: int) -> Iterator[str]:
    """What is kept of each layer, by its name after past_key_values or present."""
    return (f"{at}.{half}.{kind}" for at in range(num_layers) for kind in ("key", "value"))


def _decoder_axes(layers: Sequence[SequenceSizes], num_virtual: int, hidden_size: int) -> dict[str, Axes]:
    def kept(half: str, axis: str, sizes: Callable[[SequenceSizes], LayerSizes]) -> dict[str, Axes]:
        shapes = [shape for layer in layers for shape in (sizes(layer).key, sizes(layer).value)]
        names = _cached(half, len(layers))
        return {
            f"{PAST}{name}": (BATCH, num_heads, axis, size)
            for name, (num_heads, size) in zip(names, shapes, strict=True)
        }

    seen = f"source + {num_virtual}" if num_virtual else "source"
    return {
        "input_ids": (BATCH, "sequence"),
        "encoder_attention_mask": (BATCH, "source"),
        "encoder_hidden_states": (BATCH, seen, hidden_size),
        **kept("decoder", "past", lambda layer: layer.own),
        **kept("encoder", seen, lambda layer: layer.source),
        CACHED: (1,),
    }


def trace_inputs(axes: Mapping[str, Axes], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Inputs of these sizes; the last token of the first source is padding, so that its mask is not all ones."""
    found: dict[str, Tensor] = {}
    for name, shape in axes.items():
        whole = [_size(axis, sizes) for axis in shape]
        found[name] = torch.zeros(whole) if len(shape) > 2 else torch.ones(whole, dtype=torch.int64)
        if name.endswith("attention_mask"):
            found[name][0, -1] = 0
        if name == CACHED:
            found[name] = torch.tensor([sizes.get("past", 0) > 0])
    return found


def _size(axis: str | int, sizes: Mapping[str, int]) -> int:
    """The size of an axis that is called by a number, a name, or a sum of the two."""
    return (
        axis
        if isinstance(axis, int)
        else sum(sizes[part] if part in sizes else int(part) for part in axis.split(" + "))
    )


class _Source(nn.Module):
    """What the encoder makes of sources, [B, V + T, ...]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": encoded(self.model, input_ids, attention_mask)[0]}


class _Target(nn.Module):
    """The decoder, whose caches are tensors that go in and come out by name."""

    def __init__(self, model: nn.Module, num_layers: int, num_virtual: int) -> None:
        super().__init__()
        self.model = model
        self.num_layers = num_layers
        self.num_virtual = num_virtual

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        def kept(half: str) -> tuple[list[Tensor], list[Tensor]]:
            found = [given[identifier(f"{PAST}{name}")] for name in _cached(half, self.num_layers)]
            return found[::2], found[1::2]

        mask = given["encoder_attention_mask"]
        if self.num_virtual:
            mask = nn.functional.pad(mask, (self.num_virtual, 0), value=1)
        layers = [ChosenLayer(pair, given[CACHED]) for pair in zip(*kept("encoder"), strict=True)]
        found = chosen(self.model, given["input_ids"], mask, kept("decoder"), given["encoder_hidden_states"], layers)
        own = [tensor for pair in zip(found.keys, found.values, strict=True) for tensor in pair]
        source = [tensor for layer in layers for tensor in layer.computed]
        names = [*_cached("decoder", self.num_layers), *_cached("encoder", self.num_layers)]
        named = zip(names, [*own, *source], strict=True)
        return {"logits": found.logits, **{identifier(f"{PRESENT}{name}"): tensor for name, tensor in named}}
