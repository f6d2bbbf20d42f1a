"""continued-pretraining: which objective a model serves, and what it takes from the files for hidden tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.diagnostics import Diagnostic, RecipeError
from compiler.facts import ModelFacts, bound
from compiler.recipe import Recipe
from compiler.resolve import ResolvedRecipe, resolve
from compiler.tasks import ContinuedPretraining, texts_of
from compiler.tasks.masking import Masking
from tests.handmade import CPU, DATA, MODEL, read
from tests.tiny import BAD, COMMON, GOOD, save_causal_tokenizer, save_tokenizer

DECODER = replace(MODEL, model_type="llama", architectures=("LlamaForCausalLM",), architecture="decoder", packs=True)
ENCODER = replace(MODEL, architectures=("BertForMaskedLM",))


@pytest.fixture
def bert(tmp_path: Path) -> ModelFacts:
    """An encoder with the files of its tokenizer."""
    save_tokenizer(tmp_path / "bert", (*COMMON, *GOOD, *BAD))
    return with_files(ENCODER, tmp_path / "bert")


@pytest.fixture
def llama(tmp_path: Path) -> ModelFacts:
    """A decoder with the files of its tokenizer."""
    save_causal_tokenizer(tmp_path / "llama")
    return with_files(DECODER, tmp_path / "llama")


def with_files(model: ModelFacts, folder: Path) -> ModelFacts:
    (folder / "config.json").write_text(json.dumps({"model_type": model.model_type}))
    return replace(model, tokenizer_file=folder / "tokenizer.json")


def recipe_of(task: dict[str, Any], **changes: Any) -> Recipe:
    return read(task={"type": "continued-pretraining", **task}, **changes)


def task_of(model: ModelFacts, **task: Any) -> ContinuedPretraining:
    """The task, bound to the model's files."""
    found = bound(recipe_of(task), model).task
    assert isinstance(found, ContinuedPretraining)
    return found


def resolved(model: ModelFacts, task: dict[str, Any], **changes: Any) -> ResolvedRecipe:
    return resolve(bound(recipe_of(task, **changes), model), model, DATA, CPU)


def finding(model: ModelFacts, task: dict[str, Any], **changes: Any) -> Diagnostic:
    """The only thing that is wrong."""
    with pytest.raises(RecipeError) as caught:
        resolved(model, task, **changes)
    [found] = caught.value.diagnostics
    return found


def choices(found: ResolvedRecipe) -> dict[str, Any]:
    return {choice.pointer: choice.value for choice in found.choices}


def test_an_encoder_learns_hidden_tokens_and_a_decoder_the_next_one(bert: ModelFacts, llama: ModelFacts) -> None:
    assert (task_of(bert).objective, task_of(llama).objective) == ("masked", "causal")
    assert choices(resolved(bert, {}))["/task/objective"] == "masked"
    assert choices(resolved(llama, {}))["/task/objective"] == "causal"
    assert "/task/objective" not in choices(resolved(bert, {"objective": "masked"}))


def test_a_bundle_that_names_no_objective_still_ends_its_texts() -> None:
    """Bundles from before there were two objectives say how a text ends, and no more."""
    assert texts_of(ContinuedPretraining(end="</s>"), {"text": "once"}) == ("once</s>",)
    assert texts_of(ContinuedPretraining(), {"text": "once"}) == ("once",), "nothing is known of the model yet"


def test_what_hides_a_token_comes_from_the_tokenizer(bert: ModelFacts) -> None:
    assert bert.tokenizer_file is not None
    vocabulary = json.loads(bert.tokenizer_file.read_text())["model"]["vocab"]
    named = [vocabulary[token] for token in ("[CLS]", "[SEP]", "[MASK]")]
    task = task_of(bert)
    assert task == ContinuedPretraining(
        objective="masked",
        end="",
        masking=Masking(mask_id=named[-1], special_ids=tuple(sorted(named)), vocab_size=len(vocabulary)),
    )
    assert texts_of(task, {"text": "once"}) == ("once",)


def test_tokens_that_are_marked_or_named_as_special_are_never_hidden(tmp_path: Path) -> None:
    save_causal_tokenizer(tmp_path / "model")
    model = with_files(ENCODER, tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "model" / "special_tokens_map.json").write_text(
        json.dumps({"mask_token": {"content": "[MASK]"}, "unk_token": "the"})
    )
    masking = task_of(model).masking
    assert masking is not None
    assert model.tokenizer_file is not None
    the = json.loads(model.tokenizer_file.read_text())["model"]["vocab"]["the"]
    assert (masking.mask_id, masking.special_ids) == (4, (0, 1, 2, 3, 4, the))


def test_what_is_written_is_kept(bert: ModelFacts) -> None:
    written = {"probability": 0.3, "mask_id": 7, "special_ids": [0, 7], "vocab_size": 20}
    masking = task_of(bert, masking=written).masking
    assert masking == Masking(probability=0.3, mask_id=7, special_ids=(0, 7), vocab_size=20)
    assert {"/task/masking/probability", "/task/masking/mask_id"}.isdisjoint(
        choices(resolved(bert, {"masking": written}))
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "the tokenizer's files name no mask_token"),
        ({"mask_token": "<mask>"}, 'the mask_token "<mask>" is no token of tokenizer.json'),
    ],
)
def test_a_tokenizer_without_a_mask_token_is_a_finding(bert: ModelFacts, settings: dict[str, str], says: str) -> None:
    assert bert.tokenizer_file is not None
    bert.tokenizer_file.with_name("tokenizer_config.json").write_text(json.dumps(settings))
    found = finding(bert, {})
    assert (found.code, found.pointer) == ("R411", "/task")
    assert says in found.message


def test_a_tokenizer_of_special_tokens_alone_is_a_finding(bert: ModelFacts) -> None:
    found = finding(bert, {"masking": {"special_ids": [0, 1], "vocab_size": 2}})
    assert (found.code, found.message) == ("R411", "none of 2 tokens is left to be drawn: all are in special_ids")


@pytest.mark.parametrize(("key", "most"), [("mask_id", 30521), ("vocab_size", 30522)])
def test_tokens_that_the_model_does_not_have_are_a_finding(bert: ModelFacts, key: str, most: int) -> None:
    found = finding(bert, {"masking": {key: most + 1}})
    assert (found.code, found.pointer, found.hint) == ("R411", f"/task/masking/{key}", f"at most {most}")
    assert resolved(bert, {"masking": {key: most}}).keep_head


def test_special_tokens_that_the_model_does_not_have_are_a_finding(bert: ModelFacts) -> None:
    found = finding(bert, {"masking": {"special_ids": [0, 99_999]}})
    assert (found.code, found.pointer) == ("R411", "/task/masking/special_ids/1")


def test_an_objective_that_the_model_can_t_serve_is_a_finding(bert: ModelFacts, llama: ModelFacts) -> None:
    found = finding(bert, {"objective": "causal"})
    assert (found.code, found.pointer) == ("R410", "/task/objective")
    assert found.message == 'the objective is "causal", and an encoder sees the token after one (bert)'
    assert found.hint == 'write "objective": "masked", or choose a decoder: llama, qwen3, smollm3, gpt2, ...'
    found = finding(llama, {"objective": "masked"})
    assert found.message == 'the objective is "masked", and a decoder sees none of the tokens after one (llama)'


def test_a_model_that_reads_and_writes_is_none_for_the_task(bert: ModelFacts) -> None:
    found = finding(replace(bert, architecture="encoder-decoder", model_type="t5"), {})
    assert (found.code, found.pointer) == ("R410", "/model/id")
    assert found.message == "the model is an encoder-decoder (t5), and the task tunes decoders and encoders"


@pytest.mark.parametrize(
    ("model", "task", "pointer"),
    [("bert", {"end": "</s>"}, "/task/end"), ("llama", {"masking": {"probability": 0.2}}, "/task/masking")],
)
def test_keys_of_the_other_objective_are_read_by_nothing(
    model: str, task: dict[str, Any], pointer: str, request: pytest.FixtureRequest
) -> None:
    found = finding(request.getfixturevalue(model), task)
    assert (found.code, found.pointer) == ("R202", pointer)


def test_an_encoder_becomes_a_function_and_a_decoder_a_folder_for_mlx_lm(bert: ModelFacts, llama: ModelFacts) -> None:
    assert "/export/0" in choices(resolved(bert, {}, export=["mlx"]))  # its shapes
    assert "/export/0" not in choices(resolved(llama, {}, export=["mlx"]))


def test_an_encoder_s_rows_are_not_packed_and_the_plan_says_why(bert: ModelFacts) -> None:
    found = resolved(bert, {})
    assert found.training.packing == "none"
    [choice] = [choice for choice in found.choices if choice.pointer == "/training/packing"]
    assert choice.reason == "an encoder's rows are sequences of their own"
    refused = finding(bert, {}, training={"packing": True})
    assert (refused.code, refused.pointer) == ("R220", "/training/packing")


@pytest.mark.parametrize(
    ("architecture", "kept"),
    [
        ("BertForMaskedLM", True),
        ("BertForPreTraining", True),
        ("BertModel", False),
        ("ElectraForPreTraining", False),  # its head tells replaced tokens, not hidden ones
    ],
)
def test_a_head_for_hidden_tokens_is_kept_where_the_weights_have_one(
    bert: ModelFacts, architecture: str, kept: bool
) -> None:
    found = resolved(replace(bert, architectures=(architecture,)), {})
    assert found.keep_head is kept
    assert choices(found)["/model"] == ("head kept" if kept else "new head")


def test_updates_beside_frozen_weights_need_a_head_that_has_learnt(bert: ModelFacts) -> None:
    assert resolved(bert, {}, method="lora").keep_head
    bare = replace(bert, architectures=("BertModel",))
    found = finding(bare, {}, method="lora")
    assert (found.code, found.pointer) == ("R410", "/method")
    assert not resolved(bare, {}, method="full").keep_head
