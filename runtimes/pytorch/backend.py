"""The PyTorch back end: what the steps call."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compiler.placement import Placement
from compiler.plan import Train
from compiler.tasks import Task
from runtimes import tasks
from runtimes.backends import require_runtime
from runtimes.decoding import Decoder
from runtimes.gate import ScoreFunction
from runtimes.protocol import Batch
from runtimes.pytorch import decoding, engine, models, noise, scores, sequence_decoding
from runtimes.pytorch.devices import limit_memory, require_device
from runtimes.pytorch.methods import module_of
from runtimes.tolerance import Noise


def load_engine(step: Train, model_folder: Path, init_file: Path, placement: Placement) -> engine.TorchEngine:
    """The engine of a train step on a device that is there. Raises RunError when it is not, or for another's method.

    A limit of memory holds for the process from then on.
    """
    require_runtime(step, "pytorch")
    require_device(placement.device)
    if placement.memory_gib is not None:
        limit_memory(placement.device, placement.memory_gib)
    again = placement.gradient_checkpointing
    return engine.load(step, model_folder, init_file, placement.device, gradient_checkpointing=again)


def check_model(step: Train, model_folder: Path) -> str:
    """That nothing has to be checked: PyTorch runs a model as transformers builds it."""
    return "PyTorch runs the model as it is, nothing is traced"


def trained_folder(step: Train) -> str:
    """The name of the folder that save_model fills: model, or adapter."""
    return module_of(step.method.type).FOLDER


def trained_scores(step: Train, trained: Path, base: Path, device: str) -> ScoreFunction:
    """The outputs of a trained model, or of an adapter on its base, in float32."""
    folder, head = trained / trained_folder(step), tasks.module_of(step.task).head(step.task)
    if folder.name == "model":
        return scores.torch_scores(folder, head, device=device)
    return scores.adapter_scores(base, folder, head, device=device)


def model_scores(task: Task, folder: Path, device: str) -> ScoreFunction:
    """The outputs of a saved model, in float32."""
    return scores.torch_scores(folder, tasks.module_of(task).head(task), device=device)


def trained_decoder(step: Train, trained: Path, base: Path, device: str) -> Decoder[Any]:
    """A trained model, or an adapter on its base, that writes; in float32."""
    folder, head = trained / trained_folder(step), tasks.module_of(step.task).head(step.task)
    if folder.name == "model":
        return model_decoder(folder, device)
    if encodes(base):
        return sequence_decoding.adapter_sequence_decoder(base, folder, head, device=device)
    return decoding.adapter_decoder(base, folder, head, device=device)


def model_decoder(folder: Path, device: str) -> Decoder[Any]:
    """A saved model that writes, in float32."""
    if encodes(folder):
        return sequence_decoding.sequence_decoder(folder, device=device)
    return decoding.torch_decoder(folder, device=device)


def encodes(folder: Path) -> bool:
    """Whether a saved model has an encoder beside its decoder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("is_encoder_decoder") is True


def merge(step: Train, base: Path, adapter: Path, out: Path) -> None:
    """Writes a base model with the adapter of a train step merged into it."""
    models.merge(base, adapter, out, tasks.module_of(step.task).head(step.task))


def float32_noise(task: Task, folder: Path, batches: Iterable[Batch]) -> Noise:
    """The float32 rounding noise of a saved model's outputs."""
    return noise.float32_noise(folder, batches, tasks.module_of(task).head(task))
