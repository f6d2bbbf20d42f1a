"""Partial tuning: the first layers, and as a rule the embeddings, stay as they are."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from compiler.methods import Freeze
from runtimes.errors import RunError
from runtimes.initial import New

FOLDER = "model"
DROPS_IN_FROZEN = False


def wrap(
    model: PreTrainedModel, head: tuple[str, ...], method: Freeze, task_type: str, model_id: str
) -> PreTrainedModel:
    """The model with its first layers frozen, counted from the input."""
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


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's numbered layers: the list of modules that holds most of the parameters."""
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise RunError("E406", f"{type(model).__name__} has no numbered layers", "use the method full, head or lora")
    return max(lists, key=_num_parameters)


def _before_layers(model: PreTrainedModel, layers: nn.ModuleList) -> list[nn.Module]:
    """Modules that hold embeddings of tokens or patches, with the norms and projections beside them."""
    within = {id(module) for module in layers.modules()}
    return [
        child
        for child in model.base_model.children()
        if not within & {id(module) for module in child.modules()}
        and any(isinstance(module, (nn.Embedding, nn.Conv2d)) for module in child.modules())
    ]


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
