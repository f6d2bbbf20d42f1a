"""The manifest of a bundle: what it is, where it is from, how it was proven, and the sha256 of each of its files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from compiler.data.texts import found as found_in
from compiler.files import write_text
from compiler.generation import Generation
from compiler.hashes import sha256_of
from compiler.json_text import value_in
from compiler.metrics import Metric
from compiler.recipe import NAME, Held
from compiler.tasks import Task
from compiler.typed import About, read, to_json
from runtimes.bundles.manifest_checks import faults_of
from runtimes.bundles.provenance import NOTHING_TOLD, Provenance
from runtimes.errors import RunError
from runtimes.verification.gate import Verification

MANIFEST = "manifest.json"
FORMAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The trained model's metrics over some rows, and which rows: sha256 over their values in order."""

    rows: int
    sha256: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    bundle: Literal[4] = 4  # version of the layout
    name: str
    task: Task
    plan_key: str  # key of the plan's step that made it
    max_length: Annotated[int, About("Tokens, special ones counted.", minimum=1, maximum=2**31 - 1)]
    columns: Mapping[str, str]
    inputs: tuple[str, ...]  # of the graph
    precision: Held  # of its graphs
    metrics: tuple[Metric, ...]
    generation: Generation | None  # how texts are written, where the task writes some
    tolerance: float  # of any output against the golden ones, each row alone
    batch_tolerance: float  # likewise, beside other rows: more where what is rounded depends on them
    max_excused: float
    max_metric_drop: float
    held_out: Figures
    golden: Figures
    exported: Mapping[str, float]  # the graph's own metrics on the held-out rows
    baseline: Mapping[str, Mapping[str, float]]  # metrics of what was there before tuning, by name
    gate: Verification  # the result at the time of export
    versions: Mapping[str, str]  # of the libraries that made it
    files: Mapping[str, str] = field(default_factory=dict)  # sha256 by name
    provenance: Provenance = field(default=NOTHING_TOLD, metadata={"later": True})
    part: str = field(default="", metadata={"later": True})
    """Of a graph of several tasks, the output of this one; the graph and the tokenizer are in the folder above."""
    adapter: str = field(default="", metadata={"later": True})
    """The file of an adapter that is not merged: without it the graph answers as the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TogetherManifest:
    """What a bundle of several tasks says of itself; each has a manifest of its own, in the folder of its name."""

    bundle: Literal[4] = 4
    name: str
    parts: tuple[str, ...]
    plan_key: str
    files: Mapping[str, str] = field(default_factory=dict)  # sha256 by name, those of the parts too


M = TypeVar("M", Manifest, TogetherManifest)


def is_together(folder: Path) -> bool:
    """Whether a folder holds a bundle of several tasks. Raises RunError E601 when it holds none at all."""
    value = read_json(folder, MANIFEST)
    return isinstance(value, dict) and "parts" in value


def read_together(folder: Path) -> TogetherManifest:
    """The manifest of a bundle of several tasks. Raises RunError E601."""
    manifest = _read(TogetherManifest, folder)
    if not manifest.parts or not all(re.fullmatch(NAME, name) for name in manifest.parts):
        raise broken(folder, f"{MANIFEST} names no parts, or one that is no folder in it")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle. Raises RunError E601 when the folder is not a bundle that we can read."""
    manifest = _read(Manifest, folder)
    if fault := next(faults_of(manifest), None):
        raise broken(folder, f"{MANIFEST} does not fit: {fault}")
    return manifest


def _read(kind: type[M], folder: Path) -> M:
    value = read_json(folder, MANIFEST)
    if isinstance(value, dict) and (fault := _version_fault(value)):
        raise broken(folder, fault)
    try:
        return read(kind, value)
    except ValueError as error:
        raise broken(folder, f"{MANIFEST} does not fit: {error}") from error


def _version_fault(value: Mapping[str, Any]) -> str:
    """Why this program does not read a manifest of that version; nothing of its own, which is a whole number."""
    version = value.get("bundle")
    if type(version) is int:
        return "" if version == FORMAT else f"a bundle of version {version}, this program reads version {FORMAT}"
    asked = f"the number {FORMAT}, the version that this program reads"
    return f"{MANIFEST} does not fit: /bundle: expected {asked}, found {found_in(value, 'bundle')}"


def as_read(manifest: Manifest) -> Manifest:
    """The manifest as its receiver reads it, in whom 8 is 8.0 where it stands for a float."""
    return read(Manifest, to_json(manifest))


def seal(folder: Path, manifest: M) -> M:
    """The manifest with the hashes of the folder's files as they are now; it is written there."""
    sealed = dataclasses.replace(manifest, files={name: sha256_of(folder / name, None) for name in files_in(folder)})
    write_text(folder / MANIFEST, json.dumps(to_json(sealed), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return sealed


def check_hashes(folder: Path, manifest: Manifest | TogetherManifest) -> tuple[str, ...]:
    """How the folder's files differ from the manifest: missing NAME, extra NAME, no file NAME or changed NAME."""
    found = set(files_in(folder))
    return tuple(_differences(folder, manifest.files, found))


def _differences(folder: Path, files: Mapping[str, str], found: set[str]) -> Iterator[str]:
    for name in sorted({*files, *found}):
        if name not in found:
            yield f"missing {name}"
        elif not (folder / name).is_file():  # a device or a pipe never ends
            yield f"no file {name}"
        elif name not in files:
            yield f"extra {name}"
        elif sha256_of(folder / name, None) != files[name]:
            yield f"changed {name}"


def files_in(folder: Path) -> tuple[str, ...]:
    """The names of a bundle's files, its manifest left out."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return tuple(sorted(name for name in names if name != MANIFEST))


def digest_of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """The sha256 of rows in order: of the JSON line of each, its values by role."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(dict(row), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def read_json(folder: Path, name: str) -> Any:
    """The value in a bundle's JSON file. Raises RunError E601."""
    try:
        return value_in(folder / name)
    except OSError as error:
        raise broken(folder, f"{name} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise broken(folder, f"{name} is not JSON: {error}") from error


def broken(folder: Path, message: str) -> RunError:
    """The one error that says that a folder is no whole bundle."""
    return RunError(
        "E601", f"{folder}: {message}", "give the folder of a whole bundle, the one with manifest.json in it"
    )
