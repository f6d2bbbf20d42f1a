"""Plan -> outputs: one step after another; a finished step is never done twice."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from compiler.files import PART, remove_parts, write_json, write_text
from compiler.hub import Sources
from compiler.origin import NO_LICENCE
from compiler.placement import Placement
from compiler.plan import (
    Evaluate,
    ExportModel,
    ExportTogether,
    Package,
    PackageTogether,
    Plan,
    Step,
    VerifyExport,
    trainings,
)
from runtimes import checkpoints, steps
from runtimes.backends import require_device, require_moments, require_runtime
from runtimes.bundles.manifest import read_manifest
from runtimes.errors import GateError, Interrupted, RunError
from runtimes.events import Said, StepFailed, StepFinished, StepReused, StepSkipped, StepStarted, to_json
from runtimes.export import require_format, unrun
from runtimes.metrics.texts import require_packages
from runtimes.report import Ended, State, write_report
from runtimes.store import Receipt, Store
from runtimes.verification.kept import Kept

BUNDLE = "bundle"
# Output of a step -> the name by which the run's folder refers to it.
LINKS = {
    "train": ("model", "adapter"),
    "train-together": ("model", "adapter"),
    "merge": ("model",),
    "export": ("mlx", "coreml"),
    "package": (BUNDLE,),
    "package-together": (BUNDLE,),
    "verify": ("verification.json", "bisect.json"),
}
RESUMABLE = ("prepare", "train", "train-together")


def execute(
    plan: Plan,
    placement: Placement,
    *,
    runs: Path,
    root: Path,
    sources: Sources,
    stages: Mapping[str, Placement] = MappingProxyType({}),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Any]:
    """The events of a run. `stages`: where those run, by their names, that don't run as the rest does.

    Raises RunError when a step fails, Interrupted if stopped. A gate that fails ends the run with GateError after
    the steps that need nothing of what it refused: every export is tried.
    """
    for step in plan.steps:
        _require(step, placement)
    require_device(placement)
    store = Store(runs)
    run = runs / plan.name
    run.mkdir(parents=True, exist_ok=True)
    with store.locked(plan.name):
        remove_parts(run)
        store.remove_parts()
        write_text(run / "plan.json", plan.text())
        apart = {name: asdict(each) for name, each in stages.items() if each != placement}
        write_json(run / "placement.json", {**asdict(placement), **({"stages": apart} if apart else {})})
        done: dict[str, Receipt] = {}
        reused: set[str] = set()
        ended = Ended()
        _link(plan, store, run, done)
        write_report(plan, store, run, done, reused, ended)
        with _log_file(run / "events.jsonl") as log:
            try:
                for event in _steps(plan, {"": placement, **stages}, store, root, sources, stop, done):
                    _log(log, event)
                    if isinstance(event, StepReused):
                        reused.add(event.step)
                    yield event
            except Exception as error:
                ended = Ended(_state(error), str(error))
                _log(
                    log,
                    {
                        "event": ended.state.title().replace(" ", ""),
                        "error": type(error).__name__,
                        "message": str(error),
                    },
                )
                raise
            finally:
                _link(plan, store, run, done)
                write_report(plan, store, run, done, reused, ended)


def _state(error: Exception) -> State:
    match error:
        case Interrupted():
            return "interrupted"
        case GateError():
            return "gate failed"
        case _:
            return "failed"


def _require(step: Step, placement: Placement) -> None:
    """Nothing when what a step needs is here. Raises RunError."""
    for train in trainings(step):
        require_runtime(train, placement.engine)
        require_moments(train, placement)
    match step:
        case Evaluate():
            require_packages(step.metrics)
        case ExportModel():
            require_format(step.export)
        case ExportTogether(parts=parts):
            for part in parts.values():
                require_format(part.export)


def _log_file(path: Path) -> TextIO:
    """The log, to append to; what a killed process left of a line is ended first."""
    log = path.open("a+", encoding="utf-8")
    if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        log.write("\n")
    return log


def _log(log: Any, event: Any) -> None:
    value = event if isinstance(event, dict) else to_json(event)
    log.write(json.dumps({"time": round(time.time(), 3), **value}, ensure_ascii=False, default=str) + "\n")
    log.flush()


def _steps(
    plan: Plan,
    placements: Mapping[str, Placement],
    store: Store,
    root: Path,
    sources: Sources,
    stop: Callable[[], bool],
    done: dict[str, Receipt],
) -> Iterator[Any]:
    """The events of the steps in order; each step's receipt is put into `done` when it has one.

    Raises GateError at the end when a gate has failed. What ends the run before that names those gates too.
    """
    keys, after, kept = plan.keys(), ancestors(plan), Kept()
    failed: dict[str, GateError] = {}
    for step in plan.steps:
        key, placement = keys[step.id], placements.get(plan.stage_of(step), placements[""])
        if refused := [name for name in after[step.id] if name in failed]:
            yield StepSkipped(step=step.id, key=key, failed=refused[0])
            continue
        context = steps.Context(
            plan=plan,
            key=key,
            folder=store.folder(key),
            inputs={name: store.folder(keys[name]) for name in after[step.id]},
            root=root,
            sources=sources,
            placement=placement,
            stop=stop,
            kept=kept,
        )
        try:
            yield from _step(step, context, store, done)
        except GateError as error:
            failed[step.id] = error.with_traceback(None)  # whose frames hold the models that were compared
            yield StepFailed(step=step.id, key=key, message=error.message)
        except RunError as error:
            if not failed:
                raise
            counted = "a gate has" if len(failed) == 1 else f"{len(failed)} gates have"
            message = f"{error.message}; before that {counted} failed: {_each(failed)}"
            raise type(error)(error.code, message, error.hint) from error
    if failed:
        raise _of_all(failed)


def _step(step: Step, context: steps.Context, store: Store, done: dict[str, Receipt]) -> Iterator[Any]:
    """The events of a step that is done, or found done."""
    key, placement = context.key, context.placement
    inputs = {name: done[name].digest for name in step.inputs}
    with store.locked(key):
        receipt = store.receipt(key, step.step, inputs)
        if receipt is not None and not _can_go_on(step, context.folder):
            shutil.rmtree(context.folder / checkpoints.FOLDER, ignore_errors=True)  # of a run that died just then
            done[step.id] = receipt
            yield StepReused(step=step.id, key=key)
            if trainings(step) and receipt.placement["engine"] != placement.engine:
                message = f"it was done on {receipt.placement['engine']}: what is done is not done again on another"
                yield Said(step=step.id, message=message)
            return
        if context.stop():
            message = f"stopped before the step {step.id}; what was done before it is kept"
            raise Interrupted("E130", message, "the same command goes on")
        if step.step in RESUMABLE:
            store.resume(key)
        else:
            store.clear(key)
        yield StepStarted(step=step.id, key=key)
        start = time.monotonic()
        yield from steps.execute(step, context)
        done[step.id] = store.finish(key, step.id, time.monotonic() - start, asdict(placement), inputs)
        shutil.rmtree(context.folder / checkpoints.FOLDER, ignore_errors=True)
    yield StepFinished(step=step.id, key=key, seconds=done[step.id].seconds)


def _of_all(failed: Mapping[str, GateError]) -> GateError:
    """One error for the gates that failed."""
    first, *others = failed.values()
    if not others:
        return first
    return GateError(first.code, f"{len(failed)} gates failed: {_each(failed)}", first.hint)


def _each(failed: Mapping[str, GateError]) -> str:
    return "; ".join(f"{name}: {error.message}" for name, error in failed.items())


def _can_go_on(step: Step, folder: Path) -> bool:
    """Whether more can be done here of a finished step than was: a gate run, or a licence told that was not known."""
    if isinstance(step, (Package, PackageTogether)):
        return _knows_more(step, folder)
    if not isinstance(step, VerifyExport) or unrun(step.export):
        return False
    found = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
    return found["verification"]["passed"] is None


def _knows_more(step: Package | PackageTogether, folder: Path) -> bool:
    """Whether the base model's licence is known here, and is not what the bundle says."""
    parts = {"": step} if isinstance(step, Package) else step.parts
    known = {name: part.origin.licence for name, part in parts.items() if part.origin.licence != NO_LICENCE}
    told = {name: read_manifest(folder / BUNDLE / name).provenance.origin.licence for name in known}
    return told != known


def _link(plan: Plan, store: Store, run: Path, done: Mapping[str, Receipt]) -> None:
    """Readable names in the run's folder for what its finished steps left; a gate's findings are kept when it fails."""
    keys = plan.keys()
    wanted: dict[str, Path] = {}
    for step in plan.steps:
        for name in LINKS.get(step.step, ()):
            target = store.folder(keys[step.id]) / name
            if target.exists() and (step.id in done or step.step == "verify"):
                wanted[_told_apart(name, _suffix(plan, step))] = target
    stale = {path.name for path in run.iterdir() if path.is_symlink()}
    for name in {*wanted, *stale}:
        _point(run / name, wanted.get(name))


def _told_apart(name: str, suffix: str) -> str:
    """A name with a suffix before what says of which kind the file is: verification-2.json, bundle-2."""
    named = Path(name)
    return f"{named.stem}{suffix}{named.suffix}"


def _suffix(plan: Plan, step: Step) -> str:
    """What tells the outputs of a step from those of others of its kind; nothing in the last stage."""
    suffix = step.id.removeprefix(step.step.removesuffix("-together"))
    return "" if suffix == f"-{plan.stages[-1]}" and step.step in ("train", "merge") else suffix


def ancestors(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The steps that each step comes after, directly or not: what is in them its key covers."""
    found: dict[str, tuple[str, ...]] = {}
    for step in plan.steps:
        found[step.id] = tuple(dict.fromkeys(each for name in step.inputs for each in (name, *found[name])))
    return found


def _point(link: Path, target: Path | None) -> None:
    if target is None:
        link.unlink()
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}{PART}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
