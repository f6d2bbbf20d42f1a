"""The reference page of the recipe language, generated from its dataclasses.

`python -m compiler.reference` writes docs/reference.md; a test compares.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin

from compiler import tasks
from compiler.codes import CODES
from compiler.recipe import Recipe
from compiler.tasks.multi_task import MULTI_TASK, MultiTask, OneTask
from compiler.typed import Field, describe, fields, members, records, tag, to_json

REFERENCE_FILE = Path(__file__).parents[1] / "docs" / "reference.md"
_INTRODUCTION = """# Recipe reference, version 1

Generated from the compiler's own dataclasses by `python -m compiler.reference`; do not edit.

A recipe is a JSON object. Paths are relative to the file that writes them. Where an object has a `type` (or `format`),
the bare word stands for the object: `"lora"` is `{"type": "lora"}`. A split's bare string is its path, a model's is its
id. `"$schema"` is allowed and ignored. `"extends"` names a recipe, or a list of them, that this one builds on: objects
merge, arrays replace, and an object whose `type` changes is replaced.
"""


def reference_text() -> str:
    """The page in Markdown."""
    return "\n".join([_INTRODUCTION, *_record("recipe", Recipe, 2), *_several(), *_tasks(), *_codes()]) + "\n"


def _record(title: str, owner: type, level: int) -> Iterator[str]:
    yield from _table(title, owner, level)
    for f in _shown(owner):
        yield from _below(title, f, level)


def _table(title: str, owner: type, level: int) -> Iterator[str]:
    yield f"{'#' * level} {title}\n"
    yield f"{(owner.__doc__ or '').strip().splitlines()[0]}\n"
    if shown := _shown(owner):
        yield "| key | value | default | meaning |\n|---|---|---|---|"
        yield from (_row(f) for f in shown)
        yield ""


_SEVERAL = """## Several tasks

With a task of the type `multi-task`, `dataset`, `metrics` and `loss` stand in each task; of `training` nothing
reads `loss`, `label_smoothing`, `balance`, `packing`, `unfreeze_every`, `neftune_alpha` and `ema_decay`. All else of
the recipe is what the tasks share.
"""


def _several() -> Iterator[str]:
    yield _SEVERAL
    yield from _table(f"task: {MULTI_TASK}", MultiTask, 3)
    yield from _table(f"task: {MULTI_TASK}.tasks.NAME", OneTask, 3)
    for f in fields(MultiTask):
        yield from _below(f"task: {MULTI_TASK}", f, 3)


def _shown(owner: type) -> list[Field]:
    """The fields of a dataclass but for its tag."""
    return [f for f in fields(owner) if tag(owner) is None or f.name != tag(owner)[0]]  # type: ignore[index]


def _row(f: Field) -> str:
    unsaid = f.default is None or (f.about.nonempty and not f.default)
    default = "required" if f.required else "" if unsaid else f"`{json.dumps(_short(f.default))}`"
    cells = (f"`{f.name}`", _value(f), default, f.about.text)
    return f"| {' | '.join(cell.replace('|', 'or') for cell in cells)} |"


def _short(default: Any) -> Any:
    """A default as an author would write it: the bare word when nothing else differs from its own defaults."""
    named = tag(type(default)) if dataclasses.is_dataclass(default) else None
    value = to_json(default)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(default):
        own = {f.name: to_json(f.default) for f in fields(type(default)) if not f.required}
        value = {key: item for key, item in value.items() if own.get(key) != item}
    return named[1] if named and not value else value


def _value(f: Field) -> str:
    words = [f"`{named[1]}`" for owner in records(f.shape) if (named := tag(owner))]
    item = next((m for m in members(f.shape) if get_origin(m) is tuple), None)
    if item is not None and records(item.__args__[0]):
        words = [f"`{named[1]}`" for owner in records(item.__args__[0]) if (named := tag(owner))]
        return f"a list of {', '.join(words) or 'objects'}"
    plain = [describe(m) for m in members(f.shape) if m not in records(f.shape)]
    kinds = [", ".join(words)] if words else ["an object"] if records(f.shape) else []
    return " or ".join([*kinds, *dict.fromkeys(plain)]) + _range(f)


def _range(f: Field) -> str:
    said = f.about.range()
    return f", {said}" if said else ""


def _below(title: str, f: Field, level: int) -> Iterator[str]:
    shape = next((m.__args__[0] for m in members(f.shape) if get_origin(m) is tuple), f.shape)
    for owner in records(shape):
        named = tag(owner)
        name = f.name if title == "recipe" else f"{title}.{f.name}"
        if f.about.parts:
            yield from _table(name, owner, 3)  # what is below it is the recipe's
        elif named is not None and len(fields(owner)) > 1:
            yield from _record(f"{name}: {named[1]}", owner, 3)
        elif named is None and not (owner.__name__ == "Split" and f.name != "train"):
            yield from _record(name, owner, 3)


def _tasks() -> Iterator[str]:
    yield "## What each task has\n"
    yield "| task | columns | losses | metrics |\n|---|---|---|---|"
    for owner in members(tasks.Task):
        module = tasks.module_of(owner())
        cells = (tag(owner)[1], *(", ".join(words) for words in (module.COLUMNS, module.LOSSES, module.METRICS)))  # type: ignore[index]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _codes() -> Iterator[str]:
    yield "## Diagnostics\n"
    yield "`recipe explain CODE` prints the long text. R-codes are about the recipe (exit 1), E-codes about a run.\n"
    yield "| code | meaning |\n|---|---|"
    yield from (f"| {name} | {code.title} |" for name, code in sorted(CODES.items()))


if __name__ == "__main__":
    REFERENCE_FILE.parent.mkdir(exist_ok=True)
    REFERENCE_FILE.write_text(reference_text(), encoding="utf-8")
