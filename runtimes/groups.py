"""How each parameter is updated: at which rate, with which decay, and from which step on. The same on every engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from compiler.plan import Train
from compiler.recipe import Excluded
from compiler.weights import is_embedding

_NUMBER = re.compile(r"(?:^|\.)(\d{1,6})\.")
_HALVES = ("encoder", "decoder")
_BEFORE_INPUT = "prompt_encoder."  # PEFT's name for what it puts before a row's tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """How many numbered layers a model has; where it has an encoder and a decoder, in each.

    Stages of layers, as ResNet and Swin have them, count as one layer each, and so do layers that share weights.
    """

    first: int  # of the encoder, or of a model that is no encoder-decoder
    second: int  # of a decoder


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


def bare_name(name: str) -> str:
    """A parameter's name in the model itself, of its name in one that PEFT has wrapped."""
    whole = name.removeprefix("base_model.model.")
    return whole if whole != name else name.removeprefix("base_model.")


def is_of_head(name: str, head: Sequence[str]) -> bool:
    """Whether a parameter is inside one of the modules of the head."""
    return any(bare_name(name).startswith(f"{top}.") for top in head)


def layers_of(names: Iterable[str], head: Sequence[str]) -> Layers:
    """The numbered layers that parameters with these names are in."""
    counts = [0, 0]
    for name in names:
        number = _number(name)
        if number is not None and not is_of_head(name, head):
            counts[_half(name)] = max(counts[_half(name)], number + 1)
    return Layers(first=counts[0], second=counts[1])


def depth_of(name: str, head: Sequence[str], layers: Layers) -> int:
    """How far below the top a parameter is: 0 in the head, 1 in the top layer, one more than the layers in embeddings.

    A decoder is above its encoder. What is neither in a layer nor an embedding, such as a norm at the end, is in the
    top layer of its half.
    """
    if is_of_head(name, head):
        return 0
    number, half = _number(name), _half(name)
    if number is None and (is_embedding(name) or name.startswith(_BEFORE_INPUT)):
        return layers.first + layers.second + 1
    if half or not layers.second:
        return 1 if number is None else (layers.second if half else layers.first) - number
    if number is None:
        return layers.second + 1 if "encoder" in bare_name(name).split(".") else 1  # or between the halves
    return layers.second + layers.first - number


def _number(name: str) -> int | None:
    """The number of the layer or stage that a parameter is in: the first one in its name."""
    found = None if name.startswith(_BEFORE_INPUT) else _NUMBER.search(name)
    return int(found[1]) if found else None


def _half(name: str) -> int:
    """1 of a decoder: it may be made of an encoder's parts, so that the first of the two words counts."""
    return int(next((part for part in name.split(".") if part in _HALVES), "") == "decoder")


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
