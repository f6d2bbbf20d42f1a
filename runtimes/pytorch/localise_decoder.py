"""Localisation of decoders: one pass over a row with an empty cache, then its last token alone, after a full one."""

# Axes: B = rows, S = tokens so far, H = heads of keys, D = size of a head

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtimes.errors import RunError, first_line
from runtimes.export.facts import PAST, PRESENT
from runtimes.export.intermediates import Opened, feed, outputs_of, values_of
from runtimes.generation.decoding import positions
from runtimes.localisation.alignment import difference_along
from runtimes.localisation.finding import Localised
from runtimes.localisation.search import OTHERWISE, search
from runtimes.localisation.values import Array, Source
from runtimes.pytorch.cached import CacheError, LayerSizes, cache_sizes
from runtimes.pytorch.onnx_decoder import Flat, cache_names
from runtimes.pytorch.onnx_graph import identifier
from runtimes.pytorch.traced import trace

ALONE = "a pass over the whole row is right; one token after its cache is not"


def keeps_cache(opened: Sequence[Opened]) -> bool:
    """Whether a model is one graph with a cache."""
    return len(opened) == 1 and any(name.startswith(PAST) for name in opened[0].graph.inputs)


def localise_decoder(
    model: Any, opened: Opened, inputs: Mapping[str, Array], rows: tuple[int, ...], logits: str = "logits"
) -> Localised:
    """The first layer of a decoder that its graph computes otherwise: without a cache, else one token after one.

    `logits`: what the graph calls them.
    """
    try:
        layers = cache_sizes(model)
    except CacheError as error:
        raise unfollowed(model, error) from error
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    whole = _followed(model, layers, logits, {**given, **_empty(layers, len(given["input_ids"]))})
    found = search(whole, opened.graph, values_of(feed(opened, given, cached=True)), rows)
    if found.found or given["input_ids"].shape[1] < 2:
        return found
    token = _last_token(given, whole)
    step = _followed(model, layers, logits, token)
    one = feed(opened, token, cached=True)
    found = search(step, opened.graph, values_of(one), rows[:1])
    if not found.found:
        return replace(found, rows=rows)
    differing = list(_differing(step, outputs_of(one)))
    notes = [] if found.note.startswith(OTHERWISE) else [found.note]
    return replace(found, note="; ".join([ALONE, *notes, *differing[:1]]))


def traced(
    model: Any, inputs: Mapping[str, Tensor], arguments: Mapping[str, Any], results: Mapping[str, str]
) -> Source:
    """What a model computes. Raises RunError E608."""
    return _traced(model, inputs, arguments, results, None)


def _traced(
    model: Any, inputs: Mapping[str, Tensor], arguments: Mapping[str, Any], results: Mapping[str, str], called: Any
) -> Source:
    try:
        return trace(model, inputs, arguments, results, called=called)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise unfollowed(model, error) from error


def unfollowed(model: Any, error: Exception) -> RunError:
    """That a model does not let itself be followed."""
    message = f"{type(model).__name__}: what it computes can't be followed: {first_line(error)}"
    return RunError("E608", message, "compare outputs alone: leave out --bisect")


def _followed(model: Any, layers: tuple[LayerSizes, ...], logits: str, given: Mapping[str, Array]) -> Source:
    """What a decoder computes of tokens after a cache. The caches after it are answers too."""
    mask, num_new = given["attention_mask"], given["input_ids"].shape[1]
    arrays = {**given, "position_ids": positions(mask, num_new)}
    tensors = {identifier(name): torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
    results = {"logits": logits} | {identifier(present): present for _, present in cache_names(len(layers))}
    return _traced(model, tensors, {}, results, Flat(model, len(layers)))


def _empty(layers: tuple[LayerSizes, ...], num_rows: int) -> dict[str, Array]:
    sizes = [size for layer in layers for size in (layer.key, layer.value)]
    names = (past for past, _ in cache_names(len(layers)))
    return {
        name: np.zeros((num_rows, num_heads, 0, size), np.float32)
        for name, (num_heads, size) in zip(names, sizes, strict=True)
    }


def _last_token(given: Mapping[str, Array], whole: Source) -> dict[str, Array]:
    """The last token of the first row, after the cache that the source keeps of those before it."""
    count = int(given["attention_mask"][0].sum())
    seen = {name: given[name][:1, :count] for name in given}
    caches = {
        name.replace(PRESENT, PAST): whole.values[number].held.whole()[:1, :, : count - 1]
        for name, number in whole.results.items()
        if name.startswith(PRESENT)
    }
    return {"input_ids": seen["input_ids"][:, -1:], "attention_mask": seen["attention_mask"], **caches}


def _differing(step: Source, outputs: Mapping[str, Array]) -> Iterator[str]:
    """Caches that differ after the step, and where."""
    for name, number in step.results.items():
        value = step.values[number]
        if not name.startswith(PRESENT) or name not in outputs:
            continue
        if outputs[name].shape != value.held.shape:
            yield f"{name} has the shape {list(outputs[name].shape)}, the source's {list(value.held.shape)}"
            continue
        off_S = difference_along(value.held.whole(), outputs[name], axis=2)
        places = np.flatnonzero(~(off_S <= value.allowed))
        if places.size:
            yield f"{name} differs at position {', '.join(map(str, places[:6].tolist()))}"
