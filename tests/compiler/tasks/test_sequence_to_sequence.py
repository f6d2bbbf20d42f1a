"""translation, summarization and text-to-text: what the compiler reads, finds and chooses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.data.texts import BadValueError
from compiler.diagnostics import RecipeError
from compiler.facts import bound
from compiler.metrics import BLEU, ROUGE, ChrF, ExactMatch, Perplexity
from compiler.plan import Evaluate, Train, VerifyExport
from compiler.tasks import Translation, columns_of, module_of, texts_of, written_ids, written_role
from tests.handmade import DATA, MODEL, planned, read, resolved

PAIRS = replace(
    DATA, splits=tuple(replace(split, label_counts={}, target_lengths=(*(0,) * 30, 1)) for split in DATA.splits)
)
BOTH = replace(MODEL, model_type="bart", architecture="encoder-decoder", max_target_positions=64)
WORDS = ("translation", "summarization", "text-to-text")


def task_of(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None, **task: Any) -> Any:
    """The task, bound to the files of a model."""
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    recipe = read(task={"type": "translation", **task})
    return bound(recipe, replace(BOTH, tokenizer_file=folder / "tokenizer.json")).task


def test_the_tokens_around_a_target_are_the_model_s(tmp_path: Path) -> None:
    task = task_of(tmp_path, {"decoder_start_token_id": 7, "eos_token_id": [9, 8]})
    assert (task.start_id, task.end_id) == (7, 9)
    task = task_of(tmp_path, {"decoder_start_token_id": 7}, {"decoder_start_token_id": 5, "eos_token_id": 6})
    assert (task.start_id, task.end_id) == (5, 6), "generation_config.json is what writes go by"
    task = task_of(tmp_path, {"decoder": {"decoder_start_token_id": 3}}, {"eos_token_id": 6}, end_id=4)
    assert (task.start_id, task.end_id) == (3, 4)


def test_a_model_that_names_no_token_to_start_with_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        task_of(tmp_path, {"eos_token_id": 9})
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R411", "/task")
    assert "decoder_start_token_id" in found.message


@pytest.mark.parametrize(
    ("ids", "written"),
    [((1, 5, 6, 2), (5, 6, 2)), ((5, 6), (5, 6, 2)), ((), (2,)), ((1, 2), (2,)), ((5, 1, 2), (5, 1, 2))],
)
def test_a_target_has_one_end_and_no_start(ids: tuple[int, ...], written: tuple[int, ...]) -> None:
    assert tuple(written_ids(Translation(start_id=1, end_id=2), ids)) == written


def test_a_start_that_is_the_end_as_well_is_kept_where_the_tokenizer_put_it() -> None:
    assert tuple(written_ids(Translation(start_id=2, end_id=2), (0, 5, 2))) == (0, 5, 2)


def test_the_prefix_is_read_before_every_source() -> None:
    task = Translation(prefix="translate English to German: ")
    row = module_of(task).reader(task, columns_of(task, {"source": "en"})).read({"en": "Hi", "target": "Hallo"}).row
    assert texts_of(task, row) == ("translate English to German: Hi",)
    assert written_role(task) == "target"


def test_a_row_without_a_target_is_read_to_be_answered_and_not_to_be_learnt() -> None:
    task = Translation()
    reader = module_of(task).reader(task, columns_of(task, {}))
    assert reader.given({"source": "Hi"}) == {"source": "Hi"}
    assert reader.given({"source": "Hi", "target": "Hallo"}) == {"source": "Hi", "target": "Hallo"}
    with pytest.raises(BadValueError, match="expected text, found no value"):
        reader.read({"source": "Hi"})


def test_each_word_has_the_metrics_that_are_usual_for_it() -> None:
    usual = {word: resolved(BOTH, PAIRS, task=word).metrics for word in WORDS}
    assert usual == {
        "translation": (BLEU(), ChrF(), Perplexity()),
        "summarization": (ROUGE(), Perplexity()),
        "text-to-text": (ExactMatch(), Perplexity()),
    }


@pytest.mark.parametrize("word", WORDS)
def test_between_steps_and_by_the_gate_no_text_is_written(word: str) -> None:
    plan = planned(BOTH, PAIRS, task=word, export=["onnx"])
    train, evaluate, verify = (plan.step(name) for name in ("train", "evaluate", "verify"))
    assert isinstance(train, Train) and isinstance(evaluate, Evaluate) and isinstance(verify, VerifyExport)
    assert train.metrics == verify.metrics == (Perplexity(),)
    assert evaluate.generation is not None
    assert len(evaluate.metrics) > 1
    assert train.selection is not None
    assert train.selection.metric == "perplexity"


def test_the_length_of_targets_is_that_of_the_longest_within_what_the_decoder_writes() -> None:
    found = resolved(BOTH, PAIRS, task="translation")
    assert isinstance(found.task, Translation)
    assert found.task.max_target_length == 30
    [said] = [choice for choice in found.choices if choice.pointer == "/task/max_target_length"]
    assert (said.value, said.reason) == (30, "the longest target has 30 tokens")
    short = resolved(replace(BOTH, max_target_positions=20), PAIRS, task="translation")
    [said] = [choice for choice in short.choices if choice.pointer == "/task/max_target_length"]
    assert (said.value, said.reason) == (20, "the longest target has 30 tokens, the limit is 20")


def test_longer_targets_than_the_decoder_writes_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(BOTH, PAIRS, task={"type": "translation", "max_target_length": 65})
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R408", "/task/max_target_length")


def test_a_token_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(BOTH, PAIRS, task={"type": "translation", "start_id": BOTH.vocab_size})
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R411", "/task/start_id")


@pytest.mark.parametrize(("task", "architecture"), [("translation", "encoder"), ("text-generation", "encoder-decoder")])
def test_a_task_and_a_model_of_another_kind_are_refused(task: str, architecture: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(replace(BOTH, architecture=architecture), PAIRS, task=task)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R410", "/model/id")
    assert f"the model is an {architecture} (bart)" in found.message
