"""The graph that writes: new tokens and a cache in, the last logits and the longer cache out."""

# Axes: B = rows, P = cached tokens, S = new tokens, H = heads of keys, D = size of a head, V = vocabulary

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compiler.weights import Tensor as Stored
from runtimes.errors import RunError
from runtimes.mlx.graph import Graph, Input
from runtimes.mlx.trace.fakes import faked, weightless
from runtimes.mlx.trace.training import build, flat, graph_of
from runtimes.pytorch.cached import CacheError, LayerSizes, cache_sizes, continued
from runtimes.pytorch.decoding import HEAD, max_positions
from runtimes.pytorch.quiet import quiet

NEW = Input(dtype="int64", axes=("batch", "tokens"))
PAST = Input(dtype="int64", axes=("batch", "past"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedDecoder:
    """The graph of a decoder, and what is known of its model.

    Inputs: input_ids, attention_mask and position_ids [B, S]; past_mask [B, P]; key_i and value_i [B, H, P, D] of each
    layer. Outputs: logits [B, V] of the last token; key_i and value_i [B, H, P + S, D].
    """

    graph: Graph
    names: Mapping[str, str]  # from the files' names to the model's
    layers: tuple[LayerSizes, ...]
    max_positions: int | None


def trace_decoder(folder: Path, stored: Mapping[str, Stored], adapter: Path | None = None) -> TracedDecoder:
    """The graph of a saved causal language model, with an adapter on it where there is one.

    `stored`: the tensors of the model's files. Raises RunError E406 when the model can't be built, E408 when it can't
    be traced.
    """
    with weightless(), quiet():
        loaded, names = build(folder, HEAD, stored)
        model: nn.Module = loaded.model
        if adapter is not None:
            import peft

            model = peft.get_peft_model(loaded.model, peft.PeftConfig.from_pretrained(str(adapter)))
    model.eval()
    layers = _layers(model)
    inputs = _inputs(layers)
    module = flat(model, inputs, lambda given: _outputs(model, given, len(layers)))
    return TracedDecoder(
        graph=graph_of(module, inputs, "inner"),
        names=names,
        layers=layers,
        max_positions=max_positions(loaded.model.config),
    )


def _layers(model: nn.Module) -> tuple[LayerSizes, ...]:
    try:
        with quiet(), faked(model) as mode, mode:
            return cache_sizes(model)
    except CacheError as error:
        raise RunError("E408", f"the model does not trace: {error}", "run it on PyTorch: --runtime pytorch") from error


def _inputs(layers: tuple[LayerSizes, ...]) -> dict[str, Input]:
    kept: dict[str, Input] = {}
    for at, sizes in enumerate(layers):
        for name, (num_heads, size) in (("key", sizes.key), ("value", sizes.value)):
            kept[f"{name}_{at}"] = Input(dtype="float32", axes=("batch", num_heads, "past", size))
    return {"input_ids": NEW, "attention_mask": NEW, "position_ids": NEW, "past_mask": PAST, **kept}


def _outputs(model: nn.Module, given: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    tokens = {
        "input_ids": given["input_ids"],
        "attention_mask": torch.cat([given["past_mask"], given["attention_mask"]], dim=1),
        "position_ids": given["position_ids"],
    }
    keys = [given[f"key_{at}"] for at in range(num_layers)]
    values = [given[f"value_{at}"] for at in range(num_layers)]
    found = continued(model, tokens, keys, values, last_only=True)
    return {
        "logits": found.logits[:, -1].float(),
        **{f"key_{at}": key for at, key in enumerate(found.keys)},
        **{f"value_{at}": value for at, value in enumerate(found.values)},
    }
