"""torch.export with free axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from runtimes.errors import first_line
from runtimes.mlx.graph import Input, Shape
from runtimes.mlx.trace.fakes import TraceError, faked
from runtimes.pytorch.quiet import quiet

# Sizes for the trial: torch takes 0 and 1 for constants, and axes of one size for one axis.
_TRIAL_SIZES = (5, 7, 11, 13, 17, 19)


def export(objective: nn.Module, inputs: Mapping[str, Input]) -> ExportedProgram:
    """The program of an objective, free of mutation; composite operations stay whole."""
    names = _free_axes(inputs)
    sizes = dict(zip(names, itertools.islice(_TRIAL_SIZES, len(names)), strict=True))
    free = {name: dict(_free(given.axes)) for name, given in inputs.items()}
    with quiet(), faked(objective) as mode:
        with mode:
            trial = {name: _trial(given, sizes) for name, given in inputs.items()}
        try:
            program = torch.export.export(objective, (), trial, dynamic_shapes=free, strict=False)
            _stop_gradients(program)
            # Decomposes nothing, and turns writes in place into values: a slice's copy_ is lost without it.
            return cast(ExportedProgram, program.run_decompositions({}))
        except (
            RuntimeError,
            ValueError,
            TypeError,
            NotImplementedError,
            AttributeError,
            IndexError,
            KeyError,
        ) as error:
            reason = first_line(error)
            raise TraceError(f"torch can't trace {type(objective).__name__}: {reason}") from error


def _stop_gradients(program: ExportedProgram) -> None:
    """Writes `detach` behind what was traced under no_grad: decompositions forget where gradients were off."""
    for part in program.graph_module.modules():
        if not isinstance(part, GraphModule):
            continue
        for node in part.graph.nodes:
            if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled and node.args[0] is False:
                _detach_results(part.get_submodule(str(node.args[1].target)))


def _detach_results(body: nn.Module) -> None:
    assert isinstance(body, GraphModule)
    output = body.graph.output_node()
    with body.graph.inserting_before(output):
        for result in output.all_input_nodes:
            stopped = body.graph.call_function(torch.ops.aten.detach.default, (result,))
            stopped.meta = dict(result.meta)
            output.replace_input_with(result, stopped)
    body.recompile()


def _free_axes(inputs: Mapping[str, Input]) -> list[str]:
    found = dict.fromkeys(axis for given in inputs.values() for axis in given.axes if isinstance(axis, str))
    if len(found) > len(_TRIAL_SIZES):
        raise TraceError(f"the inputs have {len(found)} free axes, at most {len(_TRIAL_SIZES)} are traced")
    return list(found)


def _trial(given: Input, sizes: Mapping[str, int]) -> Tensor:
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in given.axes]
    return torch.zeros(shape, dtype=getattr(torch, given.dtype))


def _free(axes: Shape) -> Iterator[tuple[int, object]]:
    """DYNAMIC, not AUTO: an axis that the model fixes is an error instead of a graph for one size."""
    return ((at, Dim.DYNAMIC) for at, axis in enumerate(axes) if isinstance(axis, str))
