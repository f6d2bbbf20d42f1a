"""Adapters, biases, frozen layers and new weights on both engines: a resume in equal bits, files that PEFT reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

from compiler.methods import Adapter, BitFit, Freeze, Method, Scratch
from compiler.placement import Runtime
from runtimes.backends import backend
from runtimes.protocol import Engine
from runtimes.rows.features import Features
from runtimes.saved import trained_model
from tests.conformance.engines import do_step, micro_batches, prepared, train_step, unpacked
from tests.conformance.subjects import Project, Subject, write
from tests.runtimes.tiny import placed

PROJECT = Path(__file__).parents[2]
PLACED = ("attention.output.dense", "output.dense")
ADAPTER = Adapter(reduction_factor=4, non_linearity="swish", target_modules=PLACED)
METHODS: dict[str, Method] = {
    "adapter": replace(ADAPTER, dropout=0.3),
    "bitfit": BitFit(),
    "freeze": Freeze(layers=1),
    "scratch": Scratch(),
}
ENGINES: tuple[Runtime, ...] = ("pytorch", "mlx")
# A process that knows PEFT and the tuner, and nothing else of ours.
READER = """
import json, sys
import numpy, peft, torch
import runtimes.pytorch.bottleneck
from transformers import AutoModelForSequenceClassification
base, adapter, batch = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
with torch.inference_mode():
    given = {name: torch.from_numpy(value).long() for name, value in numpy.load(batch).items()}
    print(json.dumps(model(**given).logits.tolist()))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    subject = Subject(task="text-classification", loss="cross-entropy", method="full")
    return write(subject, tmp_path_factory.mktemp("partial") / "project")


@pytest.fixture(scope="module")
def rows(project: Project) -> Features:
    return prepared(project)


def loaded(project: Project, name: Runtime, method: Method, folder: Path) -> Engine:
    step = replace(train_step(project), method=method, seed=1)  # the project's own model was drawn by the seed 0
    return backend(name).load_engine(step, project.model, folder / "init.safetensors", placed(name))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_resumed_training_has_the_same_bits(
    project: Project, rows: Features, name: Runtime, method: Method, tmp_path: Path
) -> None:
    step = train_step(project)
    first = loaded(project, name, method, tmp_path)
    for number in range(2):
        do_step(first, rows, step, number, 1e-2)
    first.save_state(tmp_path)
    second = loaded(project, name, method, tmp_path)
    second.load_state(tmp_path)
    written = []
    for engine, place in ((first, tmp_path / "first"), (second, tmp_path / "second")):
        do_step(engine, rows, step, 2, 1e-2)
        place.mkdir()
        engine.save_state(place)
        written.append((place / "state.safetensors").read_bytes())
    assert written[0] == written[1]


def test_new_weights_are_the_same_on_every_engine(project: Project, rows: Features, tmp_path: Path) -> None:
    step = train_step(project)
    batch = unpacked(micro_batches(rows, step, 0)[0])
    found = [loaded(project, name, Scratch(), tmp_path / name).evaluate(batch).outputs for name in ENGINES]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    pretrained = loaded(project, "pytorch", METHODS["freeze"], tmp_path).evaluate(batch).outputs
    assert np.abs(found[0] - pretrained).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_peft_reads_in_a_fresh_process_what_an_engine_saved(
    project: Project, rows: Features, name: Runtime, tmp_path: Path
) -> None:
    step = replace(train_step(project), method=ADAPTER)
    engine, batch = loaded(project, name, ADAPTER, tmp_path), unpacked(micro_batches(rows, step, 0)[0])
    for number in range(4):
        do_step(engine, rows, step, number, 1e-2)
    engine.save_model(tmp_path / "adapter")
    own = engine.evaluate(batch).outputs[batch.positions]
    np.savez(tmp_path / "batch.npz", **{key: np.asarray(value) for key, value in batch.inputs.items()})  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, project.model, tmp_path / "adapter", tmp_path / "batch.npz"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    np.testing.assert_allclose(np.array(json.loads(done.stdout))[: len(own)], own, atol=1e-5)
    for other in ENGINES:
        scores = backend(other).scores(step.task, trained_model(step, tmp_path, project.model), "cpu")
        np.testing.assert_allclose(scores(batch)[batch.positions], own, atol=1e-5)
