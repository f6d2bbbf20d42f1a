"""The weights of two saved models side by side, a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from compiler.weights import INDEX, SINGLE, is_in_head, shards
from runtimes.survival import Change, Floats


def changes(before: Path, after: Path, held: Mapping[str, Callable[[Floats], Floats]]) -> Iterator[Change]:
    """The weights that both folders have, by their names in the second; of float32, whatever they are stored in.

    Heads are left out: one that was replaced says nothing about the update. `held`: from names in the model to what
    the values of the first folder were in training, where they were others.
    """
    with ExitStack() as files:
        old, new = _open(before, files), _open(after, files)
        for name, file in new.items():
            known = None if is_in_head(name) else _same(name, old)
            if known is None or _shape(old[known], known) != _shape(file, name):
                continue
            values, other = _floats(old[known], known), held.get(name)
            yield Change(name=name, before=values if other is None else other(values), after=_floats(file, name))


def _open(folder: Path, files: ExitStack) -> dict[str, Any]:
    """The file that has each tensor, by its name."""
    whole = (folder / SINGLE).exists()
    names = (SINGLE,) if whole else shards(json.loads((folder / INDEX).read_text(encoding="utf-8")))
    opened = [files.enter_context(safe_open(folder / name, framework="pt")) for name in names]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118  (not a mapping)


def _shape(file: Any, name: str) -> tuple[int, ...]:
    return tuple(file.get_slice(name).get_shape())


def _same(name: str, known: Mapping[str, Any]) -> str | None:
    """The name that another file has for a weight: with or without the prefix of the model around it."""
    if name in known:
        return name
    ends = (name.split(".", at)[-1] for at in range(1, name.count(".") + 1))
    shorter = next((end for end in ends if end in known), None)
    return shorter or next((longer for longer in known if _is_end(name, longer)), None)


def _is_end(end: str, name: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _floats(file: Any, name: str) -> Floats:
    values: Floats = file.get_tensor(name).float().numpy()
    return np.ascontiguousarray(values)
