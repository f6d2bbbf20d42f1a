"""The weights that a training begins with: the model's own, or some that are drawn anew, once for every engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from compiler.files import new_folder
from compiler.methods import reads_weights
from compiler.plan import Train
from runtimes import tasks
from runtimes.errors import RunError, first_line
from runtimes.pytorch.quiet import quiet
from runtimes.saved import FRESH
from runtimes.tasks import Head

_GENERATION = "generation_config.json"


def begun_with(step: Train, folder: Path, beside: Path) -> Path:
    """The folder of the model that a step trains: the one it names, or one with new weights in the folder `beside`.

    What is there already is not drawn again. Raises RunError E406 when transformers can't build the model.
    """
    if reads_weights(step.method):
        return folder
    fresh = beside / FRESH
    if not fresh.exists():
        head = tasks.module_of(step.task).head(step.task)
        with new_folder(fresh) as place, quiet():
            drawn(folder, head, step.seed).save_pretrained(place)
            if (folder / _GENERATION).exists():
                shutil.copyfile(folder / _GENERATION, place / _GENERATION)
    return fresh


def drawn(folder: Path, head: Head, seed: int) -> PreTrainedModel:
    """A model of the architecture in a folder, float32 on CPU, its weights drawn by the seed as its class draws them.

    Raises RunError E406 when transformers can't build it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, **head.config)
            model: PreTrainedModel = getattr(transformers, head.auto_class).from_config(config, dtype=torch.float32)
        except Exception as error:  # transformers and its configurations raise errors of many libraries
            message = f"transformers can't build the model: {first_line(error)}"
            raise RunError(
                "E406", message, "its config.json must be of an architecture that transformers has"
            ) from error
    return model
