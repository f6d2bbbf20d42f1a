"""Where a model as it stands is from: the run of ours that left it, or else what its own folder names as its base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath

from compiler.facts import ModelFacts
from compiler.hub import Files, SourceError, Sources, is_path, open_model
from compiler.origin import NO_LICENCE, NO_ORIGIN, Origin, base_named, licence_of
from compiler.plan import ModelFiles, Package, PackageTogether, Plan, trainings


def origin_of(model: ModelFacts, files: Files, sources: Sources) -> Origin:
    """What the card of an export says: a model of the hub is the base itself; a folder may say what it was tuned from.

    The licence is what the model's own files name, else that of its base.
    """
    own = Origin(
        base_model=model.id if model.on_hub else PurePath(model.id).name, on_hub=model.on_hub, licence=model.licence
    )
    folder = files.source.folder
    if model.on_hub or folder is None:
        return own
    named = base_named(files)
    base = _of_run(folder, sources) or (base_of(named, sources) if named else None)
    if base is None:
        return own
    return replace(base, tuned=True, licence=base.licence if own.licence == NO_LICENCE else own.licence)


def base_of(model_id: str, sources: Sources) -> Origin:
    """What is known of a base model by its id, which may be neither in the cache nor to be had."""
    try:
        files = open_model(model_id, None, Path(), sources)
        on_hub, licence = files.source.kind != "path", licence_of(files)
    except SourceError:
        on_hub, licence = "/" in model_id and not is_path(model_id), NO_LICENCE
    return Origin(base_model=model_id if on_hub else PurePath(model_id).name, on_hub=on_hub, licence=licence)


def _of_run(folder: Path, sources: Sources) -> Origin | None:
    """The base of the run whose step left a folder; None where no run did."""
    for plan, key in _plans(folder.resolve()):
        if key not in plan.keys().values():
            continue
        packages = [step for step in plan.steps if isinstance(step, Package)]
        packages += [part for step in plan.steps if isinstance(step, PackageTogether) for part in step.parts.values()]
        told = next((step.origin for step in packages if step.origin != NO_ORIGIN), None)
        models = [train.model for step in plan.steps for train in trainings(step) if train.model.files]
        return told or next((_trained(model, sources) for model in models), None)
    return None


def _trained(model: ModelFiles, sources: Sources) -> Origin:
    """What is known of the model of a plan, whose path may start elsewhere: what opens must be what was trained."""
    alone = Origin(base_model=PurePath(model.id).name)
    try:
        files = open_model(model.id, model.revision, Path(), sources)
        same = files.sha256("config.json") == model.files.get("config.json")
    except (SourceError, OSError):
        return alone if model.revision is None else replace(alone, base_model=model.id, on_hub=True)
    return base_of(model.id, sources) if same else alone


def _plans(folder: Path) -> Iterator[tuple[Plan, str]]:
    """The plans of the runs beside a step whose output a folder is in, and the step's key."""
    from runtimes.store import Store

    for step in folder.parents:
        runs = step.parent.parent
        if Store(runs).folder(step.name) != step:
            continue
        for file in sorted(runs.glob("*/plan.json")):
            with suppress(OSError, ValueError):  # a plan of another version says nothing that can be read
                yield Plan.from_json(json.loads(file.read_text(encoding="utf-8"))), step.name
