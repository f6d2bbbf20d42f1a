"""The PyTorch back end: what the steps call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from compiler.plan import Train
from runtimes.gate import ScoreFunction
from runtimes.pytorch import engine, models, noise, scores
from runtimes.pytorch.devices import require_device
from runtimes.pytorch.methods import module_of
from runtimes.tokens import Inputs
from runtimes.tolerance import Noise


def load_engine(step: Train, model_folder: Path, init_file: Path, device: str) -> engine.TorchEngine:
    """The engine of a train step on a device that is there. Raises RunError when it is not."""
    require_device(device)
    return engine.load(step, model_folder, init_file, device)


def trained_folder(step: Train) -> str:
    """The name of the folder that save_model fills: model, or adapter."""
    return module_of(step.method.type).FOLDER


def trained_scores(step: Train, trained: Path, base: Path, device: str) -> ScoreFunction:
    """The logits of a trained model, or of an adapter on its base, in float32."""
    folder = trained / trained_folder(step)
    if folder.name == "model":
        return scores.torch_scores(folder, device=device)
    return scores.adapter_scores(base, folder, num_labels=len(step.labels), device=device)


def model_scores(folder: Path, device: str) -> ScoreFunction:
    """The logits of a saved model, in float32."""
    return scores.torch_scores(folder, device=device)


def merge(base: Path, adapter: Path, out: Path, labels: Sequence[str]) -> None:
    """Writes a base model with an adapter merged into it."""
    models.merge(base, adapter, out, labels)


def float32_noise(folder: Path, batches: Iterable[Inputs]) -> Noise:
    """The float32 rounding noise of a saved model's outputs."""
    return noise.float32_noise(folder, batches)
