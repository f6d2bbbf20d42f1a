"""Checkpoints that are whole or not there: written aside, hashed, renamed; a damaged one is never loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from compiler.files import new_folder, write_json
from compiler.hashes import sha256_of
from runtimes.errors import RunError
from runtimes.writing import writes

FOLDER = "checkpoints"  # of a training step
_SEAL = "checkpoint.json"


class Damaged(Exception):
    """A checkpoint is not what was written."""


def name_of(step: int) -> str:
    """The folder of the checkpoint after a step."""
    return f"step-{step:08d}"


def save(folder: Path, step: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Writes the checkpoint of a step: the engine's files by `write`, then their hashes and the loop's state.

    Raises RunError when a saved number is not finite; then nothing is written.
    """
    with new_folder(folder / name_of(step)) as target:
        with writes(folder):
            write(target)
        _refuse_infinite(target, step)
        content = {
            "state": dict(state),
            "files": {file.name: sha256_of(file, None) for file in sorted(target.iterdir())},
        }
        write_json(target / _SEAL, {**content, "sha256": _digest(content)})


def load(folder: Path, step: int) -> dict[str, Any]:
    """The loop's state in the checkpoint of a step, once every file has its hash. Raises Damaged."""
    place = folder / name_of(step)
    try:
        content = json.loads((place / _SEAL).read_text(encoding="utf-8"))
        seal = content.pop("sha256")
        files, state = dict(content["files"]), dict(content["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{place.name}: {_SEAL} can't be read") from error
    if _digest(content) != seal:
        raise Damaged(f"{place.name}: {_SEAL} was changed")
    for name, digest in files.items():
        if not (place / name).is_file() or sha256_of(place / name, None) != digest:
            raise Damaged(f"{place.name}: {name} is not the file that was written")
    return state


def steps(folder: Path) -> tuple[int, ...]:
    """The steps that have a checkpoint, the latest first."""
    found = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return tuple(sorted((int(number) for number in found if number.isdecimal()), reverse=True))


def keep_only(folder: Path, kept: Collection[int]) -> None:
    """Removes all other checkpoints, and what a killed process left half written."""
    for step in set(steps(folder)) - set(kept):
        shutil.rmtree(folder / name_of(step))
    for rest in folder.glob(".step-*.part"):
        shutil.rmtree(rest)


def _refuse_infinite(folder: Path, step: int) -> None:
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            names = list(tensors.keys())
        for name in names:
            with safe_open(
                file, framework="numpy"
            ) as tensors:  # opened anew: what was mapped stays in memory till then
                finite = np.isfinite(tensors.get_tensor(name)).all()
            if not finite:
                message = f"{name} is not finite after step {step}; the checkpoint was not written"
                raise RunError("E403", message, "lower /training/learning_rate, or set /training/max_grad_norm")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
