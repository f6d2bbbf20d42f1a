"""Scores of saved models by PyTorch: the source that the gate measures others against.

The untouched transformers (or peft) model, float32, eval mode, with tensor-float arithmetic off.
"""

# Axes: B = rows, C = outputs of a position

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from peft import PeftModel
from safetensors import safe_open

from runtimes.errors import first_line
from runtimes.gate import ScoreFunction
from runtimes.protocol import Batch
from runtimes.pytorch.inputs import taken_inputs
from runtimes.pytorch.noise import SourceError, load_source
from runtimes.pytorch.objective import read_outputs, results_of
from runtimes.pytorch.quiet import quiet
from runtimes.tasks.interface import Head

ADAPTER = "adapter_model.safetensors"


def torch_scores(model_folder: Path, head: Head, *, device: str = "cpu") -> ScoreFunction:
    """The outputs of batches by a saved transformers model. Raises SourceError when the folder is not a whole one."""
    return scores_of(load_source(model_folder, auto_class=head.auto_class), head, device=device)


def adapter_scores(base_folder: Path, adapter_folder: Path, head: Head, *, device: str = "cpu") -> ScoreFunction:
    """The outputs of batches by a base model and a peft adapter that is not merged.

    Raises SourceError when a weight is in neither folder; peft would go on with a random head.
    """
    return scores_of(load_adapter(base_folder, adapter_folder, head), head, device=device)


def load_adapter(base_folder: Path, adapter_folder: Path, head: Head) -> PeftModel:
    """A base model with a peft adapter that is not merged, float32, on CPU, in eval mode. Raises SourceError."""
    base = _load_base(base_folder, adapter_folder, head.config, head.auto_class)
    with quiet():
        try:
            model = PeftModel.from_pretrained(base, str(adapter_folder))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise SourceError(f"{adapter_folder}: peft can't load it: {first_line(error)}") from error
    loaded: PeftModel = model.float().eval()
    return loaded


def scores_of(model: Any, head: Head, *, device: str = "cpu") -> ScoreFunction:
    """The outputs of batches by a loaded model; arrays that its `forward` does not take are left out."""
    model = model.to(device)
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model

    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        inputs, targets = taken_inputs(inner, batch.inputs, device), torch.from_numpy(batch.targets).to(device)
        with torch.inference_mode(), exact_float32():
            found_logits = results_of(model(**inputs, **head.arguments), head.results).float()
            outputs = read_outputs(head.reading, found_logits, targets)
            found: npt.NDArray[np.float32] = outputs.cpu().numpy()
        return found

    return scores


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, matrix products of float32 are computed in float32; the process's own settings come back afterwards."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


def _load_base(base_folder: Path, adapter_folder: Path, config: Mapping[str, Any], auto_class: str) -> Any:
    """The base model, float32; whatever its folder lacks must be in the adapter's."""
    with quiet():
        try:
            model, info = getattr(transformers, auto_class).from_pretrained(
                base_folder,
                dtype=torch.float32,
                **config,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise SourceError(f"{base_folder}: {auto_class} can't load it: {first_line(error)}") from error
    random = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    brought = _adapter_names(adapter_folder)
    if lacking := sorted(name for name in random if name not in brought):
        raise SourceError(
            f"{', '.join(lacking[:4])} are neither in {base_folder} nor in {adapter_folder}",
            "save the adapter with its head (peft's modules_to_save)",
        )
    return model


def _adapter_names(adapter_folder: Path) -> set[str]:
    """The names of the base model's own weights that an adapter replaces."""
    try:
        json.loads((adapter_folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(adapter_folder / ADAPTER, framework="np") as file:
            names = list(file.keys())
    except (OSError, ValueError) as error:
        raise SourceError(f"{adapter_folder}: not an adapter: {first_line(error)}") from error
    return {name.removeprefix("base_model.model.") for name in names}
