"""How each parameter is updated: at which rate, with which decay, and from which step on. The same on every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compiler.adapter_names import is_of_head
from compiler.layers import layers_of
from compiler.plan import Train
from compiler.recipe import Excluded
from compiler.weights import is_embedding

_BEFORE_INPUT = "prompt_encoder."  # PEFT's name for what it puts before a row's tokens
_FEEDING = frozenset({"conv_stem", "project_in"})  # modules below the first layer that are not called embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a parameter stands in its model, and what it is."""

    depth: int  # 0: the head; 1: the top layer and what is beside the layers; ...; last the embeddings
    kinds: frozenset[Excluded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """How a parameter is updated."""

    rate: float = 1.0  # over the learning rate of the step
    weight_decay: float
    opens: int = 0  # optimizer steps before the first in which it is trained


def depths_of(shapes: Mapping[str, tuple[int, ...]], head: Sequence[str]) -> dict[str, int]:
    """How far below the top each parameter is: 0 in the head, 1 in the top layer; one more than the layers: embeddings.

    Layers are those that `freeze` counts, so that a stage of ResNet or Swin is one, and a decoder is above its encoder.
    What is neither in a layer nor an embedding, such as a norm at the end, is in the top layer of its half.
    """
    below_head = {name: shape for name, shape in shapes.items() if not is_of_head(name, head)}
    layers = layers_of({name: shape for name, shape in below_head.items() if not name.startswith(_BEFORE_INPUT)})
    total = len(set(layers.values()))
    encoder_top = max((at for name, at in layers.items() if _is_of_encoder(name)), default=total - 1)

    def depth(name: str) -> int:
        if name in layers:
            return total - layers[name]
        if _is_below_layers(name):
            return total + 1
        return total - encoder_top if _is_of_encoder(name) else 1

    return {name: depth(name) if name in below_head else 0 for name in shapes}


def _is_of_encoder(name: str) -> bool:
    """Whether a parameter is in an encoder: a decoder may be made of its parts, so that the first word counts."""
    return next((part for part in name.split(".") if part in ("encoder", "decoder")), "") == "encoder"


def _is_below_layers(name: str) -> bool:
    """Whether a parameter that is in no layer makes what the first one reads."""
    return is_embedding(name) or name.startswith(_BEFORE_INPUT) or bool(_FEEDING & set(name.split(".")))


def group_of(step: Train, place: Place) -> Group:
    """How a train step updates a parameter.

    The top layer has the step's learning rate, and each layer below the share `layer_decay` of the one above it
    (Howard and Ruder 2018, arXiv:1801.06146, who also unfreeze from the top).
    """
    rate = step.head_lr_multiplier if place.depth == 0 else step.layer_decay ** (place.depth - 1)
    return Group(
        rate=rate,
        weight_decay=0.0 if place.kinds.intersection(step.decay_excludes) else step.weight_decay,
        opens=place.depth * step.unfreeze_every,
    )


def groups_of(step: Train, places: Mapping[str, Place]) -> dict[str, Group]:
    """How a train step updates each parameter."""
    return {name: group_of(step, place) for name, place in places.items()}


def unfrozen(groups: Mapping[str, Group], number: int) -> frozenset[str]:
    """The parameters that the optimizer step with a number, from 0, trains."""
    return frozenset(name for name, group in groups.items() if group.opens <= number)
