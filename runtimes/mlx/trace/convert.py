"""From torch's exported program to a graph of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from runtimes.mlx.graph import Argument, Buffer, Constant, DType, Graph, Input, Node, Parameter, Ref, Shape
from runtimes.mlx.trace.fakes import TraceError

# Where and how a tensor lies in memory: none of it is a question on MLX.
_PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})


def to_graph(program: ExportedProgram, objective: nn.Module, inputs: Mapping[str, Input], root: str) -> Graph:
    """The graph of a program; parameters and buffers under the names that they have below `root`."""
    names = _Names(objective, root)
    reader = _Reader(root)
    for node, spec in zip(_placeholders(program), program.graph_signature.input_specs, strict=True):
        reader.values[node] = Ref(names.of(spec) if spec.target else node.name)
    for node in program.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
    specs = program.graph_signature.input_specs
    buffers = {names.of(spec): spec for spec in specs if spec.kind is InputKind.BUFFER}
    outputs, mutated = _results(program, reader, names)
    held = {name for name, spec in buffers.items() if spec.persistent or name in mutated}
    return Graph(
        parameters={names.of(spec): names.parameter(spec) for spec in specs if spec.kind is InputKind.PARAMETER},
        buffers={name: names.buffer(spec) for name, spec in buffers.items() if name in held},
        constants={
            **{
                name: _constant(name, names.values[spec.target or ""])
                for name, spec in buffers.items()
                if name not in held
            },
            **{
                names.of(spec): _constant(names.of(spec), cast(Tensor, program.constants[spec.target or ""]))
                for spec in specs
                if spec.kind is InputKind.CONSTANT_TENSOR
            },
        },
        inputs=dict(inputs),
        nodes=tuple(reader.nodes),
        outputs=outputs,
        mutated=mutated,
        tied=names.tied,
    )


class _Names:
    """What the parameters and buffers of an objective are called."""

    def __init__(self, objective: nn.Module, root: str) -> None:
        self.prefix = f"{root}." if root else ""
        self.values: dict[str, Tensor] = {
            **dict(objective.named_parameters(remove_duplicate=False)),
            **dict(objective.named_buffers(remove_duplicate=False)),
        }
        first: dict[int, str] = {}
        for name, value in self.values.items():
            first.setdefault(id(value), name)
        self.first = {name: first[id(value)] for name, value in self.values.items()}

    @property
    def tied(self) -> dict[str, str]:
        """The other names of parameters that have several."""
        return {self.short(name): self.short(first) for name, first in self.first.items() if name != first}

    def short(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def of(self, spec: InputSpec) -> str:
        """The name of what a placeholder stands for: of tied ones, always the first."""
        target = spec.target or ""
        return self.short(self.first.get(target, target))

    def parameter(self, spec: InputSpec) -> Parameter:
        value = self.values[spec.target or ""]
        return Parameter(dtype=_dtype(value.dtype), shape=tuple(value.shape), requires_grad=value.requires_grad)

    def buffer(self, spec: InputSpec) -> Buffer:
        value = self.values[spec.target or ""]
        first = None if value.is_meta else _constant(self.of(spec), value)
        return Buffer(
            dtype=_dtype(value.dtype), shape=tuple(value.shape), persistent=bool(spec.persistent), first=first
        )


class _Reader:
    """Turns the nodes of a torch graph into ours."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, Argument] = {}

    def read(self, node: fx.Node) -> None:
        """Adds a node and its value."""
        value = node.meta.get("val")
        self.nodes.append(
            Node(
                name=f"%{node.name}",
                op=_op_name(node.target),
                args=tuple(self.argument(argument) for argument in node.args),
                kwargs={name: self.argument(given) for name, given in node.kwargs.items() if name not in _PLACEMENT},
                module=_module_path(node, self.root),
                dtype=_dtype(value.dtype) if isinstance(value, Tensor) else None,
                shape=_shape(value) if isinstance(value, Tensor) else None,
            )
        )
        self.values[node] = Ref(self.nodes[-1].name)

    def argument(self, given: Any) -> Argument:
        """An argument in our words; devices and layouts are None."""
        match given:
            case fx.Node() if given.op == "get_attr":
                raise TraceError(f"the traced graph has a branch or loop, {given.name}, which can't be lowered")
            case fx.Node():
                return self.values[given]
            case list() | tuple():
                return tuple(self.argument(part) for part in given)
            case torch.dtype():
                return DType(_dtype(given))
            case bool() | int() | float() | str() | None:
                return given
            case torch.device() | torch.layout() | torch.memory_format():
                return None
            case _:
                raise TraceError(
                    f"an argument of the traced graph is a {type(given).__name__}, which has no meaning on MLX"
                )


def _placeholders(program: ExportedProgram) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.op == "placeholder"]


def _results(
    program: ExportedProgram, reader: _Reader, names: _Names
) -> tuple[dict[str, Argument], dict[str, Argument]]:
    """The outputs by name, and the new values of buffers."""
    [output] = [node for node in program.graph.nodes if node.op == "output"]
    values = [reader.argument(value) for value in output.args[0]]
    mutated: dict[str, Argument] = {}
    returned: list[Argument] = []
    for value, spec in zip(values, program.graph_signature.output_specs, strict=True):
        match spec.kind:
            case OutputKind.BUFFER_MUTATION:
                mutated[names.short(names.first[spec.target or ""])] = value
            case OutputKind.USER_OUTPUT if isinstance(spec.arg, TensorArgument):
                returned.append(value)
            case _:
                raise TraceError(
                    f"the objective must return tensors and change only buffers, it has a {spec.kind.name}"
                )
    tree = program.call_spec.out_spec
    assert tree is not None
    return dict(_named(pytree.tree_unflatten(returned, tree))), mutated


def _named(result: Any) -> Iterator[tuple[str, Argument]]:
    """The outputs with their keys, or their positions in a tuple."""
    match result:
        case dict():
            yield from ((str(key), value) for key, value in result.items())
        case tuple() | list():
            yield from ((str(at), value) for at, value in enumerate(result))
        case _:
            yield "0", result


def _op_name(target: Any) -> str:
    """aten.linear.default; operator.mul and torch.sym_max for what computes sizes."""
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001
        return str(target)
    module = getattr(target, "__module__", "").lstrip("_").partition(".")[0]
    return f"{module}.{getattr(target, '__name__', target)}"


def _module_path(node: fx.Node, root: str) -> str:
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if not path.startswith("_")]
    return stack[-1].removeprefix(root).removeprefix(".") if stack else ""


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(value: Tensor) -> Shape:
    sizes: tuple[Any, ...] = tuple(value.shape)  # torch's stubs know no symbolic ones
    return tuple(size if isinstance(size, int) else str(size) for size in sizes)


def _constant(name: str, value: Tensor) -> Constant:
    if value.is_meta:
        raise TraceError(f"the buffer {name} has no values; build the model inside weightless(), which keeps them")
    held = value.detach().cpu()
    exact = held.float() if held.dtype in (torch.bfloat16, torch.float16) else held
    return Constant(dtype=_dtype(value.dtype), value=np.array(exact.numpy()))
