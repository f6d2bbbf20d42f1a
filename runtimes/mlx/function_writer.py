"""The format mlx of what mlx-lm does not run: the lowered graph of a saved model as a function, in one file.

All traces of a file share its weights. Each computes in the precision of the weights and gives float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from compiler.functions import Shapes
from compiler.recipe import Mlx
from compiler.tasks import Task
from compiler.typed import to_json
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.export import Stage, Written
from runtimes.export.functions import FUNCTION, ROWS, TOKENS, Described
from runtimes.mlx import backend
from runtimes.mlx.devices import use_nearest
from runtimes.mlx.function_file import Function, arguments_of, write_traces
from runtimes.mlx.functions import function_scores, given_arrays
from runtimes.mlx.graph import Argument as GraphArgument
from runtimes.mlx.graph import Graph, Ref
from runtimes.mlx.lower import lower
from runtimes.mlx.passes.quantized_linear import LINEAR, UNTRAINED, linear_weights, untrained
from runtimes.mlx.quantization import Quantization
from runtimes.mlx.rounding import require_update
from runtimes.mlx.weights import Weights, inner_name
from runtimes.saved import SavedModel

_WHOLE = "mlx-fp32"
"""The lowered graph with the saved weights: what a rounded function is made of."""
_TORCH = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def write(export: Mlx, task: Task, saved: SavedModel, shapes: Shapes, out: Path, device: str) -> Written:
    """Writes `mlx/model.mlxfn`. Raises RunError E501, E503 where rounding leaves too little of what was tuned."""
    use_nearest(device)
    left = require_update(export, saved)
    held = None if export.bits is None else partial(_quantization, export.bits, export.group_size)
    graph, weights = backend.load_saved(task, saved, dtype=_TORCH[export.precision], whole=True, rounded=held)
    graph = untrained(graph)
    described = Described(
        arguments=arguments_of(graph.inputs, task, saved, shapes),
        results=tuple(graph.outputs),
        by_token=_has_tokens(graph),
        shapes=shapes,
        precision=export.held,
    )
    size = write_traces(_function(graph, weights), _examples(described), described, out)
    facts: dict[str, Any] = {
        "exporter": f"mlx {version('mlx')}",
        "num_bytes": size,
        "survives": left and to_json(left),
        "precision": described.precision,
        "shapes": to_json(shapes),
    }
    if export.bits is not None:
        facts |= _layers(graph)
    kind = f"{described.precision}{_in_layers(facts)}"
    return Written(facts=facts, says=f"a function for MLX, {kind}, traced at {shapes}, {size / 2**20:,.1f} MiB")


def stages(export: Mlx, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """The lowered graph in float32, where the function has rounded weights, and the function."""
    reading = tasks.module_of(task).head(task).reading
    deployed = partial(function_scores, written / FUNCTION, reading)
    function = Stage("mlx", deployed, exact=export.is_exact, files=(written / FUNCTION,))
    if export.is_exact:
        return [function]
    return [Stage(_WHOLE, partial(backend.scores, task, saved, device), files=saved.weights), function]


def _quantization(bits: int, group_size: int, graph: Graph) -> Quantization:
    """Every linear weight whose inputs the group size divides. Raises RunError E501 for none."""
    names = [name for name in linear_weights(graph) if graph.parameters[name].shape[1] % group_size == 0]
    if not names:
        message = f"groups of {group_size} divide the inputs of no linear layer, so that nothing would be quantized"
        raise RunError("E501", message, "choose a smaller group_size")
    return Quantization(bits=bits, group_size=group_size, weights=tuple(inner_name(name) for name in names))


def _has_tokens(graph: Graph) -> bool:
    """Whether the second axis of the outputs is free, as that of the tokens is."""
    outputs: GraphArgument = graph.outputs["outputs"]
    [shape] = [node.shape for node in graph.nodes if isinstance(outputs, Ref) and node.name == outputs.name]
    return shape is not None and len(shape) > 1 and isinstance(shape[1], str)


def _function(graph: Graph, weights: Weights) -> Function:
    run = lower(graph)
    mx.eval(weights.parameters, weights.buffers)

    def function(**given: mx.array) -> list[mx.array]:
        outputs, _ = run(weights.parameters, weights.buffers, given, None)
        return [outputs["outputs"]]

    return function


def _examples(described: Described) -> Iterator[Mapping[str, mx.array]]:
    """Arguments in each of the shapes."""
    for num_rows in described.shapes.batch_sizes:
        for length in described.shapes.lengths or (0,):
            yield given_arrays(described, {}, {ROWS: num_rows, TOKENS: length})


def _layers(graph: Graph) -> dict[str, int]:
    """How many linear products read codes, and how many there are."""
    products = [node.op for node in graph.nodes if node.op in (UNTRAINED, LINEAR)]
    return {"quantized_layers": products.count(UNTRAINED), "layers": len(products)}


def _in_layers(facts: Mapping[str, Any]) -> str:
    return f" in {facts['quantized_layers']} of {facts['layers']} layers" if "layers" in facts else ""
