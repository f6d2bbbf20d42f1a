"""Identities: operations that give back what they get."""

from __future__ import annotations

from collections.abc import Mapping

from runtimes.mlx.graph import Argument, DType, Graph, Node, Ref
from runtimes.mlx.passes.rewriting import replace_values

_ALWAYS = frozenset(
    f"aten.{name}.default" for name in ("alias", "clone", "contiguous", "lift", "lift_fresh", "lift_fresh_copy")
)
_END = 2**63 - 1  # how torch says: up to the end


def remove_identities(graph: Graph) -> Graph:
    """The graph without copies, whole slices, casts to the same dtype, and dropout that is off.

    `detach` is none: it stops the gradient.
    """
    dtypes = graph.dtypes
    return replace_values(graph, {node.name: node.args[0] for node in graph.nodes if _is_identity(node, dtypes)})


def _is_identity(node: Node, dtypes: Mapping[str, str | None]) -> bool:
    match node.op, node.args:
        case op, _ if op in _ALWAYS:
            return True
        case "aten.slice.Tensor", (_, _, 0 | None, end, *step):
            return (end is None or end == _END) and step in ([], [1])
        case "aten._to_copy.default", (Ref(name),):
            return _keeps(node.kwargs.get("dtype"), dtypes[name])
        case "aten.to.dtype", (Ref(name), wanted, *_):
            return _keeps(wanted, dtypes[name])
        case "aten.dropout.default", (_, share, training):
            return share == 0 or training is False
        case ("aten.add.Tensor" | "aten.sub.Tensor", (Ref(name), 0)) | ("aten.mul.Tensor", (Ref(name), 1 | 1.0)):
            return dtypes[name] == node.dtype and dtypes[name] != "bool"
        case _:
            return False


def _keeps(wanted: Argument, dtype: str | None) -> bool:
    return wanted is None or (isinstance(wanted, DType) and wanted.name == dtype)
