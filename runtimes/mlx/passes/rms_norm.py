"""RMS norms that a model writes out by hand, as one operation.

Llama, Qwen, T5 and others: x to float32, mean of squares, plus eps, inverse root, times x, back, times the weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from runtimes.mlx.graph import Argument, Graph, Node, Ref

_CASTS = frozenset({"aten._to_copy.default", "aten.to.dtype"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm:
    """A norm found in a graph: its last node, and what it normalises."""

    last: Node
    x: Ref
    weight: Ref
    eps: float


def fuse_rms_norm(graph: Graph) -> Graph:
    """The graph with `aten.rms_norm` in place of its written-out form over the last axis.

    The nodes before the last one stay, for somebody else may read them; dead code is another pass.
    """
    nodes = {node.name: node for node in graph.nodes}
    found = {norm.last.name: norm for node in graph.nodes for norm in _norms(node, nodes, graph)}
    return replace(graph, nodes=tuple(_fused(found[node.name]) if node.name in found else node for node in graph.nodes))


def _fused(norm: _Norm) -> Node:
    assert norm.last.shape is not None
    args: tuple[Argument, ...] = (norm.x, (norm.last.shape[-1],), norm.weight, norm.eps)
    return replace(norm.last, op="aten.rms_norm.default", args=args, kwargs={})


def _norms(node: Node, nodes: Mapping[str, Node], graph: Graph) -> Iterator[_Norm]:
    """The norm that ends in a node, where one does."""
    match node:
        case Node(op="aten.mul.Tensor", args=(Ref() as one, Ref() as two)):
            for weight, normed in ((one, two), (two, one)):
                if weight.name in graph.parameters and len(graph.parameters[weight.name].shape) == 1:
                    yield from _scaled(node, weight, _before_cast(normed, nodes), nodes)


def _scaled(last: Node, weight: Ref, normed: Ref, nodes: Mapping[str, Node]) -> Iterator[_Norm]:
    """X times the inverse root of its mean square plus eps."""
    match nodes.get(normed.name):
        case Node(op="aten.mul.Tensor", args=(Ref() as one, Ref() as two)):
            for x, scale in ((one, two), (two, one)):
                eps = _eps_of(scale, x, nodes)
                if eps is not None:
                    yield _Norm(last=last, x=_before_cast(x, nodes), weight=weight, eps=eps)


def _eps_of(scale: Ref, x: Ref, nodes: Mapping[str, Node]) -> float | None:
    """What is added to the mean square of x under the root, or None where the scale is something else."""
    match nodes.get(scale.name):
        case Node(op="aten.rsqrt.default", args=(Ref() as shifted,)):
            match nodes.get(shifted.name):
                case Node(op="aten.add.Tensor", args=(Ref() as mean, float() as eps)) if _is_mean_square(
                    mean, x, nodes
                ):
                    return eps
    return None


def _is_mean_square(mean: Ref, x: Ref, nodes: Mapping[str, Node]) -> bool:
    match nodes.get(mean.name):
        case Node(op="aten.mean.dim", args=(Ref() as square, (-1,), True)):
            match nodes.get(square.name):
                case Node(op="aten.pow.Tensor_Scalar", args=(Ref() as base, 2)):
                    return _before_cast(base, nodes) == _before_cast(x, nodes)
    return False


def _before_cast(ref: Ref, nodes: Mapping[str, Node]) -> Ref:
    """What a cast reads."""
    match nodes.get(ref.name):
        case Node(op=op, args=(Ref() as inner, *_)) if op in _CASTS:
            return inner
    return ref
