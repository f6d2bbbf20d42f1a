"""token-classification: what the compiler reads, finds and chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compiler.data.texts import BadValueError, UnknownLabelError
from compiler.diagnostics import Diagnostic, RecipeError
from compiler.facts import DataFacts
from compiler.metrics import EntityF1, EntityPrecision, EntityRecall
from compiler.recipe import CrossEntropy
from compiler.tasks import TokenClassification, columns_of, token_classification
from tests.handmade import DATA, MODEL, read, resolved

TASK = TokenClassification()
TAGS = ("O", "B-date", "I-date", "B-url", "I-url")
TOKENS: dict[str, Any] = {"tokens": ["on", "4", "May"], "tags": ["O", "B-date", "I-date"]}
SPANS: dict[str, Any] = {"text": "on 4 May", "spans": [{"start": 3, "end": 8, "label": "date"}]}


def facts(train: dict[str, int], test: dict[str, int], labels: tuple[str, ...] = TAGS) -> DataFacts:
    counts = {"train": train, "validation": train, "test": test}
    splits = tuple(replace(split, label_counts=counts[split.rows.split]) for split in DATA.splits)
    return DataFacts(splits=splits, labels=labels)


TRAIN = {"O": 90, "B-date": 5, "I-date": 3, "B-url": 2, "I-url": 0}
FACTS = facts(TRAIN, TRAIN)


def reader(task: TokenClassification = TASK) -> token_classification.Reader:
    return token_classification.reader(task, columns_of(task, {}))


def findings(data: DataFacts, **task: Any) -> list[Diagnostic]:
    return [*token_classification.check_data(read(task={"type": "token-classification", **task}), data)]


def test_both_kinds_of_rows_are_read_and_their_words_counted_by_tag() -> None:
    found = reader()
    rows = [TOKENS, SPANS, TOKENS, {"text": "no date", "spans": []}]
    targets = np.asarray([found.read(row).target for row in rows])
    assert found.labels == ("O", "B-date", "I-date")
    assert found.label_counts(targets) == {"O": 5, "B-date": 3, "I-date": 3}
    assert found.label_counts(targets[:1]) == {"O": 1, "B-date": 1, "I-date": 1}
    assert found.label_counts(targets[:0]) == {"O": 0, "B-date": 0, "I-date": 0}


def test_rows_are_the_same_when_they_are_read_again() -> None:
    for row in (TOKENS, SPANS):
        first = reader().read({**row, "note": 3}).row
        assert reader().read(first).row == first == row


@pytest.mark.parametrize(("read_as", "row"), [("auto", TOKENS), ("tokens", TOKENS), ("text", SPANS)])
def test_of_rows_with_both_the_task_says_which_are_read(read_as: Any, row: dict[str, Any]) -> None:
    found = reader(TokenClassification(read=read_as))
    assert found.read({**TOKENS, **SPANS}).row == row


def test_a_row_without_an_answer_is_its_tokens_or_else_its_text() -> None:
    assert reader().given({**TOKENS, "text": "other"}) == {"tokens": TOKENS["tokens"]}
    assert reader().given({"text": "on 4 May"}) == {"text": "on 4 May"}
    with pytest.raises(BadValueError, match='the column "text": expected text, found no value'):
        reader().given({"words": []})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tags": ["O"]}, 'the column "tokens": expected a list of tokens, found no value'),
        ({"text": "a b"}, 'the column "spans": expected a list of spans, found no value'),
        ({"text": " ", "spans": []}, 'the column "text": expected a text with a word in it'),
        (
            {"text": "a   b", "spans": [{"start": 2, "end": 3, "label": "x"}]},
            'the column "spans": there is no word from 2 to 3',
        ),
        (
            {"text": "10kg", "spans": [{"start": 0, "end": 2, "label": "n"}, {"start": 2, "end": 4, "label": "u"}]},
            'the column "spans": two spans have a part of the word "10kg"',
        ),
    ],
)
def test_odd_rows_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValueError) as caught:
        reader().read(row)
    assert str(caught.value) == message


def test_labels_of_spans_become_tags_and_tags_stay() -> None:
    declared = reader(TokenClassification(labels=("url", "date")))
    declared.read(SPANS)
    assert declared.labels == ("O", "B-url", "I-url", "B-date", "I-date")
    written = reader(TokenClassification(labels=TAGS))
    written.read(SPANS)
    assert written.labels == TAGS
    plain = reader(TokenClassification(labels=("noun", "verb")))
    plain.read({"tokens": ["a", "b"], "tags": ["noun", 1]})
    assert plain.labels == ("noun", "verb")


@pytest.mark.parametrize(
    ("labels", "row", "name"),
    [
        (("url",), SPANS, "date"),
        (("O", "B-url"), SPANS, "date"),
        (("O", "B-date"), SPANS, "I-date"),
        (("O", "B-date"), TOKENS, "I-date"),
    ],
)
def test_what_is_not_declared_is_named(labels: tuple[str, ...], row: dict[str, Any], name: str) -> None:
    with pytest.raises(UnknownLabelError) as caught:
        reader(TokenClassification(labels=labels)).read(row)
    assert caught.value.name == name


def test_tags_are_chosen_with_a_new_head_or_the_models_own() -> None:
    found = resolved(data_facts=FACTS, task="token-classification")
    assert found.task == TokenClassification(labels=TAGS)
    assert not found.keep_head
    assert found.metrics == (EntityF1(), EntityPrecision(), EntityRecall())
    own = (*TAGS[1:], "O")
    kept = resolved(replace(MODEL, token_labels=own), FACTS, task="token-classification")
    assert kept.keep_head
    assert kept.task == TokenClassification(labels=own)
    assert not resolved(replace(MODEL, labels=own), FACTS, task="token-classification").keep_head


def test_balanced_weights_are_by_words_and_a_tag_without_one_weighs_one() -> None:
    loss = {"loss": {"type": "cross-entropy", "class_weights": "balanced"}}
    found = resolved(data_facts=FACTS, task="token-classification", training=loss).training.loss
    assert isinstance(found, CrossEntropy)
    assert found.class_weights == {"O": 100 / 450, "B-date": 4.0, "I-date": 100 / 15, "B-url": 10.0, "I-url": 1.0}


def test_weights_name_tags_that_there_are() -> None:
    def training(name: str) -> dict[str, Any]:
        return {"loss": {"type": "cross-entropy", "class_weights": {name: 2.0}}}

    task = {"type": "token-classification", "labels": ["date", "url"]}
    assert resolved(data_facts=FACTS, task=task, training=training("B-date")).task == TokenClassification(labels=TAGS)
    for name in ("date", "B-dat"):
        with pytest.raises(RecipeError) as caught:
            resolved(data_facts=FACTS, task=task, training=training(name))
        [found] = caught.value.diagnostics
        assert (found.code, found.pointer) == ("R208", f"/training/loss/class_weights/{name}")


def test_one_label_of_spans_is_enough_and_none_is_not() -> None:
    assert read(task={"type": "token-classification", "labels": ["date"]}).task == TokenClassification(labels=("date",))
    for labels in ([], ["O"], ["date", "date"]):
        with pytest.raises(RecipeError) as caught:
            read(task={"type": "token-classification", "labels": labels})
        assert [found.code for found in caught.value.diagnostics] == ["R208"]


def test_a_kind_that_only_held_out_rows_have_is_an_error_and_a_tag_is_none() -> None:
    assert findings(facts(TRAIN, {**TRAIN, "I-url": 4})) == []
    [found] = findings(facts({**TRAIN, "B-url": 0}, TRAIN))
    assert (found.code, found.pointer, found.severity) == ("R307", "/dataset/test", "error")
    assert 'only test has rows of the label "url"' in found.message


def test_a_declared_kind_without_a_train_row_is_found_at_its_first_tag() -> None:
    train = {**TRAIN, "B-url": 0}
    [found] = findings(facts(train, train), labels=list(TAGS))
    assert (found.code, found.pointer) == ("R308", "/task/labels/3")
    [found] = findings(facts(train, train), labels=["date", "url"])
    assert (found.code, found.pointer, found.message) == ("R308", "/task/labels/1", 'no train row has a word of "url"')


def test_a_single_tag_is_nothing_to_learn() -> None:
    [found] = findings(facts({"O": 9}, {"O": 9}, ("O",)))
    assert (found.code, found.message) == ("R308", 'all words have the tag "O"')


def test_words_in_the_column_of_the_tags_are_noticed_unless_they_are_declared() -> None:
    words = tuple(f"w{number}" for number in range(600))
    counts = dict.fromkeys(words, 2)
    [found] = findings(facts(counts, counts, words))
    assert (found.code, found.pointer) == ("R317", "/dataset/columns/tags")
    assert found.message == '600 tags for 1,000 rows: is "tags" the right column?'
    assert findings(facts(counts, counts, words), labels=list(words)) == []


def test_the_summary_counts_kinds_where_tags_have_them() -> None:
    assert token_classification.summary(FACTS) == "5 tags of 2 kinds"
    assert token_classification.summary(facts({}, {}, ("noun", "verb"))) == "2 tags"
