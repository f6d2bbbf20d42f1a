"""The graph between torch and MLX: frozen values that know neither framework."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Shape = tuple[int | str, ...]  # a str is an expression over sizes that are known when the graph runs
_UNBACKED = re.compile(r"\bu\d+\b")  # how torch names a size that depends on values, not on shapes


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of a name: a parameter, a buffer, a constant, an input or a node."""

    name: str


@dataclass(frozen=True, slots=True)
class DType:
    """An argument that names a dtype, in torch's words without the prefix: float32, int64, bool."""

    name: str


Argument = Ref | DType | bool | int | float | str | None | tuple["Argument", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter as the graph computes with it."""

    dtype: str
    shape: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant:
    """A value that is known before the graph runs. bfloat16 is held as float32: numpy has no such type."""

    dtype: str
    value: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A buffer that a file holds or that a step changes; all others are constants."""

    dtype: str
    shape: tuple[int, ...]
    persistent: bool
    first: Constant | None  # the value that the module was built with, where it has memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An argument of the objective; an axis with a name takes any size."""

    dtype: str
    axes: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation. `dtype` and `shape` are those of its result, None where that is a size or a tuple."""

    name: str
    op: str  # aten.linear.default, operator.mul
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument] = field(default_factory=dict)
    module: str = ""  # the path of the module that used it
    dtype: str | None = None
    shape: Shape | None = None

    @property
    def operands(self) -> tuple[str, ...]:
        """The names that it reads, in order, with repetitions."""
        return tuple(_names((self.args, tuple(self.kwargs.values()))))

    @property
    def depends_on_values(self) -> bool:
        """Whether the shape of its result depends on values, which a compiled graph can't have."""
        return any(isinstance(size, str) and _UNBACKED.search(size) for size in self.shape or ())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """What an objective computes, in order of computation. Nothing in it changes a value in place."""

    parameters: Mapping[str, Parameter]
    buffers: Mapping[str, Buffer]
    constants: Mapping[str, Constant]
    inputs: Mapping[str, Input]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, Argument]
    mutated: Mapping[str, Argument]  # buffer -> its value after the step
    tied: Mapping[str, str] = field(default_factory=dict)  # a parameter's other names -> its name in `parameters`

    @property
    def results(self) -> tuple[str, ...]:
        """The names that must outlive the last node."""
        return tuple(_names((*self.outputs.values(), *self.mutated.values())))

    @property
    def dtypes(self) -> dict[str, str | None]:
        """The dtype of every name; None where a value is a size or a tuple."""
        return {
            **{node.name: node.dtype for node in self.nodes},
            **{name: own.dtype for name, own in self.parameters.items()},
            **{name: own.dtype for name, own in self.buffers.items()},
            **{name: own.dtype for name, own in self.constants.items()},
            **{name: own.dtype for name, own in self.inputs.items()},
        }

    @property
    def trainable(self) -> tuple[str, ...]:
        """The parameters that are differentiated."""
        return tuple(name for name, parameter in self.parameters.items() if parameter.requires_grad)


def frozen(graph: Graph) -> Graph:
    """The graph with no parameter that is differentiated."""
    parameters = {name: replace(own, requires_grad=False) for name, own in graph.parameters.items()}
    return replace(graph, parameters=parameters)


def _names(argument: Argument) -> Iterator[str]:
    match argument:
        case Ref(name):
            yield name
        case tuple():
            for part in argument:
                yield from _names(part)
        case _:
            return


def substituted(argument: Argument, value: Callable[[Ref], Argument]) -> Argument:
    """The argument with another one in place of every reference."""
    match argument:
        case Ref():
            return value(argument)
        case tuple():
            return tuple(substituted(part, value) for part in argument)
        case _:
            return argument
