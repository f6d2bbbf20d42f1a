"""Virtual tokens: what they take from rows, and what they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.diagnostics import Diagnostic, RecipeError
from compiler.driver import Compiled, compile_recipe
from compiler.loading import load
from compiler.methods import Prefix, Prompt, PTuning
from compiler.placement import parse_target
from compiler.plan import Prepare, Train
from tests.conformance.subjects import CAUSAL, FACTS, SEQUENCE, Subject, save_model, write
from tests.tiny import RECIPE, rows

pytest.importorskip("torch", reason="needs the torch extra")

TEXTS = {"prompt": "snippet", "completion": "sentiment"}
EVERY = ("prompt", "p-tuning", "prefix")


def compiled(folder: Path, encoder: str = "bert", stored: str = "bare", **changes: Any) -> Compiled:
    """The tiny recipe with a model of its own."""
    if not (folder / "model").exists():
        save_model(folder / "model", encoder, stored)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    (folder / "recipe.json").write_text(json.dumps({**RECIPE, **changes}))
    return compile_recipe(load(folder / "recipe.json"), FACTS, parse_target("cpu"))


def findings(folder: Path, *model: str, **changes: Any) -> list[Diagnostic]:
    with pytest.raises(RecipeError) as caught:
        compiled(folder, *model, **changes)
    return [found for found in caught.value.diagnostics if found.severity == "error"]


def language(columns: dict[str, str] = TEXTS, task: str = "text-generation", **changes: Any) -> dict[str, Any]:
    return {"task": task, "dataset": {**RECIPE["dataset"], "columns": columns}, "metrics": [], **changes}


def steps(made: Compiled) -> tuple[Prepare, Train]:
    prepare, train = (made.plan.step(name) for name in ("prepare", "train"))
    assert isinstance(prepare, Prepare)
    assert isinstance(train, Train)
    return prepare, train


# what they take


def test_rows_have_the_positions_that_virtual_tokens_leave(tmp_path: Path) -> None:
    """The model has 64 positions."""
    longest = compiled(tmp_path)
    assert steps(longest)[0].max_length == 20  # the longest row
    cut = compiled(tmp_path, method={"type": "prompt", "num_virtual_tokens": 52})
    assert steps(cut)[0].max_length == 12
    [found] = findings(
        tmp_path,
        method={"type": "prompt", "num_virtual_tokens": 52},
        training={**RECIPE["training"], "max_length": 13},
    )
    assert (found.code, found.pointer) == ("R408", "/training/max_length")
    assert "at most 12" in found.hint


@pytest.mark.parametrize("method", EVERY)
def test_virtual_tokens_that_leave_no_room_are_named(tmp_path: Path, method: str) -> None:
    [found] = findings(tmp_path, method={"type": method, "num_virtual_tokens": 63})
    assert (found.code, found.pointer) == ("R251", "/method/num_virtual_tokens")


def test_rows_do_not_share_a_sequence_behind_virtual_tokens(tmp_path: Path) -> None:
    few = {"type": "prompt", "num_virtual_tokens": 4}
    assert steps(compiled(tmp_path, "llama", CAUSAL, **language()))[0].packing == "whole"
    assert steps(compiled(tmp_path, "llama", CAUSAL, **language(method=few)))[0].packing == "none"
    training = {**RECIPE["training"], "packing": True}
    [found] = findings(tmp_path, "llama", CAUSAL, **language(method=few, training=training))
    assert (found.code, found.pointer) == ("R220", "/training/packing")
    assert '"prompt" has virtual tokens before each row' in found.message


# what they resolve to


@pytest.mark.parametrize(
    ("method", "resolved", "count"),
    [
        ({"type": "prompt"}, Prompt(), 20 * 32),
        ({"type": "p-tuning"}, PTuning(hidden_size=32), 20 * 32 + 3 * (32 * 32 + 32)),
        ({"type": "prefix"}, Prefix(), 20 * 2 * 2 * 32),
        (
            {"type": "prefix", "projection": True},
            Prefix(projection=True, hidden_size=32),
            20 * 32 + (32 * 32 + 32) + (32 + 1) * 2 * 2 * 32,
        ),
    ],
)
def test_the_plan_says_how_many_numbers_are_trained(
    tmp_path: Path, method: dict[str, Any], resolved: object, count: int
) -> None:
    """Of a BERT of two layers of 32."""
    train = steps(compiled(tmp_path, method=method))[1]
    assert (train.method, train.tuned.parameters) == (resolved, count)


# what they do not fit


@pytest.mark.parametrize(("method", "encoder"), [("prefix", "bart"), ("prompt", "marian"), ("p-tuning", "marian")])
def test_an_encoder_decoder_that_takes_none_is_refused(tmp_path: Path, method: str, encoder: str) -> None:
    """Marian scales the vectors of tokens after it has looked them up, which PEFT's are not."""
    pairs = language({"source": "snippet", "target": "sentiment"}, "text-to-text", method=method)
    [found] = findings(tmp_path, encoder, SEQUENCE, **pairs)
    assert (found.code, found.pointer) == ("R250", "/method")
    assert f"no place in an encoder-decoder of this kind ({encoder})" in found.message
    assert ("bart, encoder-decoder, mt5, t5" in found.hint) == (method != "prefix")


@pytest.mark.parametrize("encoder", ["bart", "t5"])
@pytest.mark.parametrize("method", ["prompt", "p-tuning"])
def test_noise_on_tokens_is_read_by_nothing_where_an_encoder_is_given_vectors(
    tmp_path: Path, method: str, encoder: str
) -> None:
    training = {**RECIPE["training"], "neftune_alpha": 5.0}
    pairs = language({"source": "snippet", "target": "sentiment"}, "text-to-text", method=method, training=training)
    [found] = findings(tmp_path, encoder, SEQUENCE, **pairs)
    assert (found.code, found.pointer) == ("R202", "/training/neftune_alpha")


def test_a_vision_model_is_refused(tmp_path: Path) -> None:
    project = Subject(task="image-classification", loss="cross-entropy", method="prompt", encoder="vit")
    with pytest.raises(RecipeError) as caught:
        write(project, tmp_path)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R250", "/method")
    assert "a vision model of this kind (vit)" in found.message


@pytest.mark.parametrize("method", EVERY)
def test_a_folder_for_mlx_lm_has_no_place_for_them(tmp_path: Path, method: str) -> None:
    few = {"type": method, "num_virtual_tokens": 4}
    [found] = findings(tmp_path, "llama", CAUSAL, **language(method=few, export=["onnx", "mlx"]))
    assert (found.code, found.pointer) == ("R218", "/export/1")


@pytest.mark.parametrize("method", ["prompt", "p-tuning"])
def test_a_decoder_that_answers_by_its_last_token_is_refused_vectors(tmp_path: Path, method: str) -> None:
    [found] = findings(tmp_path, "llama", CAUSAL, method={"type": method, "num_virtual_tokens": 4})
    assert (found.code, found.pointer) == ("R250", "/method")
    assert '"prefix"' in found.hint


def test_a_decoder_that_answers_by_its_last_token_takes_a_prefix(tmp_path: Path) -> None:
    made = compiled(tmp_path, "llama", CAUSAL, method={"type": "prefix", "num_virtual_tokens": 4})
    assert steps(made)[1].method == Prefix(num_virtual_tokens=4)


def test_encoders_without_outside_keys_are_refused_a_prefix(tmp_path: Path) -> None:
    [found] = findings(tmp_path, "distilbert", method="prefix")
    assert (found.code, found.pointer) == ("R250", "/method")
    assert "the encoder distilbert takes no keys and values from outside" in found.message


def test_masked_words_are_not_learnt_behind_a_prefix(tmp_path: Path) -> None:
    [found] = findings(
        tmp_path, "bert", "masked-lm", **language({"text": "snippet"}, "continued-pretraining", method="prefix")
    )
    assert (found.code, found.pointer) == ("R250", "/method")
    assert "not to those of this task" in found.message


def test_layers_are_not_computed_again_behind_a_prefix(tmp_path: Path) -> None:
    training = {**RECIPE["training"], "gradient_checkpointing": True}
    [found] = findings(tmp_path, method="prefix", training=training)
    assert (found.code, found.pointer) == ("R250", "/training/gradient_checkpointing")


def test_a_width_without_a_network_is_read_by_nothing(tmp_path: Path) -> None:
    [found] = findings(tmp_path, method={"type": "prefix", "hidden_size": 8})
    assert (found.code, found.pointer) == ("R202", "/method/hidden_size")
