"""report.json of a run: everything that its steps measured, in one place; and as lines for a terminal and a page."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compiler.files import write_json, write_text
from compiler.plan import Plan, TrainTogether, VerifyExport
from compiler.typed import to_json
from runtimes import tasks
from runtimes.store import Receipt, Store

Report = Mapping[str, Any]
_EXPORTS = ("export", "export-together", "quantize")
# Kind of step -> the part of a report that it measures, and the file that it leaves.
_MEASURED = {
    "prepare": ("data", "data.json"),
    "train": ("training", "train.json"),
    "evaluate": ("evaluation", "evaluation.json"),
}


State = Literal["unfinished", "interrupted", "failed", "gate failed"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended that did not do all of its steps: as far as is known while it goes on, or after a kill."""

    state: State = "unfinished"
    message: str = ""


def write_report(
    plan: Plan, store: Store, run: Path, done: Mapping[str, Receipt], reused: Collection[str], ended: Ended
) -> None:
    """Writes report.json and report.html from what the finished steps left. `reused`: those that were done before."""
    report = collect(plan, store, done, reused, ended)
    write_json(run / "report.json", report)
    write_text(run / "report.html", report_html(report))


def collect(
    plan: Plan, store: Store, done: Mapping[str, Receipt], reused: Collection[str], ended: Ended
) -> dict[str, Any]:
    """The report as JSON. A part is null while its step is not done; a gate's findings are kept when it fails."""
    keys = plan.keys()
    receipts = {step.id: to_json(done[step.id]) if step.id in done else None for step in plan.steps}

    def left(step_id: str, name: str) -> Any:
        return _read(store.folder(keys[step_id]) / name) if step_id in done else None

    def measured(stage: str) -> dict[str, Any]:
        own: dict[str, str] = {step.step: step.id for step in plan.steps if plan.stage_of(step) == stage}
        if "train-together" in own:
            own = {"train": own["train-together"]}  # the rest is of one of its tasks
        return {part: left(own.get(kind, ""), file) for kind, (part, file) in _MEASURED.items()}

    gates = {
        step.id: _read(store.folder(keys[step.id]) / "verification.json")
        for step in plan.steps
        if isinstance(step, VerifyExport) and set(step.inputs) <= set(done)
    }
    verdicts = [gate["verification"]["passed"] if gate else None for gate in gates.values()]
    return {
        "report": 1,
        "name": plan.name,
        "state": "done" if all(receipts.values()) else ended.state,
        "message": ended.message,
        "gate_passed": _passed(verdicts),
        "target": plan.target,
        "steps": [
            {"id": name, "key": keys[name], "receipt": receipt, "reused": name in reused}
            for name, receipt in receipts.items()
        ],
        "choices": to_json(plan.choices),
        **measured(plan.stages[-1]),
        **_of_tasks(plan, left),
        "stages": [{"name": name, **measured(name)} for name in plan.stages if name],
        "gates": gates,
        "exports": {step.id: left(step.id, "export.json") for step in plan.steps if step.step in _EXPORTS},
    }


def _of_tasks(plan: Plan, left: Callable[[str, str], Any]) -> dict[str, Any]:
    """Of each of several tasks its rows and its evaluation; nothing of a plan with one task."""
    parts = [name for step in plan.steps if isinstance(step, TrainTogether) for name in step.parts]
    found = {
        name: {
            "data": left(f"prepare-{name}", "data.json"),
            "evaluation": left(f"evaluate-{name}", "evaluation.json"),
        }
        for name in parts
    }
    return {"tasks": found} if found else {}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _passed(verdicts: list[bool | None]) -> bool | None:
    """Whether all gates passed; None while one has not, or where one could not be run."""
    if False in verdicts:
        return False
    return None if not verdicts or None in verdicts else True


def report_lines(report: Report) -> list[str]:
    """The report for a terminal."""
    return [line for section in _sections(report) for line in section]


def _sections(report: Report) -> Iterator[list[str]]:
    yield [f"{report['name']}: {report['state']}{_how_far(report)}"]
    for number, stage in enumerate(stages_in(report)):
        if "name" in stage and any(stage[part] for part, _ in _MEASURED.values()):
            yield [f"  stage {stage['name']}"]
        yield from _measured_lines(_named_before(stage) if number else stage)
    for name, gate in report["gates"].items():
        if gate:
            yield _gate_lines(name, gate)
    yield _table_lines({name: gate for name, gate in report["gates"].items() if gate}, tuple(report.get("tasks", ())))
    yield list(_seconds_lines([step for step in report["steps"] if step["receipt"]]))


def _seconds_lines(done: list[Mapping[str, Any]]) -> Iterator[str]:
    """What the steps took that the run did itself, and which it found done."""
    reused = [step["id"] for step in done if step.get("reused")]  # reports of older versions don't tell
    seconds = [f"{step['id']} {step['receipt']['seconds']:.1f}" for step in done if step["id"] not in reused]
    if seconds:
        yield f"  seconds: {', '.join(seconds)}"
    if reused:
        yield f"  reused: {', '.join(reused)}"


def stages_in(report: Report) -> list[Report]:
    """What was measured of each stage, with its name; of a recipe without stages what there is, without a name."""
    parts = {part: report[part] for part, _ in _MEASURED.values()}
    return report.get("stages") or [{**parts, "tasks": report.get("tasks", {})}]  # reports of older versions have none


def _measured_lines(stage: Report) -> Iterator[list[str]]:
    named = {"": stage, **stage.get("tasks", {})}  # of several tasks those of each
    for name, found in named.items():
        if found["data"]:
            yield _data_lines(found["data"], name)
    if stage["training"]:
        yield [_training_line(stage["training"]), *_weight_lines(stage["training"]), *_engine_lines(stage["training"])]
    for name, found in named.items():
        if found["evaluation"]:
            yield [*([f"  {name}"] if name else []), *_evaluation_lines(found["evaluation"])]


def _data_lines(data: Mapping[str, Any], name: str) -> list[str]:
    """The rows of each split. `name`: of several tasks, whose they are."""
    whose = f"{name}, " if name else ""
    return [f"  {whose}{split}: {facts['rows']:,} rows{_tokens(facts)}{_cut(facts)}" for split, facts in data.items()]


def _weight_lines(training: Mapping[str, Any]) -> list[str]:
    """What the losses of several tasks were multiplied by at last."""
    weights = training.get("weights", {})  # runs of one task have none
    shown = ", ".join(f"{name} {weight:.4g}" for name, weight in weights.items())
    return [f"  losses weighed at the end: {shown}"] if shown else []


def _named_before(stage: Report) -> Report:
    """A stage that started from another one's model, which is no untuned one."""
    if not stage["evaluation"]:
        return stage
    baseline = stage["evaluation"]["baseline"].items()
    named = {"before" if name == "untuned" else name: figures for name, figures in baseline}
    return {**stage, "evaluation": {**stage["evaluation"], "baseline": named}}


def _how_far(report: Report) -> str:
    """After which step a run that is not done has stopped, and what was said then. A gate that fails stops none."""
    if report["state"] == "done":
        return ""
    done = [step["id"] for step in report["steps"] if step["receipt"]]
    message = report.get("message", "")  # reports of older versions have none
    if report["state"] == "gate failed":
        return f": {message}" if message else ""
    return (f" after the step {done[-1]}" if done else " before its first step") + (f": {message}" if message else "")


def _tokens(facts: Mapping[str, Any]) -> str:
    """How many tokens there are, where the model reads tokens."""
    return f", {facts['tokens']:,} tokens" if facts["tokens"] else ""


def _cut(facts: Mapping[str, Any]) -> str:
    """How many rows were cut: what was cut off is not in the figures."""
    return f", {facts['truncated']:,} rows cut at {facts['longest']} tokens" if facts["truncated"] else ""


def _training_line(training: Mapping[str, Any]) -> str:
    trained, total = training["parameters"]["trained"], training["parameters"]["total"]
    unit = training.get("unit", "tokens")  # runs of older versions have none
    speed = f", {training['tokens_per_second']:,.0f} {unit}/s" if training["tokens_per_second"] else ""
    limit = training.get("memory_limit_gib")  # runs of older versions have none
    allowed = f" of {limit} GiB allowed" if limit else ""
    again = ", layers computed again" if training.get("gradient_checkpointing") else ""
    memory = f"{_frozen(training)}, peak memory {training['peak_memory_bytes'] / 2**30:.2f} GiB{allowed}{again}"
    return f"  trained {trained:,} of {total:,} parameters ({trained / total:.2%}){speed}{memory}"


def _engine_lines(training: Mapping[str, Any]) -> list[str]:
    """Which engine trained which steps; runs of older versions don't tell."""
    engines = training.get("engines", [])
    ends = [*(engine["after_step"] for engine in engines[1:]), training.get("steps", 0)][: len(engines)]
    spans = [(engine["engine"], engine["after_step"] + 1, end) for engine, end in zip(engines, ends, strict=True)]
    shown = [f"steps {first:,} to {last:,} on {name}" for name, first, last in spans if first <= last]
    return [f"  {', '.join(shown)}"] if shown else []


def _frozen(training: Mapping[str, Any]) -> str:
    """How small the frozen weights are held, where they are not in float32; runs of older versions don't tell."""
    found = training.get("frozen_bytes") or {"held": 0, "float32": 0}
    held, in_float32 = found["held"], found["float32"]
    return f", frozen weights in {held / 2**20:,.2f} of {in_float32 / 2**20:,.2f} MiB" if held < in_float32 else ""


def _evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    columns = {"tuned": evaluation["metrics"], **evaluation["baseline"]}
    names = list(evaluation["metrics"])
    lines = [f"  {evaluation['rows']:,} {evaluation['split']} rows"]
    lines.append("    " + f"{'':<20}" + "".join(f"{column:>12}" for column in columns))
    for name in names:
        cells = "".join(f"{figures[name]:>12.4f}" if name in figures else f"{'':>12}" for figures in columns.values())
        lines.append(f"    {name:<20}{cells}")
    if evaluation.get("prompts_cut"):  # none of versions before
        lines.append(f"    {evaluation['prompts_cut']}")
    asked = "the model before the stage" if "before" in columns else "the untuned model"
    shown = [few_shot_line(evaluation["few_shot"], asked)] if "few_shot" in evaluation else []
    return [*lines, *shown, *tasks.module_named(evaluation["task"]).detail_lines(evaluation)]


def few_shot_line(told: Mapping[str, Any], asked: str = "the untuned model") -> str:
    """How many solved rows stood before the prompts of the model that was asked, and before how many were fewer."""
    wanted, total = told["wanted"], sum(told["prompts"].values())
    fewer = total - told["prompts"].get(str(wanted), 0)
    rows = "train row" if wanted == 1 else "train rows"
    left_out = f"; before {fewer:,} of {total:,} prompts there was room for fewer" if fewer else ""
    return f"    few_shot: {asked}, {wanted} solved {rows} before each prompt{left_out}"


def _table_lines(gates: Mapping[str, Mapping[str, Any]], parts: tuple[str, ...]) -> list[str]:
    """What each stage of all gates costs and is worth; gates of older versions have no costs.

    `parts`: several tasks, whose gates end in their names, and whose metrics stand beside each other.
    """
    from runtimes.verification.costs import cost_lines

    costs = {name: cost for gate in gates.values() for name, cost in gate.get("costs", {}).items()}
    stages: dict[str, dict[str, float]] = {}
    for gate_name, gate in gates.items():
        whose = next((f"{part} " for part in parts if gate_name.endswith(f"-{part}")), "")
        for name, figures in gate["stages"].items():
            stages.setdefault(name, {}).update({f"{whose}{metric}": value for metric, value in figures.items()})
    return [f"  {line}" for line in cost_lines(costs, stages)]


def _gate_lines(name: str, gate: Mapping[str, Any]) -> list[str]:
    from compiler.typed import read
    from runtimes.verification.gate import Verification
    from runtimes.verification.gate import report_lines as gate_lines

    verification = read(Verification, gate["verification"])
    return [f"  {name}", *(f"    {line}" for line in gate_lines(verification))]


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ border: 1px solid #ccc; padding: .25rem .6rem; text-align: right }}
th:first-child, td:first-child {{ text-align: left }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto }}
</style>
<h1>{title}</h1>
<pre>{lines}</pre>
{curve}
<h2>Choices</h2>
<table><tr><th>value</th><th>chosen</th><th>why</th></tr>{choices}</table>
</html>
"""


def report_html(report: Report) -> str:
    """The report as one page without scripts or links to elsewhere."""
    choices = "".join(
        f"<tr><td>{html.escape(c['pointer'])}</td><td>{html.escape(json.dumps(c['value']))}</td>"
        f"<td>{html.escape(c['reason'])}</td></tr>"
        for c in report["choices"]
    )
    trained = [stage for stage in stages_in(report) if stage["training"]]
    return _PAGE.format(
        title=html.escape(report["name"]),
        lines=html.escape("\n".join(report_lines(report))),
        curve="".join(_curve(stage["training"]["curve"], stage.get("name")) for stage in trained),
        choices=choices,
    )


def _curve(curve: list[Mapping[str, float]], stage: str | None) -> str:
    """The training loss over the steps, drawn as SVG."""
    if len(curve) < 2:
        return ""
    width, height = 640, 200
    steps, losses = [point["step"] for point in curve], [point["loss"] for point in curve]
    low, high = min(losses), max(losses)
    span_x, span_y = max(steps) - min(steps) or 1, high - low or 1
    points = " ".join(
        f"{(step - min(steps)) / span_x * width:.1f},{(high - loss) / span_y * height:.1f}"
        for step, loss in zip(steps, losses, strict=True)
    )
    title = f"Training loss of the stage {html.escape(stage)}" if stage else "Training loss"
    return (
        f"<h2>{title}, nats</h2><p>from {losses[0]:.4f} to {losses[-1]:.4f} over {len(curve)} steps</p>"
        f'<svg viewBox="-5 -5 {width + 10} {height + 10}" width="{width}" height="{height}">'
        f'<polyline points="{points}" fill="none" stroke="#1660a8" stroke-width="1.5"/></svg>'
    )
