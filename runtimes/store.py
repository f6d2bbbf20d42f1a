"""Step outputs by key, receipts of finished steps, and locks: what is done is never done twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compiler.files import remove_parts, write_json
from compiler.hashes import sha256_of
from compiler.typed import read, to_json
from runtimes import checkpoints
from runtimes.errors import RunError

# Packages whose version is part of what a step means; another version invalidates its receipt.
DECISIVE = {
    "export": (
        "torch",
        "mlx",
        "mlx-lm",
        "transformers",
        "onnx",
        "onnx-ir",
        "onnxscript",
        "onnxruntime-genai",
        "coremltools",
    ),
    "quantize": ("onnx", "onnxruntime"),
    "verify": ("torch", "mlx", "mlx-lm", "transformers", "onnx", "onnxscript", "onnxruntime", "coremltools"),
    "package": ("torch", "mlx", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers"),
}
RECEIPT = "receipt.json"
_WAIT = 1
"""Seconds for a lock: another run may hold it for a moment, to clear away what a dead process left."""
RECORDED = (
    "recipec",
    "torch",
    "mlx",
    "mlx-lm",
    "transformers",
    "peft",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-genai",
    "coremltools",
    "tokenizers",
    "numpy",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof that a step was finished: by what, from what, in how many seconds, and the sha256 of every file it left."""

    key: str
    step: str
    seconds: float
    placement: Mapping[str, str | int | bool | None]
    versions: Mapping[str, str]
    inputs: Mapping[str, str]  # by the id of the step that it took them from: the digest of that step's outputs
    outputs: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One sha256 for all the outputs."""
        return hashlib.sha256(json.dumps(dict(self.outputs), sort_keys=True).encode()).hexdigest()


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of packages; those that are not installed are left out."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Store:
    """The folder of runs: `.steps/<key>/` holds a step's outputs, `<name>/` a run."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.steps = runs / ".steps"

    def folder(self, key: str) -> Path:
        """Where a step's outputs are."""
        return self.steps / key

    def receipt(self, key: str, kind: str, inputs: Mapping[str, str]) -> Receipt | None:
        """The receipt of a step finished on these inputs, when its outputs are whole and its libraries today's."""
        try:
            value = json.loads((self.folder(key) / RECEIPT).read_text(encoding="utf-8"))
            receipt = read(Receipt, value)
        except (OSError, ValueError):
            return None
        wanted = versions_of(DECISIVE.get(kind.removesuffix("-together"), ()))
        same = all(receipt.versions.get(name) == version for name, version in wanted.items())
        # Steps may have other names in another plan: their outputs are what counts.
        current = receipt.key == key and [*receipt.inputs.values()] == [*inputs.values()] and same
        return receipt if current and self._whole(receipt) else None

    def _whole(self, receipt: Receipt) -> bool:
        folder = self.folder(receipt.key)
        return all(
            (folder / name).is_file() and sha256_of(folder / name, None) == digest
            for name, digest in receipt.outputs.items()
        )

    def finish(
        self, key: str, step: str, seconds: float, placement: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> Receipt:
        """Writes the receipt of a step, last of all its files."""
        folder = self.folder(key)
        receipt = Receipt(
            key=key,
            step=step,
            seconds=round(seconds, 3),
            placement=dict(placement),
            versions=versions_of(RECORDED),
            inputs=dict(inputs),
            outputs={name: sha256_of(folder / name, None) for name in sorted(_files(folder))},
        )
        write_json(folder / RECEIPT, to_json(receipt))
        return receipt

    def clear(self, key: str) -> Path:
        """An empty folder for a step's outputs."""
        shutil.rmtree(self.folder(key), ignore_errors=True)
        self.folder(key).mkdir(parents=True)
        return self.folder(key)

    def resume(self, key: str) -> Path:
        """The folder of a step that goes on where it was interrupted, without what was half-written.

        One that was finished, and whose receipt no longer holds, begins anew.
        """
        folder = self.folder(key)
        if (folder / RECEIPT).exists():
            return self.clear(key)
        folder.mkdir(parents=True, exist_ok=True)
        remove_parts(folder, "**/")
        return folder

    def remove_parts(self) -> None:
        """Removes what dead processes left half-written in steps that are not done; a step at work keeps its lock."""
        for folder in self.steps.glob("*"):
            if not (folder / RECEIPT).exists():
                with suppress(RunError), self.locked(folder.name):
                    remove_parts(folder, "**/")

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Holds the lock of a run or a step. Raises RunError when another process has it."""
        path = self.runs / ".locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=_WAIT)
        except Timeout:
            owner = path.with_suffix(".pid")
            pid = owner.read_text(encoding="utf-8").strip() if owner.exists() else "unknown"
            what = "the run" if len(name) < 64 else "a step that this run shares, with the key"
            message = f"another process (pid {pid}) is writing {what} {name[:12] if len(name) >= 64 else name}"
            raise RunError("E404", message, "wait for it, or use another --runs folder") from None
        try:
            path.with_suffix(".pid").write_text(str(os.getpid()), encoding="utf-8")
            yield
        finally:
            lock.release()


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        hidden = name.startswith((".", f"{checkpoints.FOLDER}/"))
        if path.is_file() and name != RECEIPT and not hidden:
            yield name
