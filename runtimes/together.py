"""Several tasks on one model: which parameters they share, where each one's files are, and tensors stored once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.adapter_names import is_of_head
from compiler.files import write_bytes, write_json
from compiler.moments import wanted
from compiler.plan import TrainTogether
from compiler.tasks.multi_task import METHODS
from compiler.weights import INDEX, SINGLE

SHARED, OWN = "shared.safetensors", "own.safetensors"
PARTS = "parts"
Tensors = dict[str, Any]


def assert_trainable(step: TrainTogether) -> None:
    """That the compiler let no method or option through that several tasks have no place for.

    Their engines are those of one task each, which would take it up and say nothing.
    """
    for name, part in step.parts.items():
        assert part.method.type in METHODS, f"{name}: {part.method.type}"
        assert not wanted(part.optimizer), f"{name}: {part.optimizer}"
        options = (part.packing, part.unfreeze_every, part.neftune_alpha, part.ema_decay)
        assert options == ("none", 0, 0.0, 0.0), f"{name}: {options}"


def part_folder(folder: Path, part: str) -> Path:
    """Where a train step keeps what belongs to one of its tasks; its own folder where it has only one."""
    return folder / PARTS / part if part else folder


def state_name(part: str, parameter: str, head: Collection[str]) -> str:
    """What a parameter is called among those of all tasks: shared ones keep their name."""
    return f"{part}/{parameter}" if is_of_head(parameter, head) else parameter


def entry_name(part: str, entry: str, head: Collection[str]) -> str:
    """The name of an entry in a part's state (parameters/NAME, optimizer/NAME/MOMENT) among those of all tasks."""
    kind, _, rest = entry.partition("/")
    name, slash, moment = rest.partition("/")
    return f"{kind}/{state_name(part, name, head)}{slash}{moment}"


def store_once(folders: Sequence[Path]) -> None:
    """Parts the weights of transformers folders: what is equal in all goes into one file, which is linked into each.

    A copy of a folder is whole, as the link is a file there. Folders of adapters stay as they are.
    """
    from safetensors.numpy import save

    files = [folder / SINGLE for folder in folders]
    equal = _equal_names(files) if all(file.exists() for file in files) else frozenset()
    if not equal:
        return
    first, *others = folders
    for folder in folders:
        tensors = _read(folder / SINGLE)
        own = {name: value for name, value in tensors.items() if name not in equal}
        if folder == first:
            write_bytes(folder / SHARED, save({name: tensors[name] for name in sorted(equal)}, {"format": "pt"}))
        write_bytes(folder / OWN, save(own, {"format": "pt"}))
        places = {name: SHARED if name in equal else OWN for name in sorted(tensors)}
        size = sum(value.nbytes for value in tensors.values())
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})
        (folder / SINGLE).unlink()
    for folder in others:
        _link(first / SHARED, folder / SHARED)


def _equal_names(files: Sequence[Path]) -> frozenset[str]:
    """The tensors that all files have, with the same values."""
    first, *others = files
    tensors = _read(first)
    equal = set(tensors)
    for file in others:
        found = _read(file)
        equal &= {name for name, value in found.items() if name in tensors and _is_equal(value, tensors[name])}
    return frozenset(equal)


def _is_equal(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


def _read(file: Path) -> Tensors:
    from safetensors import safe_open  # here: who reads a bundle has no such package

    with safe_open(file, framework="np") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)


def _link(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def folders_of(saved: Path, parts: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The folder of each task in that of a model, made where it is not there."""
    for name in parts:
        folder = saved / name
        folder.mkdir(exist_ok=True)
        yield name, folder
