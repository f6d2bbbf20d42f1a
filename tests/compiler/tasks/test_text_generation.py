"""text-generation and continued-pretraining: what the compiler reads, finds and chooses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from compiler.data.texts import BadValueError
from compiler.diagnostics import RecipeError
from compiler.facts import bound
from compiler.plan import ExportModel, Package, Prepare, Train, VerifyExport
from compiler.recipe import Mlx
from compiler.tasks import ContinuedPretraining, TextGeneration, columns_of, module_of, texts_of
from compiler.tasks.text_generation import ChatTemplate, pieces
from tests.handmade import DATA, MODEL, planned, read, resolved

DECODER = replace(MODEL, model_type="llama", architecture="decoder", packs=True, padding=None)
WRITTEN = "{% for message in messages %}{{ greeting }}{{ message.content }}{{ eos_token }}{% endfor %}"
OWN = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A tokenizer's files with a template of their own."""
    config = {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "chat_template": OWN}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    words = {"<unk>": 0, "</s>": 1, "<s>": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.add_special_tokens([*words])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def without_template(files: Path) -> Path:
    files.with_name("tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return files


def chat(files: Path, **task: Any) -> TextGeneration:
    """The task, bound to a tokenizer's files."""
    recipe = read(task={"type": "text-generation", **task})
    found = bound(recipe, replace(DECODER, tokenizer_file=files)).task
    assert isinstance(found, TextGeneration)
    return found


def row_of(task: TextGeneration, **values: Any) -> Any:
    return module_of(task).reader(task, columns_of(task, {})).read(values).row


def test_the_model_s_own_template_is_taken_where_there_is_one(files: Path) -> None:
    task = chat(files)
    assert (task.template.name, task.template.source) == ("model", OWN)
    assert task.template.variables == {"eos_token": "</s>", "bos_token": "<s>"}
    assert chat(without_template(files)).template.name == "plain"


def test_a_template_may_be_named_or_written(files: Path) -> None:
    assert chat(files, template="alpaca").template.name == "alpaca"
    written = chat(files, template={"source": WRITTEN, "variables": {"greeting": "hi"}}).template
    assert (written.name, written.source) == ("written", WRITTEN)
    assert written.variables == {"eos_token": "</s>", "bos_token": "<s>", "greeting": "hi"}


def test_a_template_that_nobody_knows_is_a_finding(files: Path) -> None:
    recipe = read(task={"type": "text-generation", "template": "vicuna"})
    with pytest.raises(RecipeError) as caught:
        bound(recipe, replace(DECODER, tokenizer_file=files))
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R411", "/task/template")
    assert 'there is no chat template "vicuna"' in found.message


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"prompt": "Hi", "completion": "Hello"}, "<user>Hi</s><assistant>Hello</s>"),
        ({"instruction": "Add", "input": "1 1", "output": "2"}, "<user>Add\n\n1 1</s><assistant>2</s>"),
        ({"instruction": "Add", "input": "", "output": "2"}, "<user>Add</s><assistant>2</s>"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "<user>a</s><assistant>b</s>",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "<user>a</s><assistant>b</s>",
        ),
        ({"text": "once upon"}, "once upon</s>"),
    ],
)
def test_every_layout_becomes_one_text(files: Path, values: Any, text: str) -> None:
    task = chat(files)
    row = row_of(task, **values, other="left out")
    assert "other" not in row
    assert texts_of(task, row) == (text,)
    assert texts_of(task, row_of(task, **row)) == (text,), "a row by role is read as it was"


def test_only_what_the_assistant_says_is_learnt(files: Path) -> None:
    row = {"prompt": "Hi", "completion": "Hello"}
    assert [s.text for s in pieces(chat(files), row) if s.supervised] == ["<assistant>Hello</s>"]
    assert [s.text for s in pieces(chat(files, supervise="all"), row) if s.supervised] == [
        "<user>Hi</s><assistant>Hello</s>"
    ]


def test_a_row_that_is_no_conversation_names_the_columns_that_were_looked_for(files: Path) -> None:
    task = chat(files)
    with pytest.raises(
        BadValueError, match=r"expected a conversation in the columns .*prompt and completion.*, found q"
    ):
        row_of(task, q="?")


def test_a_row_without_an_answer_is_read_to_be_answered(files: Path) -> None:
    task = chat(files)
    reader = module_of(task).reader(task, columns_of(task, {"prompt": "question"}))
    assert reader.given({"question": "Hi"}) == {"prompt": "Hi", "completion": "-"}


def test_a_text_ends_with_the_token_that_the_tokenizer_names(files: Path) -> None:
    recipe = read(task="continued-pretraining")
    task = bound(recipe, replace(DECODER, tokenizer_file=files)).task
    assert task == ContinuedPretraining(objective="causal", end="</s>")
    assert texts_of(task, {"text": "once"}) == ("once</s>",)
    files.with_name("tokenizer_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="names no eos_token"):
        bound(recipe, replace(DECODER, tokenizer_file=files))


def train_of(**changes: Any) -> Train:
    step = planned(DECODER, DATA, **changes).step("train")
    assert isinstance(step, Train)
    return step


def test_steps_are_counted_over_sequences(files: Path) -> None:
    """One train row of 40 tokens is known, of 800: its lengths are a histogram with one row."""
    lengths = (*(0,) * 10, 100)  # a hundred rows of ten tokens
    data = replace(DATA, splits=tuple(replace(split, lengths=lengths) for split in DATA.splits))
    training = {"max_length": 50, "batch_size": 4, "epochs": 1}
    packed = planned(DECODER, data, task="continued-pretraining", training=training).step("train")
    plain = planned(DECODER, data, task="continued-pretraining", training={**training, "packing": False}).step("train")
    assert isinstance(packed, Train) and isinstance(plain, Train)
    assert (packed.packing, packed.num_steps) == ("fill", 5)  # 1,000 tokens are 20 sequences of 50
    assert (plain.packing, plain.num_steps) == ("none", 200)  # 800 rows, by fours


def test_packing_is_a_choice_with_its_reason_and_part_of_the_rows(files: Path) -> None:
    found = resolved(DECODER, task="text-generation")
    [choice] = [choice for choice in found.choices if choice.pointer == "/training/packing"]
    assert (choice.value, found.training.packing) == ("whole", "whole")
    prepare = planned(DECODER, task="text-generation").step("prepare")
    assert isinstance(prepare, Prepare)
    assert prepare.packing == "whole"


def test_a_folder_for_mlx_lm_is_exported_and_verified_and_has_no_bundle() -> None:
    plan = planned(DECODER, task="text-generation", export=["mlx"], method="lora")
    assert [step.id for step in plan.steps] == ["prepare", "train", "evaluate", "merge", "export", "verify"]
    export, verify = plan.step("export"), plan.step("verify")
    assert isinstance(export, ExportModel) and isinstance(verify, VerifyExport)
    assert export.export == verify.export == Mlx(max_metric_drop=0.0)
    both = planned(DECODER, task="text-generation", export=["onnx", "mlx"])
    assert [step.id for step in both.steps if isinstance(step, Package)] == ["package-1"]


@pytest.mark.parametrize(
    ("export", "drop"),
    [
        ({}, 0.0),
        ({"precision": "bf16"}, 0.01),
        ({"bits": 8}, 0.02),
        ({"bits": 4}, 0.1),
        ({"bits": 4, "max_metric_drop": 0.3}, 0.3),
    ],
)
def test_rounding_may_cost_as_much_as_the_plan_says(export: Any, drop: float) -> None:
    verify = planned(DECODER, task="text-generation", export=[{"format": "mlx", **export}]).step("verify")
    assert isinstance(verify, VerifyExport)
    assert verify.max_metric_drop == drop


def test_the_default_template_is_the_one_that_shows_in_a_recipe() -> None:
    assert TextGeneration().template == ChatTemplate(name="auto")
