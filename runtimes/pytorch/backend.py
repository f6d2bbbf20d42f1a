"""The PyTorch back end: what the steps call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from compiler.methods.virtual import VirtualTokens
from compiler.placement import Placement
from compiler.plan import Train, TrainTogether
from compiler.tasks import Task
from runtimes import tasks
from runtimes.backends import require_moments, require_runtime
from runtimes.generation.decoding import Decoder
from runtimes.generation.virtual import VirtualCache
from runtimes.protocol import Batch
from runtimes.pytorch import engine, models, noise, stored, together
from runtimes.pytorch.decoding import torch_decoder
from runtimes.pytorch.devices import limit_memory, require_device
from runtimes.pytorch.fresh import begun_with
from runtimes.pytorch.loading import load_saved
from runtimes.pytorch.scores import torch_scores
from runtimes.pytorch.sequence_decoding import sequence_decoder
from runtimes.pytorch.together import TogetherEngine
from runtimes.pytorch.virtual import virtual_cache
from runtimes.saved import SavedModel
from runtimes.survival import Change
from runtimes.verification.gate import ScoreFunction
from runtimes.verification.tolerance import Noise


def load_engine(
    step: Train, model_folder: Path, init_file: Path, placement: Placement, adapter: Path | None = None
) -> engine.TorchEngine:
    """The engine of a train step on a device that is there. Raises RunError when it is not, or for another's method.

    A limit of memory holds for the process from then on.
    """
    require_runtime(step, "pytorch")
    require_moments(step, placement)
    require_device(placement.device)
    if placement.memory_gib is not None:
        limit_memory(placement.device, placement.memory_gib)
    again = placement.gradient_checkpointing
    device, folder = placement.device, begun_with(step, model_folder, init_file.parent)
    return engine.load(step, folder, init_file, device, gradient_checkpointing=again, adapter=adapter)


def load_together(step: TrainTogether, model_folder: Path, folder: Path, placement: Placement) -> TogetherEngine:
    """The engine of several tasks, likewise. What belongs to one of them is kept in `folder`."""
    require_device(placement.device)
    if placement.memory_gib is not None:
        limit_memory(placement.device, placement.memory_gib)
    again = placement.gradient_checkpointing
    return together.load_together(step, model_folder, folder, placement.device, gradient_checkpointing=again)


def check_model(step: Train, model_folder: Path) -> str:
    """That nothing has to be checked: PyTorch runs a model as transformers builds it."""
    return "PyTorch runs the model as it is, nothing is traced"


def scores(task: Task, saved: SavedModel, device: str) -> ScoreFunction:
    """The outputs of a saved model, in float32."""
    return torch_scores(saved, tasks.module_of(task).head(task), device=device)


def decoder(task: Task, saved: SavedModel, device: str) -> Decoder[Any]:
    """A saved model that writes, in float32."""
    head = tasks.module_of(task).head(task)
    if encodes(saved.folder):
        return sequence_decoder(saved, head, device=device)
    return torch_decoder(saved, head, device=device)


def virtual_of(task: Task, saved: SavedModel) -> VirtualCache:
    """What a saved decoder keeps of its virtual tokens; nothing of one without."""
    if saved.adapter is None or not isinstance(saved.adapter.method, VirtualTokens):
        return VirtualCache()
    model: Any = load_saved(saved, tasks.module_of(task).head(task))
    return virtual_cache(model)


def encodes(folder: Path) -> bool:
    """Whether a saved model has an encoder beside its decoder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("is_encoder_decoder") is True


def merge(step: Train, base: Path, adapter: Path, out: Path) -> None:
    """Writes a base model with the adapter of a train step merged into it."""
    models.merge(base, adapter, out, tasks.module_of(step.task).head(step.task))


def changes(before: SavedModel, after: Path) -> Iterator[Change]:
    """The weights of the model that training began with beside those of a saved model."""
    return stored.changes(before.folder, after, {})


def float32_noise(
    task: Task, saved: SavedModel, batches: Iterable[Batch], before_each: Callable[[], None] = lambda: None
) -> Noise:
    """The float32 rounding noise of a saved model's outputs. `before_each` batch is called, and may raise."""
    head = tasks.module_of(task).head(task)
    return noise.float32_noise(load_saved(saved, head), batches, head, before_each=before_each)
