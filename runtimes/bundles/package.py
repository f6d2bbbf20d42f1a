"""The package step: a bundle is assembled beside its place, verified as its receiver would, and then put there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compiler.files import new_folder, write_json, write_text
from compiler.origin import CARD
from compiler.plan import Package
from compiler.recipe import Held
from compiler.tasks import Task
from compiler.tokenizer_files import CARRIED
from runtimes import tasks
from runtimes.bundles.bundle import CONFIG, GOLDEN, HELD_OUT, WRITTEN
from runtimes.bundles.card_metadata import card
from runtimes.bundles.client_files import write_client_files
from runtimes.bundles.genai_files import write_genai
from runtimes.bundles.manifest import Manifest, TogetherManifest, as_read, seal
from runtimes.bundles.provenance import NOTHING_TOLD, Provenance
from runtimes.errors import RunError
from runtimes.export.facts import adapter_file, data_file, virtual_file
from runtimes.export.functions import FUNCTION
from runtimes.learnt import learnt
from runtimes.rows.inputs import files_of
from runtimes.verification.edges import GOLDEN as VERIFIED_GOLDEN
from runtimes.verification.edges import HELD_OUT as VERIFIED_HELD_OUT
from runtimes.verification.edges import WRITTEN as VERIFIED_WRITTEN
from runtimes.verification.edges import Report, read_report
from runtimes.verification.gate import Verification, require_passed
from runtimes.verification.receiver import verify_bundle, verify_together


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the parts of a bundle come from."""

    written: Path  # the folder of an export
    graphs: tuple[str, ...]  # in it, as in the bundle
    model_folder: Path  # of the exported model: its config.json
    tokenizer_folder: Path  # tokenizer.json and what stands beside it
    verify_folder: Path  # what verify_export wrote
    key: str  # of the package step
    precision: Held = "fp32"
    versions: Mapping[str, str] = field(default_factory=dict)  # of the libraries that made the model and the graph
    baseline: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    provenance: Provenance = NOTHING_TOLD
    part: str = ""  # of several tasks in one graph, the output of this one


def package(step: Package, parts: Parts, out: Path, *, threads: int = 0) -> Verification:
    """The receiver's verification of the bundle now at `out`, which appears whole or not at all.

    Raises GateError E603 when the bundle does not answer as it should, RunError E606 when a part is missing.
    """
    report = read_report(parts.verify_folder)
    step = replace(step, task=learnt(step.task, parts.verify_folder))
    require_passed(report.verification, code="E602")
    with new_folder(out) as folder:
        inputs = _copy(step, parts, folder)
        manifest = _manifest(step, parts, report, inputs)
        write_text(folder / CARD, card(step.name, [manifest]))
        seal(folder, manifest)
        verification = verify_bundle(folder, threads=threads)
        require_passed(verification, code="E603")
    return verification


def package_together(steps: Mapping[str, Package], parts: Mapping[str, Parts], out: Path, *, key: str) -> Verification:
    """As `package`, of several tasks: what they share once, and a folder for each of them."""
    first = next(iter(steps))
    with new_folder(out) as folder:
        _copy_shared(steps[first], parts[first], folder)
        shutil.copyfile(parts[first].model_folder / CONFIG, folder / CONFIG)
        inputs, manifests = _inputs(parts[first].graphs, folder), []
        for name, step in steps.items():
            (folder / name).mkdir()
            manifests.append(_seal_part(step, parts[name], inputs, folder / name))
        write_text(folder / CARD, card(steps[first].name, manifests))
        seal(folder, TogetherManifest(name=steps[first].name, parts=tuple(steps), plan_key=key))
        verification = verify_together(folder)
        require_passed(verification, code="E603")
    return verification


def _seal_part(step: Package, parts: Parts, inputs: tuple[str, ...], folder: Path) -> Manifest:
    """Writes what is one task's own into a folder in that of the graph."""
    report = read_report(parts.verify_folder)
    step = replace(step, task=learnt(step.task, parts.verify_folder))
    require_passed(report.verification, code="E602")
    _copy_own(step, parts, folder)
    return seal(folder, _manifest(step, parts, report, inputs))


def _copy(step: Package, parts: Parts, folder: Path) -> tuple[str, ...]:
    """Writes every file of the bundle but its manifest and card; what its graphs are given."""
    _copy_shared(step, parts, folder)
    _copy_own(step, parts, folder)
    inputs = _inputs(parts.graphs, folder)
    try:
        write_client_files(step, folder, parts.graphs, inputs, parts.precision)
        write_genai(step, parts.written, parts.graphs[0], folder)
    except (OSError, ValueError) as error:
        raise _missing(error) from error
    return inputs


def _missing(error: OSError | ValueError) -> RunError:
    return RunError("E606", f"a part of the bundle is missing: {error}", "run the steps before it again")


def _copy_shared(step: Package, parts: Parts, folder: Path) -> None:
    """The graph, and what rows are read with."""
    try:
        for name in parts.graphs:
            _copy_graph(parts.written / name, folder / name)
        for name in files_of(step.task):
            shutil.copyfile(parts.tokenizer_folder / name, folder / name)
    except OSError as error:
        raise _missing(error) from error
    for name in CARRIED:
        if (parts.tokenizer_folder / name).is_file():
            shutil.copyfile(parts.tokenizer_folder / name, folder / name)


def _copy_graph(graph: Path, to: Path) -> None:
    """A graph, and what lies beside it."""
    to.parent.mkdir(exist_ok=True)
    shutil.copyfile(graph, to)
    for beside in (data_file, virtual_file, adapter_file):
        if beside(graph).exists():
            shutil.copyfile(beside(graph), beside(to))


def _copy_own(step: Package, parts: Parts, folder: Path) -> None:
    """What the graph's outputs mean, and what they are on golden rows."""
    try:
        shutil.copyfile(parts.verify_folder / VERIFIED_GOLDEN, folder / GOLDEN)
        shutil.copyfile(parts.verify_folder / VERIFIED_HELD_OUT, folder / HELD_OUT)
        if step.generation is not None:
            shutil.copyfile(parts.verify_folder / VERIFIED_WRITTEN, folder / WRITTEN)
        config = json.loads((parts.model_folder / CONFIG).read_text(encoding="utf-8")) | _head_config(step.task)
    except (OSError, ValueError) as error:
        raise _missing(error) from error
    write_json(folder / CONFIG, config)
    for name, content in tasks.module_of(step.task).bundle_files(step.task).items():
        write_json(folder / name, content)


def _inputs(graphs: Sequence[str], folder: Path) -> tuple[str, ...]:
    """What the graphs are given, each once."""
    return tuple(dict.fromkeys(name for graph in graphs for name in _inputs_of(folder / graph)))


def _inputs_of(graph: Path) -> tuple[str, ...]:
    if graph.suffix == Path(FUNCTION).suffix:
        from runtimes.mlx.functions import open_function

        return open_function(graph).inputs
    from runtimes.export.session import open_session

    return open_session(graph, results=()).inputs


def _head_config(task: Task) -> dict[str, Any]:
    """What config.json says of the head, as JSON has it: numbers are strings where they are keys."""
    found: dict[str, Any] = json.loads(json.dumps(dict(tasks.module_of(task).head(task).config)))
    found.pop("num_labels", None)  # transformers counts the names
    return found


def _manifest(step: Package, parts: Parts, report: Report, inputs: tuple[str, ...]) -> Manifest:
    edges = report.verification.edges
    adapter = adapter_file(Path(parts.graphs[0]))
    manifest = Manifest(
        name=step.name,
        task=step.task,
        plan_key=parts.key,
        max_length=step.max_length,
        columns=step.columns,
        inputs=inputs,
        precision=parts.precision,
        metrics=report.metrics,
        generation=step.generation,
        tolerance=report.golden_tolerance,
        batch_tolerance=report.batch_tolerance,
        max_excused=report.max_excused,
        max_metric_drop=report.max_metric_drop,
        held_out=report.held_out,
        golden=report.golden,
        exported=report.stages[edges[-1].target],
        baseline=parts.baseline,
        gate=report.verification,
        versions=parts.versions,
        provenance=parts.provenance,
        part=parts.part,
        adapter=adapter.as_posix() if (parts.written / adapter).exists() else "",
    )
    return as_read(replace(manifest, files=dict.fromkeys(parts.graphs, "")))  # sealed later
