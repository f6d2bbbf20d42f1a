"""Where the trained parameters of a model stand: in which layer, and whether they are norms, embeddings or the head."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from compiler.adapter_names import is_of_head
from compiler.recipe import Excluded
from compiler.weights import is_embedding
from runtimes.groups import Place, depths_of
from runtimes.pytorch.models import Wrapped

_SCALES = ".ia3_l."  # PEFT holds these vectors as a row or a column; one that is near zero would silence its layer


def places_of(wrapped: Wrapped) -> dict[str, Place]:
    """The place of each trained parameter, by its name in the wrapped model."""
    shapes = {name: tuple(parameter.shape) for name, parameter in wrapped.model.named_parameters()}
    depths = depths_of(shapes, wrapped.head)
    norms = frozenset(_of_norms(wrapped.model))
    return {
        name: Place(
            depth=depths[name],
            kinds=frozenset(_kinds(name, parameter, is_norm=name in norms, is_head=is_of_head(name, wrapped.head))),
        )
        for name, parameter in wrapped.model.named_parameters()
        if parameter.requires_grad
    }


def _of_norms(model: nn.Module) -> Iterator[str]:
    """The parameters of layers that normalise: LayerNorm, RMSNorm, BatchNorm and their like, by their class."""
    for path, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            yield from (f"{path}.{name}" for name, _ in module.named_parameters(recurse=False))


def _kinds(name: str, parameter: nn.Parameter, *, is_norm: bool, is_head: bool) -> Iterator[Excluded]:
    if parameter.ndim <= 1 or _SCALES in f"{name}.":
        yield "vectors"
    if name.rpartition(".")[2] == "bias":
        yield "biases"
    if is_norm:
        yield "norms"
    if is_embedding(name):
        yield "embeddings"
    if is_head:
        yield "head"
