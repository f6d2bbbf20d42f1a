from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.generation import Generation
from compiler.tasks import TextGeneration
from compiler.tasks.text_generation import ChatTemplate
from runtimes.generation.answers import Row, Writing, writing_of
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.few_shot import Examples, draw_examples, written_after_examples
from runtimes.report import few_shot_line
from runtimes.rows.tokens import open_encoder
from runtimes.tasks import example_module_of
from tests.tiny import save_causal_tokenizer

VOCABULARY = 99
UNKNOWN = 1


@dataclass(frozen=True, slots=True)
class Copier:
    """A decoder that writes what followed the last token where that stood before; else the token of unknown words."""

    max_positions: int | None = None
    encodes = False

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, list[list[int]]]:
        rows = [ids[mask > 0].tolist() for ids, mask in zip(ids_BT, mask_BT, strict=True)]
        return self._logits(rows), rows

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: list[list[int]]) -> tuple[Floats, list[list[int]]]:
        rows = [[*row, *new] for row, new in zip(cache, ids_B1.tolist(), strict=True)]
        return self._logits(rows), rows

    def reorder(self, cache: list[list[int]], rows: Ids) -> list[list[int]]:
        return [cache[row] for row in rows]

    def _logits(self, rows: Sequence[list[int]]) -> Floats:
        logits_BV = np.zeros((len(rows), VOCABULARY), np.float32)
        for at, (*before, last) in enumerate(rows):
            places = [place for place, token in enumerate(before) if token == last]
            logits_BV[at, [*before, last][places[-1] + 1] if places else UNKNOWN] = 1
        return logits_BV


def writing(folder: Path, *, max_length: int = 64, template: str = "plain", **generation: Any) -> Writing:
    """How the tiny tokenizer's prompts are written for; answers of 4 tokens."""
    if not folder.exists():
        assert save_causal_tokenizer(folder) < VOCABULARY
    task = TextGeneration(template=ChatTemplate(name=template).bound(folder))
    encoder = open_encoder(folder / "tokenizer.json", max_length=max_length)
    return writing_of(task, encoder, Generation(max_new_tokens=4, **generation), folder)


def test_a_configuration_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    writing(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"generation_config\.json is not a JSON object"):
        writing(tmp_path / "model")


def write_rows(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def solved(word: str, kind: str) -> Row:
    return {"prompt": f"the movie is {word} ", "completion": f"very {kind}"}


ASKED: Row = {"prompt": "a film is good ", "completion": "very p"}
SEVEN = 7
"""Tokens of a solved row: the movie is good very p [SEP]."""


def test_a_model_that_copies_answers_right_after_a_solved_row_and_not_alone(tmp_path: Path) -> None:
    given = writing(tmp_path / "model", few_shot=1)
    found = written_after_examples(given, Copier(), [ASKED], [0], write_rows(tmp_path, [solved("good", "p")]))
    assert found.texts == ("very p",)
    assert [text.text for text in given.written(Copier(), [ASKED], [0])] != ["very p"]


def test_solved_rows_are_earlier_turns_of_the_template(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "the movie is good "},
        {"role": "assistant", "content": "very p"},
        {"role": "user", "content": "a film is good "},
        {"role": "assistant", "content": "very p"},
    ]
    for template in ("plain", "alpaca"):
        given = writing(tmp_path / "model", template=template, max_length=256)
        module = example_module_of(given.task)
        after = module.prompt_after(given.task, ASKED, [solved("good", "p")], given.encoder)
        assert after is not None and after == module.prompt(given.task, {"messages": turns}, given.encoder).ids
        text = given.encoder.tokenizer.decode(list(after))
        assert text.endswith("the movie is good very p a film is good") or template == "alpaca"


def test_the_seed_alone_draws_the_rows(tmp_path: Path) -> None:
    rows = [solved(word, kind) for word, kind in (("good", "p"), ("bad", "n"), ("fine", "p"), ("dull", "n")) * 5]
    path = write_rows(tmp_path, rows)
    drawn = [draw_examples(writing(tmp_path / "model", seed=seed), path, 3, 64) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({examples.numbers for examples in drawn}) == 4
    for examples in drawn:
        assert examples.rows == tuple(rows[number] for number in examples.numbers)
        assert len(set(examples.numbers)) == 3
    more = draw_examples(writing(tmp_path / "model"), path, 5, 64)
    assert more.numbers[:3] == drawn[0].numbers, "those that are drawn first stay"


def test_rows_that_are_too_long_or_have_no_turns_are_passed_over_and_counted(tmp_path: Path) -> None:
    long = {"prompt": "the movie was very very good ", "completion": "very p"}
    unasked = {"messages": [{"role": "assistant", "content": "very p"}]}
    rows: list[Row] = [long, {"text": "the end"}, unasked, solved("good", "p")]
    found = draw_examples(writing(tmp_path / "model"), write_rows(tmp_path, rows), 2, SEVEN)
    assert found == Examples(rows=(solved("good", "p"),), numbers=(3,), passed_over=3)
    none = draw_examples(writing(tmp_path / "model"), write_rows(tmp_path, rows), 2, SEVEN - 1)
    assert none == Examples(rows=(), numbers=(), passed_over=4)
    assert draw_examples(writing(tmp_path / "model"), write_rows(tmp_path, []), 2, 64).numbers == ()


def test_solved_rows_that_do_not_fit_before_a_prompt_are_left_out_and_counted(tmp_path: Path) -> None:
    """26 positions leave 22 for prompts: with two rows of 7 tokens, for questions of 8; with one, of 15."""
    given = writing(tmp_path / "model", few_shot=2, seed=4)
    path = write_rows(tmp_path, [solved("good", "p"), solved("bad", "n"), solved("fine", "p")])
    asked = [{"prompt": "a " * count, "completion": "very p"} for count in (4, 8, 9, 15, 16, 30)]
    found = written_after_examples(given, Copier(26), asked, range(6), path)
    assert found.counts == (2, 2, 1, 1, 0, 0)
    told = found.as_json(given.generation)
    assert told["prompts"] == {"2": 2, "1": 2, "0": 2}
    assert [example["number"] for example in told["examples"]] == list(found.examples.numbers)
    assert few_shot_line(told) == (
        "    few_shot: the untuned model, 2 solved train rows before each prompt; "
        "before 4 of 6 prompts there was room for fewer"
    )
    alone = [text.text for text in given.written(Copier(26), asked, range(6))]
    assert list(found.texts[4:]) == alone[4:]


def test_texts_without_turns_are_asked_alone_and_nothing_is_written_twice(tmp_path: Path) -> None:
    given = writing(tmp_path / "model", few_shot=1)
    path = write_rows(tmp_path, [solved("good", "p")])
    found = written_after_examples(given, Copier(), [{"text": "the end"}], [0], path)
    assert (found.texts, found.counts) == ((), (0,))
    assert found.as_json(given.generation)["prompts"] == {"0": 1}


def test_a_template_that_refuses_a_row_s_turns_leaves_the_solved_rows_out(tmp_path: Path) -> None:
    save_causal_tokenizer(tmp_path / "model")
    source = (
        "{% if messages | length > 2 and 'film' in messages[-1].content %}{{ raise_exception('no films') }}{% endif %}"
        "{% for message in messages %}{{ message.content }}{{ eos_token if message.role == 'assistant' }}{% endfor %}"
    )
    task = TextGeneration(template=ChatTemplate(source=source).bound(tmp_path / "model"))
    encoder = open_encoder(tmp_path / "model" / "tokenizer.json", max_length=64)
    given = writing_of(task, encoder, Generation(max_new_tokens=4, few_shot=1), tmp_path / "model")
    asked = [ASKED, solved("bad", "n")]
    found = written_after_examples(given, Copier(), asked, [0, 1], write_rows(tmp_path, [solved("good", "p")]))
    assert found.counts == (0, 1)


@pytest.mark.parametrize("row", [ASKED, {"instruction": "a film", "input": "is good", "output": "very p"}])
def test_every_layout_with_turns_is_a_solved_row(tmp_path: Path, row: Row) -> None:
    task = writing(tmp_path / "model").task
    assert example_module_of(task).is_solved(task, row)
