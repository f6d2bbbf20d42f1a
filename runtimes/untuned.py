"""A model that was not tuned here: what it is compared on, and its export through the gate into a bundle.

The steps are those of a recipe's plan without the ones that tune: export, verify, package. Nothing of them is kept but
the bundle; where the gate fails, what was written stays beside its place, for whoever looks for the fault.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compiler.diagnostics import counted
from compiler.facts import ModelFacts
from compiler.files import PART, sync_folder, write_json
from compiler.functions import is_function, shapes_of
from compiler.generation import Generation
from compiler.metrics import Metric
from compiler.origin import Origin
from compiler.plan import ExportModel, ModelFiles, Package, Plan, Quantize, VerifyExport
from compiler.precisions import drop_of
from compiler.recipe import Export, Onnx, Verify
from compiler.tasks import Example, Task
from compiler.tasks import module_of as compiler_module_of
from compiler.typed import to_json
from runtimes import export
from runtimes.bundles.golden import spread
from runtimes.bundles.manifest import digest_of_rows
from runtimes.bundles.package import Parts, package
from runtimes.bundles.provenance import Provenance
from runtimes.errors import RunError
from runtimes.events import Said, StepFinished, StepStarted
from runtimes.rows.features import Table
from runtimes.rows.inputs import Row, identities, open_reader
from runtimes.rows.windows import windows_of
from runtimes.saved import SavedModel
from runtimes.steps.package import graphs_of
from runtimes.steps.quantize import quantized
from runtimes.store import RECORDED, versions_of
from runtimes.tasks.interface import InputReader
from runtimes.verification.comparison import HeldOut, encoded
from runtimes.verification.costs import cost_lines
from runtimes.verification.edges import Source, verify_export
from runtimes.verification.gate import report_lines, require_passed
from runtimes.verification.sample_rows import sample_rows
from runtimes.verification.stages import Model, written_stages

SOURCE = "source"
"""The stage that others are compared with: the model as it was found, in float32."""
ENGINE, DEVICE = "pytorch", "cpu"
TOKENS_WRITTEN = 32
"""Of each text that the source writes for the gate: enough to go around the cache many times."""
FAILED = ".failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model as it was found, the task that its head answers, and the rows to compare on."""

    name: str
    files: ModelFiles
    facts: ModelFacts
    folder: Path
    task: Task
    max_length: int
    columns: Mapping[str, str]
    rows: Sequence[Row] | None  # by role; None: those that are made up
    metrics: tuple[Metric, ...]  # none where the rows have no answers
    verify: Verify
    origin: Origin  # for the card

    @property
    def saved(self) -> SavedModel:
        """The model on disk."""
        return SavedModel(self.folder)

    @property
    def generation(self) -> Generation | None:
        """How it writes, where it does."""
        return Generation(few_shot=0) if compiler_module_of(self.task).WRITES else None

    def reader(self) -> InputReader:
        """What its rows are read with."""
        return open_reader(self.task, self.folder, max_length=self.max_length, root=Path())

    def held_out(self, reader: InputReader) -> HeldOut:
        """The rows, long ones in windows where the task reads them so."""
        rows = sample_rows(self.task, reader) if self.rows is None else self.rows
        windows = [part for parts in windows_of(self.task, rows, reader) for part in parts]
        return HeldOut(task=self.task, rows=windows, answered=bool(self.metrics))

    def verifying(self, exported: Export, drop: float, written: tuple[str, ...] = ()) -> VerifyExport:
        """What the gate asks. `drop`: of a metric, over an edge that rounds; `written`: the steps that wrote."""
        return VerifyExport(
            id="verify",
            inputs=written,
            task=self.task,
            split="test",
            metrics=self.metrics,
            rows=self.verify.rows or 0,
            tolerance_factor=self.verify.tolerance_factor,
            max_excused=self.verify.max_excused,
            generation=self.generation and replace(self.generation, max_new_tokens=TOKENS_WRITTEN),
            max_metric_drop=drop,
            export=exported,
            model=self.files,
        )

    def source(self) -> Model:
        """The model as the gate asks it."""
        return Model(task=self.task, saved=self.saved, engine=ENGINE, device=DEVICE)


def plan_of(found: Found, exported: Export) -> Plan:
    """The steps of an export, with their keys: what the model and the choices are, and the rows that ranges are of."""
    rounds = isinstance(exported, Onnx) and not exported.is_exact
    whole = exported.whole if isinstance(exported, Onnx) and rounds else exported
    function = is_function(exported, found.task)
    shapes = shapes_of(found.task, found.max_length, found.generation) if function else None
    write = ExportModel(id="export", inputs=(), task=found.task, export=whole, model=found.files, shapes=shapes)
    quantize = (
        (
            Quantize(
                id="quantize",
                inputs=("export",),
                task=found.task,
                export=replace(exported, max_metric_drop="auto"),
                calibration=_calibration(found, exported) if exported.precision == "int8-static" else "",
            ),
        )
        if isinstance(exported, Onnx) and rounds
        else ()
    )
    written = tuple(step.id for step in (write, *quantize))
    verify = found.verifying(exported, drop_of(exported), written)
    bundle = Package(
        id="package",
        inputs=(written[-1], "verify"),
        name=found.name,
        task=found.task,
        tokenizer=found.files,
        max_length=found.max_length,
        columns=found.columns,
        generation=found.generation,
        origin=found.origin,
    )
    packaged = (bundle,) if function or isinstance(exported, Onnx) else ()
    return Plan(name=found.name, target="cpu", steps=(write, *quantize, verify, *packaged), choices=())


def export_found(found: Found, plan: Plan, out: Path) -> Iterator[Any]:
    """The events of an export into the folder `out`, which appears whole, and only when the gate has passed.

    Raises RunError when a step fails, E404 while another process exports there; GateError E602 when the gate does: then
    the graph and the gate's findings are in the folder of `out`'s name and `.failed`.
    """
    keys = plan.keys()
    with _work_folder(out) as work:
        for step in plan.steps:
            yield StepStarted(step=step.id, key=keys[step.id])
            start = time.monotonic()
            match step:
                case ExportModel():
                    yield from _write(step, found, work)
                case Quantize():
                    yield Said(step=step.id, message=_quantize(step, found, work))
                case VerifyExport():
                    yield from _verify(step, plan, found, work, out)
                case Package():
                    yield from _package(step, plan, found, work)
            yield StepFinished(step=step.id, key=keys[step.id], seconds=time.monotonic() - start)
        packaged = any(isinstance(step, Package) for step in plan.steps)
        (work / "bundle" if packaged else work / "export" / "mlx").rename(out)
        sync_folder(out.absolute().parent)


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, of this process alone. Its name is always the same: what a killed process left goes first.

    Raises RunError E404 while another process has it.
    """
    work = out.absolute().with_name(f".{out.name}{PART}")
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_name(f".{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        message = f"another process is exporting to {out}"
        raise RunError("E404", message, "wait for it, or name another folder with --output") from None
    try:
        for left in work.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        for name in ("export", "quantize", "verify"):
            (work / name).mkdir()
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
        lock.release()


def _write(step: ExportModel, found: Found, work: Path) -> Iterator[Any]:
    if step.shapes is None:
        written = export.module_of(step.export).write(step.export, step.task, found.saved, work / "export")
    else:
        module = export.function_module_of(step.export)
        written = module.write_function(step.export, step.task, found.saved, step.shapes, work / "export", DEVICE)
    write_json(work / "export" / "export.json", written.facts)
    yield Said(step=step.id, message=written.says)


def _quantize(step: Quantize, found: Found, work: Path) -> str:
    """Rounds the graph; what int8-static sees the ranges on are some of the rows that are given."""
    rows = _calibration_rows(found, step.export)[1] if step.export.precision == "int8-static" else None
    return quantized(step, work / "export", work / "quantize", rows)


def _calibration_rows(found: Found, exported: Onnx) -> tuple[Sequence[Row], Table]:
    """The rows on which int8-static sees ranges, and as they are read."""
    reader = found.reader()
    given = found.held_out(reader).rows
    rows = [given[number] for number in spread(len(given), exported.calibration_rows)]
    return rows, encoded(found.task, [Example(row=row) for row in rows], reader)


def _calibration(found: Found, exported: Onnx) -> str:
    """The sha256 of these rows."""
    return digest_of_rows(identities(found.task, *_calibration_rows(found, exported)))


def _verify(step: VerifyExport, plan: Plan, found: Found, work: Path, out: Path) -> Iterator[Any]:
    reader = found.reader()
    held_out = found.held_out(reader)
    yield Said(step=step.id, message=said_of_rows(found))
    source = found.source()
    verified = verify_export(
        step,
        held_out=held_out,
        encoder=reader,
        stages=[source.stage(SOURCE), *written_stages(step, plan, found.saved, work.joinpath, DEVICE)],
        source=Source(source.noise(), source.writer(step.generation, reader)),
        out=work / "verify",
    )
    report = to_json(verified.report)
    for line in (*cost_lines(report["costs"], report["stages"]), *report_lines(verified.verification)):
        yield Said(step=step.id, message=line)
    if not verified.verification.passed:
        kept = out.with_name(out.name + FAILED)
        shutil.rmtree(kept, ignore_errors=True)
        work.rename(kept)
        hint = f"the graph is in {kept}, verification.json and disagreements.jsonl, which lists the rows, in its verify"
        require_passed(verified.verification, code="E602", hint=hint)


def said_of_rows(found: Found) -> str:
    """What is compared on, and what that can't show."""
    if found.rows is None:
        kind = "rows that are made up"
    else:
        total = len(found.rows)
        most = min(found.verify.rows or total, total)
        rows = counted(total, "row") if most == total else f"{most:,} of {counted(total, 'row')}"
        kind = f"{rows} {'with' if found.metrics else 'without'} answers"
    if found.metrics:
        return f"compared on {kind}"
    give = "rows with answers in --data would measure some"
    return f"compared on {kind}: outputs and decisions alone, no metric is measured ({give})"


def _package(step: Package, plan: Plan, found: Found, work: Path) -> Iterator[Any]:
    written = plan.step(step.inputs[0])
    graphs, precision = graphs_of(written, step.task)
    parts = Parts(
        written=work / written.id,
        graphs=graphs,
        precision=precision,
        model_folder=found.folder,
        tokenizer_folder=found.folder,
        verify_folder=work / "verify",
        key=plan.keys()[step.id],
        versions=versions_of(RECORDED),
        provenance=_provenance(found),
    )
    verification = package(step, parts, work / "bundle")
    yield Said(step=step.id, message=f"verified as its receiver will: {report_lines(verification)[-1]}")


def _provenance(found: Found) -> Provenance:
    """Where the model is from: it is the base itself, or was tuned from it before we saw it."""
    if not found.origin.tuned:
        return Provenance(origin=found.origin, base_files=found.files.files)
    weights = {name: digest for name, digest in found.files.files.items() if name.endswith(".safetensors")}
    return Provenance(origin=found.origin, weights={f"model/{name}": digest for name, digest in weights.items()})
