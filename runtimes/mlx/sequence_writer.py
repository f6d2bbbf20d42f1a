"""The format mlx of encoder-decoders: one function, some of whose traces read sources and the others write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from compiler.functions import Shapes
from compiler.recipe import Mlx
from compiler.tasks import Task
from compiler.typed import to_json
from runtimes import tasks
from runtimes.bundles.bundle import CONFIG, positions_of
from runtimes.bundles.manifest import read_json
from runtimes.errors import RunError
from runtimes.export import Stage, Written
from runtimes.export.functions import FUNCTION, ROWS, TOKENS, WRITTEN, Described
from runtimes.mlx import backend
from runtimes.mlx.devices import use_nearest
from runtimes.mlx.function_file import arguments_of, write_traces
from runtimes.mlx.functions import given_arrays
from runtimes.mlx.lower import Run, lower
from runtimes.mlx.quantization import load_base
from runtimes.mlx.sequence_functions import IDS, MASK, SequenceFunction, sequence_function
from runtimes.mlx.trace.sequence_decoding import TracedSequenceDecoder, trace_whole
from runtimes.mlx.weights import Weights, weight_files
from runtimes.protocol import Batch
from runtimes.rows.readings import read_outputs
from runtimes.saved import SavedModel
from runtimes.tasks.interface import Reading
from runtimes.verification.gate import ScoreFunction


def write(export: Mlx, task: Task, saved: SavedModel, shapes: Shapes, out: Path, device: str) -> Written:
    """Writes `mlx/model.mlxfn`. Raises RunError E501."""
    use_nearest(device)
    traced, reading, writing = _loaded(saved)
    shapes = replace(shapes, written=_within(shapes.written, traced.max_positions))
    read = {name: replace(own, axes=(ROWS, TOKENS)) for name, own in traced.encoder.inputs.items()}
    given = {**read, IDS: traced.decoder.inputs[IDS]}
    described = Described(
        arguments=arguments_of(given, task, saved, shapes),
        results=tuple(traced.encoder.outputs),
        by_token=True,
        shapes=shapes,
        precision="fp32",
    )
    reads = partial(_traced, lower(traced.encoder), reading)
    writes = partial(_traced, lower(traced.decoder), writing)

    def function(**given: mx.array) -> list[mx.array]:
        return (writes if IDS in given else reads)(given)

    size = write_traces(function, _examples(reads, described), described, out)
    facts: dict[str, Any] = {"exporter": f"mlx {version('mlx')}", "num_bytes": size, "survives": None}
    facts |= {"precision": "fp32", "shapes": to_json(shapes)}
    return Written(facts=facts, says=f"a function for MLX, fp32, traced at {shapes}, {size / 2**20:,.1f} MiB")


def stages(export: Mlx, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """The function."""
    head = tasks.module_of(task).head(task)
    most = positions_of(read_json(saved.folder, CONFIG))
    opened = partial(
        sequence_function, written / FUNCTION, start_id=head.config["decoder_start_token_id"], max_positions=most
    )
    return [
        Stage("mlx", lambda: _scores(opened(), head.reading), decoder=opened, files=(written / FUNCTION,)),
    ]


def _scores(function: SequenceFunction, reading: Reading) -> ScoreFunction:
    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        return read_outputs(reading, function.outputs(batch.inputs), batch.targets)

    return scores


def _within(lengths: tuple[int, ...], most: int | None) -> tuple[int, ...]:
    """The lengths of a grid that a model can write."""
    return lengths if most is None else tuple(dict.fromkeys(min(length, most) for length in lengths))


def _loaded(saved: SavedModel) -> tuple[TracedSequenceDecoder, Weights, Weights]:
    """The graphs, and the weights of each; what both read is one array. Raises RunError E406, E408 and E502."""
    stored, adapter = weight_files(saved.folder), backend.adapter_folder(saved)
    files = (*stored, *(() if adapter is None else (adapter / backend.ADAPTER,)))
    traced = trace_whole(saved.folder, backend.headers(stored), adapter)
    backend.require_lowered(traced.encoder, traced.decoder)
    (_, reading), (_, writing) = (
        load_base(graph, files, traced.names, None) for graph in (traced.encoder, traced.decoder)
    )
    if missing := [*reading.missing, *writing.missing]:
        raise RunError("E502", f"{saved.folder}: the weights lack {', '.join(missing[:4])}", "run the training again")
    shared = {name: reading.parameters.get(name, value) for name, value in writing.parameters.items()}
    mx.eval(reading.parameters, reading.buffers, shared, writing.buffers)
    return traced, reading, replace(writing, parameters=shared)


def _traced(run: Run, weights: Weights, given: Mapping[str, mx.array]) -> list[mx.array]:
    outputs, _ = run(weights.parameters, weights.buffers, given, None)
    return [*outputs.values()]


def _examples(
    reads: Callable[[Mapping[str, mx.array]], list[mx.array]], described: Described
) -> Iterator[Mapping[str, mx.array]]:
    """Sources of each shape; then, with what was made of each, tokens of each length."""
    for num_rows in described.shapes.batch_sizes:
        for length in described.shapes.lengths:
            read = given_arrays(described, {}, {ROWS: num_rows, TOKENS: length})
            yield read
            source = dict(zip(described.results, reads(read), strict=True))
            mask = mx.ones((num_rows, source[described.results[0]].shape[2]), read[MASK].dtype)
            for num_written in described.shapes.written:
                written = given_arrays(described, {}, {ROWS: num_rows, WRITTEN: num_written})
                yield {**written, MASK: mask, **source}
