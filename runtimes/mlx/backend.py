"""The MLX back end: what the steps call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from compiler.adapter_names import is_of_head
from compiler.methods import reads_weights
from compiler.placement import Placement
from compiler.plan import Train, TrainTogether
from compiler.tasks import Task
from compiler.weights import Tensor, read_header
from runtimes import tasks
from runtimes.backends import require_moments, require_runtime
from runtimes.errors import RunError
from runtimes.generation.decoding import Decoder
from runtimes.mlx.devices import use_device
from runtimes.mlx.engine import MlxEngine, given_inputs
from runtimes.mlx.graph import Graph, frozen
from runtimes.mlx.lower import lower, unlowered
from runtimes.mlx.quantization import Quantization, dequantized, load_base, quantization_of, quantized, read_record
from runtimes.mlx.segments import has_layers
from runtimes.mlx.together import TogetherEngine
from runtimes.mlx.trace.training import trace_saved, trace_step
from runtimes.mlx.weights import Weights, weight_files
from runtimes.protocol import Batch
from runtimes.pytorch import backend as torch_backend
from runtimes.pytorch import models, stored
from runtimes.pytorch.fresh import begun_with
from runtimes.pytorch.methods import require_known
from runtimes.saved import Adapter, SavedModel
from runtimes.survival import Change
from runtimes.together import assert_trainable, part_folder
from runtimes.verification.gate import ScoreFunction
from runtimes.verification.tolerance import Noise

ADAPTER = "adapter_model.safetensors"


def load_engine(
    step: Train, model_folder: Path, init_file: Path, placement: Placement, adapter: Path | None = None
) -> MlxEngine:
    """The engine of a train step. Whatever can't be traced or lowered is an error before weights are loaded.

    A limit of memory is also MLX's own from then on, which is advice: on a GPU, MLX waits and empties its cache before
    it goes beyond, and on the CPU it does nothing. What the engine does with the limit makes it one.
    """
    return _load(step, model_folder, init_file, placement, adapter)


def _load(
    step: Train,
    model_folder: Path,
    init_file: Path,
    placement: Placement,
    adapter: Path | None = None,
    *,
    together: bool = False,
) -> MlxEngine:
    """`together`: with others, so that the steps of its head are counted apart."""
    require_runtime(step, "mlx")
    require_moments(step, placement)
    use_device(placement.device)
    if placement.memory_gib is not None:
        mx.set_memory_limit(placement.memory_gib * 2**30)
    model_folder = begun_with(step, model_folder, init_file.parent)
    files = weight_files(model_folder)
    traced = trace_step(step, model_folder, headers(files), init_file, adapter)
    require_lowered(traced.train, traced.evaluate)
    if placement.gradient_checkpointing:
        require_layers(traced.train)
    held = quantization_of(step.method, traced.train, traced.evaluate)
    train, weights = load_base(traced.train, files, traced.names, held)
    traced = replace(traced, train=train, evaluate=quantized(traced.evaluate, held), held=held)
    if lost := sorted(set(weights.missing) - set(traced.values)):
        raise RunError("E406", f"the model's files lack {', '.join(lost[:4])}", "name a model with all of its weights")
    own = [name for name in traced.train.trainable if together and is_of_head(name, traced.head)]
    return MlxEngine(step, traced, weights, model_folder, placement, own)


def load_together(step: TrainTogether, model_folder: Path, folder: Path, placement: Placement) -> TogetherEngine:
    """The engine of several tasks. What belongs to one of them is kept in `folder`."""
    assert_trainable(step)
    parts: dict[str, MlxEngine] = {}
    for name, part in step.parts.items():
        own = part_folder(folder, name)
        own.mkdir(parents=True, exist_ok=True)
        parts[name] = _load(part, model_folder, own / "init.safetensors", placement, together=True)
    return TogetherEngine(parts)


def headers(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of safetensors files by name."""
    return {name: tensor for file in files for name, tensor in read_header(file).items()}


def require_lowered(*graphs: Graph) -> None:
    """Nothing when every operation has a lowering. Raises RunError E408 that names those that have none."""
    lacking = dict.fromkeys(pair for graph in graphs for pair in unlowered(graph))
    if lacking:
        named = [f"{op} in {module or 'the objective'}" for op, module in lacking]
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        message = f"MLX has no lowering for {', '.join(named[:3])}{more}"
        raise RunError("E408", message, "run it on PyTorch: --runtime pytorch; a lowering goes into runtimes/mlx/ops")


def require_layers(graph: Graph) -> None:
    """Nothing when a model has numbered layers. Raises RunError E410 when there is nothing to compute again."""
    if not has_layers(graph):
        message = "the model has no numbered layers, which are what is computed again for gradients"
        raise RunError("E410", message, "leave out /training/gradient_checkpointing")


def check_model(step: Train, model_folder: Path) -> str:
    """How many operations the graph of a training step has. Raises RunError E408 for what can't be lowered."""
    stored = headers(weight_files(model_folder)) if reads_weights(step.method) else None
    with TemporaryDirectory() as folder:
        traced = trace_step(step, model_folder, stored, Path(folder) / "init.safetensors")
    require_lowered(traced.train, traced.evaluate)
    quantization_of(step.method, traced.train, traced.evaluate)
    operations = {node.op for node in traced.train.nodes}
    return f"MLX runs the model's graph: {len(traced.train.nodes)} operations of {len(operations)} kinds, all lowered"


def scores(task: Task, saved: SavedModel, device: str) -> ScoreFunction:
    """The outputs of a saved model, in float32."""
    use_device(device)
    graph, weights = load_saved(task, saved)
    return partial(_outputs, mx.compile(lower(graph)), graph, weights.parameters, weights.buffers)


def load_saved(
    task: Task,
    saved: SavedModel,
    *,
    dtype: str = "float32",
    whole: bool = False,
    rounded: Callable[[Graph], Quantization] | None = None,
) -> tuple[Graph, Weights]:
    """The graph of a saved model's outputs, and its weights.

    `dtype`: what it computes in; `whole`: its outputs are all logits, whatever the task reads of them; `rounded`: which
    of the weights are held quantized. Raises RunError E406, E408 and E502.
    """
    stored = weight_files(saved.folder)
    adapter = adapter_folder(saved)
    files = (*stored, *(() if adapter is None else (adapter / ADAPTER,)))
    graph, names = trace_saved(saved.folder, task, headers(stored), adapter, dtype=dtype, whole=whole)
    require_lowered(graph)
    graph = frozen(graph) if whole else graph
    graph, weights = load_base(graph, files, names, rounded(graph) if rounded else _held(saved))
    if weights.missing:
        lost = ", ".join(weights.missing[:4])
        raise RunError("E502", f"{saved.folder}: the weights lack {lost}", "run the training again")
    return graph, weights


def adapter_folder(saved: SavedModel) -> Path | None:
    """The folder of an adapter that is not merged, whose method is known; None where there is none."""
    return None if saved.adapter is None else require_known(saved.adapter).folder


def _held(saved: SavedModel) -> Quantization | None:
    """How the weights of the base are held, where its adapter's method holds them quantized."""
    return None if saved.adapter is None else read_record(saved.adapter.method, saved.adapter.folder)


def _outputs(
    run: Callable[..., tuple[dict[str, mx.array], object]],
    graph: Graph,
    parameters: Mapping[str, mx.array],
    buffers: Mapping[str, mx.array],
    batch: Batch,
) -> npt.NDArray[np.float32]:
    """The outputs of a batch, [..., C]; inputs that it lacks are zero."""
    outputs, _ = run(parameters, buffers, given_inputs(graph, batch), None)
    return np.array(outputs["outputs"])


def decoder(task: Task, saved: SavedModel, device: str) -> Decoder[Any]:
    """A saved model that writes, in float32."""
    from runtimes.mlx.decoding import mlx_decoder
    from runtimes.mlx.sequence_decoding import mlx_sequence_decoder

    adapter, held = adapter_folder(saved), _held(saved)
    if torch_backend.encodes(saved.folder):
        return mlx_sequence_decoder(saved.folder, device=device, adapter=adapter, held=held)
    before = torch_backend.virtual_of(task, saved)
    if before.layers:
        return mlx_decoder(saved.folder, device=device, before=before)
    return mlx_decoder(saved.folder, device=device, adapter=adapter, held=held)


def merge(step: Train, base: Path, adapter: Path, out: Path) -> None:
    """Writes a base model with an adapter merged into it: a matter of files, which PEFT does.

    What was held quantized has its dequantized values there, the update added in float32.
    """
    held = _dequantized(SavedModel(base, Adapter(adapter, step.method)))
    models.merge(base, adapter, out, tasks.module_of(step.task).head(step.task), held)


def changes(before: SavedModel, after: Path) -> Iterator[Change]:
    """The weights of the model that training began with, as it held them, beside those of a saved model."""
    return stored.changes(before.folder, after, _dequantized(before))


def _dequantized(saved: SavedModel) -> Mapping[str, models.Held]:
    """The weights of a base that had other values while its adapter was trained, by their names, and which."""
    found = _held(saved)
    return {} if found is None else dict.fromkeys(found.weights, partial(dequantized, held=found))


def float32_noise(
    task: Task, saved: SavedModel, batches: Iterable[Batch], before_each: Callable[[], None] = lambda: None
) -> Noise:
    """The float32 rounding noise of a saved model's outputs, by torch: MLX has no float64 on a GPU."""
    return torch_backend.float32_noise(task, saved, batches, before_each)
