"""A file of functions for MLX: what is said in it of its arguments, and its traces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import mlx.core as mx

from compiler.files import new_folder
from compiler.functions import Shapes
from compiler.tasks import Task
from compiler.typed import to_json
from runtimes.errors import RunError, first_line
from runtimes.export.functions import FUNCTION, Argument, Described
from runtimes.mlx.functions import FAILURES
from runtimes.mlx.graph import Input
from runtimes.rows.inputs import columns_of, open_reader
from runtimes.saved import SavedModel

Function = Callable[..., list[mx.array]]


def arguments_of(inputs: Mapping[str, Input], task: Task, saved: SavedModel, shapes: Shapes) -> dict[str, Argument]:
    """What a function is given, and what its rows are filled up with."""
    reader = open_reader(task, saved.reading, max_length=max(shapes.lengths, default=1), root=Path())
    columns = {column.name: column for column in columns_of(task, reader)}
    return {
        name: Argument(
            dtype=given.dtype,
            axes=given.axes,
            padding=columns[name].padding if name in columns else 0,
            optional=name in columns and columns[name].optional,
        )
        for name, given in inputs.items()
    }


def write_traces(
    function: Function, examples: Iterable[Mapping[str, mx.array]], described: Described, out: Path
) -> int:
    """Writes the trace of a function for each of the examples to a file in `out`, and tells its size in bytes.

    Arrays that the function computes with are in the file once. They should be computed before: what is not, is
    computed in every call. Raises RunError E501.
    """
    with new_folder((out / FUNCTION).parent) as folder:
        file = folder / Path(FUNCTION).name
        try:
            with mx.exporter(str(file), function, metadata=json.dumps(to_json(described))) as trace:
                for example in examples:
                    trace(**example)
        except FAILURES as error:
            message = f"MLX can't write the model as a function: {first_line(error)}"
            raise RunError("E501", message, 'export it with {"format": "onnx"}') from error
        return file.stat().st_size
