"""Encoders that learn hidden words, through the command line: tuned, exported, gated, and read by others."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from click.testing import CliRunner, Result

from compiler.cli import main
from compiler.plan import Plan, Train
from compiler.tasks import ContinuedPretraining, Example
from runtimes.backends import backend
from runtimes.bundles.manifest import read_manifest, seal
from runtimes.errors import Interrupted
from runtimes.loop import train
from runtimes.reports import StepReport
from runtimes.rows.features import IGNORED, TARGETS, Features
from runtimes.rows.tokens import open_encoder
from runtimes.tasks import continued_pretraining
from runtimes.verification.receiver import verify_bundle
from tests.runtimes.tiny import placed
from tests.tiny import BAD, GOOD, save_encoder, save_masked_encoder, write_language_project

TRAINING = {"epochs": 4, "learning_rate": 1e-2, "batch_size": 8}


def recipe(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def sentences(count: int) -> list[dict[str, str]]:
    """Distinct texts, most of whose words are told by the others: so many of 256."""
    nouns = ("movie", "film", "plot", "actor")
    parts = [*product(nouns, GOOD, nouns, BAD)]
    chosen = [parts[97 * number % len(parts)] for number in range(count)]  # 97 and 256 have no common factor
    return [{"text": f"the {one} was very {good} and a {other} is {bad}"} for one, good, other, bad in chosen]


def run(folder: Path, *options: str) -> Path:
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu", *options)
    assert found.exit_code == 0, found.output
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model with a head for hidden words, with a bundle."""
    folder = write_language_project(
        tmp_path_factory.mktemp("masked") / "project",
        sentences(240),
        save=save_masked_encoder,
        task="continued-pretraining",
        training=TRAINING,
        export=["onnx"],
    )
    return run(folder)


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def task_of(folder: Path) -> ContinuedPretraining:
    task = read_manifest(folder / "bundle").task
    assert isinstance(task, ContinuedPretraining)
    return task


def transformers_model(folder: Path) -> Any:
    from transformers import AutoModelForMaskedLM

    from runtimes.pytorch.quiet import quiet

    with quiet():
        return AutoModelForMaskedLM.from_pretrained(folder / "model").eval()


def test_the_tuned_model_tells_hidden_words_better_than_the_untuned_one(tuned: Path) -> None:
    evaluation = report(tuned)["evaluation"]
    metrics, untuned = evaluation["metrics"], evaluation["baseline"]["untuned"]
    assert metrics["perplexity"] < 8 < 40 < untuned["perplexity"]
    assert metrics["token-accuracy"] > 0.4 > 0.2 > untuned["token-accuracy"]
    assert metrics["loss"] == pytest.approx(np.log(metrics["perplexity"]))


def test_the_gate_decides_on_hidden_tokens_alone(tuned: Path) -> None:
    found = report(tuned)
    [edge] = found["gates"]["verify"]["verification"]["edges"]
    checks = {check["name"]: check for check in edge["checks"]}
    assert checks["decisions"]["positions"] == found["evaluation"]["tokens"]
    assert all(check["passed"] for check in checks.values())
    assert found["gate_passed"] is True


def log_probabilities(folder: Path, text: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """[T, V] by transformers, of the text as it is measured; and the hidden tokens."""
    import torch

    encoder = open_encoder(folder / "bundle" / "tokenizer.json", max_length=64)
    portion = continued_pretraining.encode(task_of(folder), [Example(row={"text": text})], encoder)
    with torch.inference_mode():
        logits = transformers_model(folder)(torch.from_numpy(portion.ragged["input_ids"][0][None]).long()).logits
    return logits[0].double().log_softmax(-1).numpy(), portion.ragged[TARGETS][0].astype(np.int64)


def test_predict_says_how_likely_the_hidden_tokens_are(tuned: Path) -> None:
    text = "the movie was very good and the plot is long"
    found = recipe("predict", str(tuned / "bundle"), "--text", text)
    assert found.exit_code == 0, found.output
    likely_TV, targets_T = log_probabilities(tuned, text)
    [places] = np.nonzero(targets_T != IGNORED)
    expected = np.exp(-likely_TV[places, targets_T[places]].mean())
    assert f"perplexity {expected:.4f}" in found.stdout


def test_a_pipeline_of_transformers_fills_the_same_word_in_as_the_exported_graph(tuned: Path) -> None:
    from transformers import PreTrainedTokenizerFast, pipeline

    from runtimes.bundles.bundle import open_bundle
    from runtimes.export.session import Session

    file = str(tuned / "model" / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=file, mask_token="[MASK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fill = pipeline("fill-mask", model=transformers_model(tuned), tokenizer=tokenizer, device="cpu")
    text = "the movie [MASK] very good"
    ids = np.array([tokenizer(text)["input_ids"]])
    graph = open_bundle(tuned / "bundle").graph
    assert isinstance(graph, Session)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    logits_V = graph.outputs(inputs)[0, ids[0].tolist().index(tokenizer.mask_token_id)]
    best = np.argsort(-logits_V)[:5]
    assert [answer["token"] for answer in fill(text)] == best.tolist()


@pytest.mark.parametrize("change", [{"probability": 0.5}, {"mask_id": 9}])
def test_a_bundle_that_hides_other_tokens_is_caught(tuned: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(tuned / "bundle", tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["task"]["masking"] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seal(folder, read_manifest(folder))
    assert "tokens" in {check.name for _, check in verify_bundle(folder).failures()}


def planned(run: Path) -> tuple[Train, Features]:
    """The train step, cut to six steps of two epochs, and its rows."""
    plan = Plan.from_json(json.loads((run / "plan.json").read_text()))
    step = plan.step("train")
    assert isinstance(step, Train)
    read = Features(run.parent / ".steps" / plan.keys()["prepare"] / "train")
    size = -(-len(read) // 3)
    step = replace(step, num_steps=6, batch_size=size, selection=None, evaluate_every=0, checkpoint_every=50)
    return step, read


@pytest.mark.parametrize("engine", ["pytorch", pytest.param("mlx", marks=pytest.mark.long)])
def test_a_resumed_run_hides_the_same_tokens_and_so_do_portions(tuned: Path, tmp_path: Path, engine: Any) -> None:
    if engine == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    step, read = planned(tuned)

    def losses(name: str, micro_batch_size: int, stops_after: int | None = None) -> list[float]:
        """Of the steps that are done, until it stops."""
        asked = iter(range(1, 100))
        model = tuned.parents[1] / "model"
        loaded = backend(engine).load_engine(step, model, tmp_path / "init.safetensors", placed(engine))
        found: list[float] = []
        with contextlib.suppress(Interrupted):
            for each in train(
                loaded,
                read,
                None,
                step,
                folder=tmp_path / name,
                micro_batch_size=micro_batch_size,
                stop=lambda: next(asked) == stops_after,
            ):
                found += [each.loss] if isinstance(each, StepReport) else []
        return found

    whole = losses("whole", step.batch_size)
    assert len(whole) == 6
    parts = [*losses("parts", step.batch_size, 4), *losses("parts", step.batch_size)]
    assert parts == whole
    np.testing.assert_allclose(losses("portions", 20), whole, rtol=1e-5)  # sums in another order


def test_a_model_without_a_head_for_hidden_words_gets_one_and_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    folder = write_language_project(
        tmp_path / "project",
        sentences(120),
        save=save_encoder,
        task="continued-pretraining",
        training=TRAINING,
    )
    shown = recipe("plan", str(folder / "recipe.json"), "--target", "cpu")
    assert '/model = "new head": its weights have none for hidden tokens' in shown.output
    evaluation = report(run(folder))["evaluation"]
    assert evaluation["metrics"]["perplexity"] < 20
    assert evaluation["baseline"] == {}


def test_a_text_without_a_token_to_hide_is_e411(tmp_path: Path) -> None:
    folder = write_language_project(
        tmp_path / "project",
        [*sentences(40), {"text": " "}],
        save=save_masked_encoder,
        task="continued-pretraining",
        training=TRAINING,
    )
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu")
    assert found.exit_code == 4
    assert "error[E411]: nothing of a row of 2 tokens is to be learnt" in found.output
