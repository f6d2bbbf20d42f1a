"""Partial tuning: the first layers, and as a rule the embeddings, stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from compiler.methods import Freeze
from runtimes.errors import RunError
from runtimes.initial import New

DROPS_IN_FROZEN = False


def wrap(
    model: PreTrainedModel, head: tuple[str, ...], method: Freeze, task_type: str, model_id: str
) -> PreTrainedModel:
    """The model with its first layers frozen, counted from the input: the encoder's are before the decoder's."""
    model.requires_grad_(True)
    layers = _layers(model)
    if method.layers >= len(layers):
        message = f"/method/layers freezes {method.layers} of {len(layers)} layers, none is left to tune"
        raise RunError("E406", message, "freeze fewer, or use the method head")
    for layer in layers[: method.layers]:
        layer.requires_grad_(False)
    if method.embeddings:
        for module in _before_layers(model, layers):
            module.requires_grad_(False)
    return model


def new_parameters(model: PreTrainedModel) -> list[New]:
    """Nothing was added."""
    return []


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The numbered layers of the model, or of its encoder and then of its decoder."""
    whole: Any = model
    halves = [whole.get_encoder(), whole.get_decoder()] if model.config.is_encoder_decoder else [model.base_model]
    return [layer for half in halves for layer in _numbered(half)]


def _numbered(model: nn.Module) -> nn.ModuleList:
    """The list of modules that holds most of the parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise RunError("E406", f"{type(model).__name__} has no numbered layers", "use the method full, head or lora")
    return max(lists, key=_num_parameters)


def _before_layers(model: PreTrainedModel, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Modules that hold embeddings of tokens or patches, with the norms and projections beside them."""
    within = {id(module) for layer in layers for module in layer.modules()}

    def beside(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            inside = {id(part) for part in child.modules()}
            if not within & inside:
                yield child
            elif model.config.is_encoder_decoder and id(child) not in within and not isinstance(child, nn.ModuleList):
                yield from beside(child)  # each half has embeddings of its own

    found, embeds = list(beside(model.base_model)), (nn.Embedding, nn.Conv2d)
    return [module for module in found if any(isinstance(part, embeds) for part in module.modules())]


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
