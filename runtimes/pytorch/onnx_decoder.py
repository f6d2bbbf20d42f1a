"""The ONNX writer for decoders: one graph for prompts and steps, named as optimum and transformers.js expect.

Inputs: input_ids, attention_mask, position_ids, and past_key_values.{i}.key and .value of each layer, of any length,
none included. Outputs: logits of every new token, and present.{i}.key and .value. It is transformers' own exporter, as
for encoders, on a module that takes the cache as tensors; attention is traced as `eager`, for the same reasons.
"""

# Axes: B = rows, P = cached tokens, S = new tokens, H = heads of keys, D = size of a head, V = vocabulary

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from runtimes.export.facts import PAST, PRESENT, ExportFacts
from runtimes.pytorch.cached import CacheError, LayerSizes, cache_sizes, continued
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

TRACED = (3, 7, 4)
"""Rows, cached and new tokens of the trace: no two are equal, nor their sums, else the trace would merge them."""
PROBED = ((2, 0, 5), (1, 6, 1))
"""What the written graph must run on: a prompt without a cache, and one token more for one row."""


def export(model: PreTrainedModel, out: Path, *, opset: int | None = None) -> ExportFacts:
    """Facts about the graph written to `out`, float32; ExportError when there is none.

    Weights of more than 1 GiB go into `data_file(out)` beside it. `out` appears whole or not at all.
    """
    try:
        layers = cache_sizes(model)
    except CacheError as error:
        raise ExportError(f"{type(model).__name__} does not export: {error}") from error
    graph = exported_with_cache(
        Flat(model, len(layers)), type(model).__name__, trace_inputs(layers, *TRACED), _axes(layers), opset
    )
    name_axes(graph, _axes(layers))
    strip(graph)
    share_embedding(graph)
    check_opset(graph, opset)

    def check(file: Path) -> None:
        for sizes in PROBED:
            check_runs(file, trace_inputs(layers, *sizes))

    return facts(graph, num_bytes=write(graph, out, check))


def cache_names(num_layers: int) -> Iterator[tuple[str, str]]:
    """The names of each layer's keys and values, before and after."""
    for at in range(num_layers):
        for kind in ("key", "value"):
            yield f"{PAST}{at}.{kind}", f"{PRESENT}{at}.{kind}"


def _axes(layers: tuple[LayerSizes, ...]) -> dict[str, Axes]:
    sizes = [size for layer in layers for size in (layer.key, layer.value)]
    return {
        "input_ids": (BATCH, "sequence"),
        "attention_mask": (BATCH, "past + sequence"),
        "position_ids": (BATCH, "sequence"),
        **{
            past: (BATCH, num_heads, "past", size)
            for (past, _), (num_heads, size) in zip(cache_names(len(layers)), sizes, strict=True)
        },
    }


def trace_inputs(layers: tuple[LayerSizes, ...], num_rows: int, num_past: int, num_new: int) -> dict[str, Tensor]:
    """Inputs of these sizes; the first token of the first row is padding, so that the mask is not all ones."""
    mask = torch.ones((num_rows, num_past + num_new), dtype=torch.int64)
    mask[0, 0] = 0
    sizes = {BATCH: num_rows, "past": num_past, "sequence": num_new}
    found = {
        "input_ids": torch.ones((num_rows, num_new), dtype=torch.int64),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, num_past:],
    }
    for name, axes in _axes(layers).items():
        if name not in found:
            found[name] = torch.zeros([axis if isinstance(axis, int) else sizes[axis] for axis in axes])
    return found


class Flat(nn.Module):
    """A model whose cache is tensors that go in and come out by name."""

    def __init__(self, model: nn.Module, num_layers: int) -> None:
        super().__init__()
        self.model = model
        self.num_layers = num_layers

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        names = [identifier(past) for past, _ in cache_names(self.num_layers)]
        found = continued(self.model, given, [given[n] for n in names[::2]], [given[n] for n in names[1::2]])
        after = [kept for pair in zip(found.keys, found.values, strict=True) for kept in pair]
        named = zip(cache_names(self.num_layers), after, strict=True)
        return {"logits": found.logits, **{identifier(present): kept for (_, present), kept in named}}
