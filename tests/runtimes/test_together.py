"""Several tasks on one model: both engines do the same, a run goes on bit by bit, files are whole and stored once."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

from safetensors.numpy import load_file

from compiler.methods import AdaLoRA, Prefix, Scratch
from compiler.placement import Runtime
from compiler.plan import TrainTogether
from compiler.recipe import AdamW
from runtimes import steps
from runtimes.backends import backend
from runtimes.loop import train_together
from runtimes.protocol import Engine
from runtimes.reports import EvaluationReport, Report, StepReport
from runtimes.rows.features import Features
from runtimes.rows.train_rows import TrainRows
from runtimes.saved import trained_folder, trained_model
from runtimes.together import OWN, SHARED
from tests.conformance.cells import difference, worst_difference
from tests.runtimes.tiny import placed
from tests.several import FACTS, compiled, write_several

METHODS: dict[str, Any] = {
    "full": "full",
    "head": "head",
    "freeze": {"type": "freeze", "layers": 1},
    "lora": {"type": "lora", "rank": 4},
}
Rows = dict[str, tuple[Features, Features | None]]
TWENTY = {"training": {"max_steps": 20, "learning_rate": 5e-3, "batch_size": 9, "micro_batch_size": 5}}


class Prepared:
    """A project whose rows are prepared, and its train step."""

    def __init__(self, folder: Path, **recipe: Any) -> None:
        self.folder = write_several(folder, num_rows=80, num_rated=40, **recipe)
        self.compiled = compiled(folder)
        step = self.compiled.plan.step("train")
        assert isinstance(step, TrainTogether)
        self.step = step
        self.rows: Rows = {name: self._prepare(prepare) for name, prepare in zip(step.parts, step.inputs, strict=True)}

    def _prepare(self, name: str) -> tuple[Features, Features]:
        context = steps.Context(
            plan=self.compiled.plan,
            key="",
            folder=self.folder / name,
            inputs={},
            root=self.folder,
            sources=FACTS.sources,
            placement=self.compiled.placement,
            stop=lambda: False,
        )
        list(steps.execute(self.compiled.plan.step(name), context))
        return Features(context.folder / "train"), Features(context.folder / "validation")

    def engine(self, runtime: Runtime, folder: str) -> Engine:
        (self.folder / folder).mkdir(exist_ok=True)
        place = placed(runtime, micro_batch_size=5)
        return backend(runtime).load_together(self.step, self.folder / "model", self.folder / folder, place)

    def reports(self, engine: Engine, folder: str) -> Generator[Report, None, None]:
        to = self.folder / folder
        yield from train_together(engine, self.rows, self.step, folder=to, micro_batch_size=5)

    def without_dropout(self) -> Prepared:
        """The same, with a model that drops nothing: engines draw differently."""
        import json

        file = self.folder / "model" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
        return self


def state_of(engine: Engine, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    folder.mkdir(exist_ok=True)
    engine.save_state(folder)
    return load_file(folder / "state.safetensors")


def steps_in(reports: list[Report]) -> list[StepReport]:
    return [report for report in reports if isinstance(report, StepReport)]


# --- the engines


@pytest.mark.parametrize("method", [*METHODS])
def test_both_engines_train_several_tasks_alike(method: str, tmp_path: Path) -> None:
    made = Prepared(tmp_path / "p", method=METHODS[method], task={"loss_weights": "uncertainty"}, **TWENTY)
    made.without_dropout()
    engines = {name: made.engine(name, name) for name in ("pytorch", "mlx")}
    found = {name: list(made.reports(engine, name)) for name, engine in engines.items()}
    losses = {name: np.array([each.loss for each in steps_in(reports)]) for name, reports in found.items()}
    norms = {name: np.array([each.grad_norm for each in steps_in(reports)]) for name, reports in found.items()}
    assert {each.part for each in steps_in(found["mlx"])} == {"sentiment", "valence"}
    # Float32 over 20 steps, as in the table of single tasks.
    assert worst_difference(losses["mlx"], losses["pytorch"]) < 1e-4
    assert worst_difference(norms["mlx"], norms["pytorch"]) < 1e-3
    states = {name: state_of(engine, tmp_path / name) for name, engine in engines.items()}
    assert states["mlx"].keys() == states["pytorch"].keys()
    counts = {name: float(value) for name, value in states["pytorch"].items() if name.endswith("/step")}
    assert counts == {name: float(value) for name, value in states["mlx"].items() if name.endswith("/step")}
    assert engines["mlx"].num_parameters == engines["pytorch"].num_parameters


def test_a_head_moves_only_in_the_steps_of_its_task(tmp_path: Path) -> None:
    made = Prepared(tmp_path / "p", **TWENTY)
    for runtime in ("pytorch", "mlx"):
        engine = made.engine(runtime, runtime)
        before = state_of(engine, tmp_path / "before")
        part = TrainRows("valence", *made.rows["valence"], made.step.parts["valence"])
        batches = part.micro_batches(part.of_turn(0), 9, filled=engine.fixed_shapes)
        engine.train_step(batches, denominators={"valence": 9.0}, learning_rates=(1e-2,), seed=1).result()
        after = state_of(engine, tmp_path / "after")
        moved = {name for name, value in after.items() if not np.array_equal(value, before[name])}
        assert {name for name in moved if name.startswith("parameters/sentiment/")} == set()
        assert "parameters/valence/classifier.weight" in moved
        assert "parameters/bert.encoder.layer.0.attention.self.query.weight" in moved
        assert after["optimizer/sentiment/classifier.weight/step"] == 0
        assert after["optimizer/bert.pooler.dense.weight/step"] == 1


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.long), "lora"])
def test_what_each_task_saves_is_whole_and_answers_as_the_engine_does(method: str, tmp_path: Path) -> None:
    made = Prepared(tmp_path / "p", method=METHODS[method], **TWENTY)
    for runtime in ("pytorch", "mlx"):
        engine = made.engine(runtime, runtime)
        list(made.reports(engine, runtime))
        saves = trained_folder(made.step.first)
        (tmp_path / runtime / saves).mkdir(parents=True)
        engine.save_model(tmp_path / runtime / saves)
        for name, part in made.step.parts.items():
            rows = TrainRows(name, *made.rows[name], part)
            [batch] = rows.micro_batches(rows.of_turn(0), 9, filled=False)
            own = engine.evaluate(batch).outputs
            saved = trained_model(part, tmp_path / runtime, made.folder / "model", name)
            for reader in ("pytorch", "mlx"):
                # A few units in the last place of float32, at outputs of about one.
                assert difference(backend(reader).scores(part.task, saved, "cpu")(batch), own) < 2e-5


def test_what_tasks_share_is_stored_once_and_a_copy_of_a_folder_is_whole(tmp_path: Path) -> None:
    import shutil

    from transformers import AutoModelForSequenceClassification

    made = Prepared(tmp_path / "p", **TWENTY)
    engine = made.engine("pytorch", "torch")
    list(made.reports(engine, "torch"))
    engine.save_model(tmp_path)
    one, other = (tmp_path / name / SHARED for name in made.step.parts)
    assert one.stat().st_ino == other.stat().st_ino
    assert (tmp_path / "valence" / OWN).stat().st_size < one.stat().st_size / 10
    shutil.copytree(tmp_path / "valence", tmp_path / "copy")
    shutil.rmtree(tmp_path / "valence")
    shutil.rmtree(tmp_path / "sentiment")
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "copy", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_labels == 1


BESIDE_ONE: dict[str, dict[str, Any]] = {
    "adalora": {"method": AdaLoRA(alpha=24.0, target_modules=("query",))},
    "scratch": {"method": Scratch()},
    "prefix": {"method": Prefix()},
    "ema_decay": {"ema_decay": 0.9},
    "unfreeze_every": {"unfreeze_every": 2},
    "neftune_alpha": {"neftune_alpha": 5.0},
    "packing": {"packing": "whole"},
    "8-bit": {"optimizer": AdamW(state="8-bit")},
}


def test_what_only_one_task_has_is_not_trained_in_silence_where_the_compiler_lets_it_through(tmp_path: Path) -> None:
    """Each engine would take it up for its own task: a penalty would be lost, an average be of one part alone."""
    made = Prepared(tmp_path / "p", **TWENTY)
    for changes, runtime in product(BESIDE_ONE.values(), ("pytorch", "mlx")):
        parts = {name: replace(part, **changes) for name, part in made.step.parts.items()}
        step = replace(made.step, parts=parts)
        with pytest.raises(AssertionError, match="sentiment: "):
            backend(runtime).load_together(step, made.folder / "model", tmp_path, placed(runtime))


# --- the loop


@pytest.mark.parametrize("runtime", ["pytorch", pytest.param("mlx", marks=pytest.mark.long)])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(runtime: Runtime, tmp_path: Path) -> None:
    training = {**TWENTY["training"], "checkpoint_every": 6, "evaluate_every": 5}
    made = Prepared(tmp_path / "p", method=METHODS["lora"], task={"loss_weights": "uncertainty"}, training=training)
    whole = made.engine(runtime, "whole")
    expected = list(made.reports(whole, "whole"))
    stopped = made.reports(made.engine(runtime, "stopped"), "stopped")
    for report in stopped:
        if isinstance(report, StepReport) and report.step == 10:
            stopped.close()
            break
    again = made.engine(runtime, "stopped")
    rest = list(made.reports(again, "stopped"))
    done = [replace(each, seconds=0.0) for each in steps_in(rest)]
    assert done[0].step == 7
    assert done == [replace(each, seconds=0.0) for each in steps_in(expected)][6:]
    one, other = state_of(whole, tmp_path / "one"), state_of(again, tmp_path / "other")
    assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_validation_chooses_by_the_weighed_sum_of_the_losses(tmp_path: Path) -> None:
    from tests.several import SENTIMENT, VALENCE

    parts = {"sentiment": {**SENTIMENT, "weight": 2.0}, "valence": VALENCE}
    made = Prepared(tmp_path / "p", parts=parts, **TWENTY)
    found = [each for each in made.reports(made.engine("pytorch", "t"), "t") if isinstance(each, EvaluationReport)]
    assert found
    for each in found:
        assert each.loss == pytest.approx(2 * each.metrics["sentiment.loss"] + each.metrics["valence.loss"], rel=1e-12)
        assert math.isfinite(each.metrics["sentiment.accuracy"])
