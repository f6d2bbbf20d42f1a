"""text-generation and continued-pretraining: what the compiler reads, finds and chooses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compiler.data.survey import survey
from compiler.data.texts import BadValueError
from compiler.diagnostics import RecipeError
from compiler.facts import bound
from compiler.hub import Sources
from compiler.loading import load
from compiler.plan import Evaluate, ExportModel, Package, Plan, Prepare, Train, VerifyExport
from compiler.reading import read_recipe
from compiler.recipe import Mlx
from compiler.resolve import resolve
from compiler.tasks import (
    ContinuedPretraining,
    Example,
    TextGeneration,
    columns_of,
    module_of,
    takes_examples,
    texts_of,
)
from compiler.tasks.text_generation import ChatTemplate, pieces
from runtimes.rows.tokens import open_encoder
from runtimes.tasks.text_generation import encode
from tests.handmade import CPU, DATA, MODEL, planned, read, resolved

DECODER = replace(MODEL, model_type="llama", architecture="decoder", packs=True, padding=None)
ROWS = replace(DATA, splits=tuple(replace(split, lengths=(*(0,) * 40, 100)) for split in DATA.splits))
"""A hundred rows of 40 tokens in each split."""
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


@pytest.mark.parametrize("learnt", [True, False])
def test_a_rationale_is_a_column_before_the_answer_learnt_or_only_read(files: Path, *, learnt: bool) -> None:
    """The template has no form for reasoning, as most have none."""
    task = chat(files, supervise_reasoning=learnt)
    named = {"reasoning": "rationale", "completion": "answer"}
    reader = module_of(task).reader(task, columns_of(task, named))
    row = reader.read({"prompt": "2 + 2?", "rationale": "Two and two.", "answer": "4"}).row
    assert row == {"prompt": "2 + 2?", "reasoning": "Two and two.", "completion": "4"}
    assert texts_of(task, row) == ("<user>2 + 2?</s><assistant><think>\nTwo and two.\n</think>\n\n4</s>",)
    [found] = [segment.text for segment in pieces(task, row) if segment.supervised]
    before = "<assistant><think>\nTwo and two." if learnt else ""
    assert found == before + "\n</think>\n\n4</s>"


def test_a_rationale_is_written_by_the_template_that_has_a_form_for_it(files: Path) -> None:
    task = chat(
        files, template={"source": "{% for m in messages %}{{ m.reasoning_content }}!{{ m.content }}|{% endfor %}"}
    )
    row = row_of(task, instruction="2 + 2?", output="4", reasoning="Two and two.")
    assert texts_of(task, row) == ("!2 + 2?|Two and two.!4|",)


@pytest.mark.parametrize(
    ("values", "template"),
    [
        ({"text": "</s> <s> </s>"}, "model"),  # no template is for it
        ({"prompt": "<s> ", "completion": "</s>"}, "plain"),
        ({"prompt": "<s> ", "completion": "</s>"}, "model"),
    ],
)
def test_rows_are_counted_with_the_start_that_they_are_trained_with(files: Path, values: Any, template: str) -> None:
    tokenizer = Tokenizer.from_file(str(files))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer.save(str(files))
    (files.parent / "rows.jsonl").write_text(json.dumps(values) + "\n")
    recipe = {"recipe": 1, "name": "r", "model": "m", "dataset": {"train": "rows.jsonl", "validation": None}}
    recipe |= {"task": {"type": "text-generation", "template": template}, "export": []}
    (files.parent / "r.json").write_text(json.dumps(recipe))
    made = bound(read_recipe(load(files.parent / "r.json")), replace(DECODER, tokenizer_file=files))
    assert isinstance(made.task, TextGeneration)
    encoder = open_encoder(files, max_length=64)
    [ids] = encode(made.task, [Example(row=values)], encoder).ragged["input_ids"]
    assert ids[0] == 2 or template == "model"
    for _ in range(2):  # counted, and remembered
        facts = survey(made, files, Sources(cache=files.parent / "cache"), ())
        assert facts.longest_row == len(ids)


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


def asked(model: Any = DECODER, **generation: Any) -> Plan:
    """The plan of a recipe that measures texts."""
    training = {"max_length": 64}
    return planned(
        model,
        ROWS,
        task="text-generation",
        metrics=["rouge"],
        generation=generation,
        training=training,
        export=["onnx"],
    )


def few_shot_of(plan: Plan) -> Any:
    evaluate = plan.step("evaluate")
    assert isinstance(evaluate, Evaluate) and evaluate.generation is not None
    return evaluate.generation.few_shot


def test_solved_rows_before_a_prompt_are_a_choice_with_its_reason() -> None:
    plan = asked(max_new_tokens=32)
    [choice] = [choice for choice in plan.choices if choice.pointer == "/generation/few_shot"]
    assert (few_shot_of(plan), choice.value) == (3, 3)
    assert choice.reason == "3 and a prompt fit, where none has more than 64 tokens: so have 100 of 100 train rows"
    short = asked(replace(DECODER, max_positions=100), max_new_tokens=10)  # rows of 40 tokens
    assert few_shot_of(short) == 1
    written = asked(few_shot=5)
    assert few_shot_of(written) == 5
    assert [choice for choice in written.choices if choice.pointer == "/generation/few_shot"] == []


def test_solved_rows_change_the_key_of_the_evaluation_alone() -> None:
    with_rows, without = asked(few_shot=3), asked(few_shot=0)
    assert few_shot_of(without) == 0
    keys, others = with_rows.keys(), without.keys()
    assert [name for name in keys if keys[name] != others[name]] == ["evaluate", "package"]
    package = with_rows.step("package")
    assert isinstance(package, Package) and package.generation is not None
    assert package.generation.few_shot == 0, "a bundle asks as it is asked"


@pytest.mark.parametrize(
    "changes", [{"metrics": ["perplexity"]}, {"metrics": ["rouge"], "dataset": {"train": "r.jsonl", "test": None}}]
)
def test_where_no_text_is_measured_nothing_is_said_of_solved_rows(changes: Any) -> None:
    changes.setdefault("dataset", {"train": "r.jsonl"})
    changes["dataset"]["validation"] = None
    found = resolved(DECODER, task="text-generation", **changes)
    assert [choice for choice in found.choices if choice.pointer == "/generation/few_shot"] == []
    assert found.generation is not None and found.generation.few_shot == 0


def test_more_solved_rows_than_positions_are_a_finding() -> None:
    with pytest.raises(RecipeError) as caught:
        asked(replace(DECODER, max_positions=100), few_shot=3, max_new_tokens=10)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer, found.hint) == ("R408", "/generation/few_shot", 'at most 1, or "auto"')
    assert found.message == "a prompt leaves room for 3 solved rows of 22 tokens; train rows that short: 0"


def test_a_template_that_takes_one_question_is_asked_without_solved_rows(files: Path) -> None:
    once = "{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}" + OWN
    task = chat(files, template={"source": once})
    assert not takes_examples(task) and takes_examples(chat(files))
    recipe = replace(read(metrics=["rouge"], task="text-generation"), task=task)
    found = resolve(recipe, DECODER, DATA, CPU)
    [choice] = [choice for choice in found.choices if choice.pointer == "/generation/few_shot"]
    assert (choice.value, choice.reason) == (
        0,
        "the chat template does not take a question after one that was answered",
    )
    wanted = read(metrics=["rouge"], task="text-generation", generation={"few_shot": 2})
    with pytest.raises(RecipeError) as caught:
        resolve(replace(wanted, task=task), DECODER, DATA, CPU)
    assert [(found.code, found.pointer) for found in caught.value.diagnostics] == [("R411", "/generation/few_shot")]


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
