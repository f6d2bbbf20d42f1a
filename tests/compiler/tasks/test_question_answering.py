"""question-answering: what the compiler reads, finds and chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compiler.data.texts import BadValueError
from compiler.diagnostics import RecipeError
from compiler.facts import DataFacts
from compiler.metrics import AnswerExact, AnswerF1
from compiler.recipe import CrossEntropy
from compiler.tasks import QuestionAnswering, columns_of, question_answering
from tests.handmade import DATA, MODEL, read, resolved

TASK = QuestionAnswering()
ROW: dict[str, Any] = {
    "question": "Who sings?",
    "context": "It is Ann who sings.",
    "answers": [{"text": "Ann", "start": 6}],
}


def facts(answered: int, unanswered: int, lengths: tuple[int, ...] | None = None) -> DataFacts:
    counts = {"answered": answered, "no answer": unanswered}
    splits = tuple(replace(split, label_counts=counts, lengths=lengths) for split in DATA.splits)
    return DataFacts(splits=splits, labels=())


def reader() -> question_answering.Reader:
    return question_answering.reader(TASK, columns_of(TASK, {}))


def test_rows_are_read_and_those_with_an_answer_counted() -> None:
    found = reader()
    rows = [ROW, {**ROW, "answers": []}, {**ROW, "answers": {"text": ["Ann"], "answer_start": [6]}, "title": "x"}]
    examples = [found.read(row) for row in rows]
    assert examples[0].row == examples[2].row == ROW
    targets = np.asarray([example.target for example in examples])
    assert found.label_counts(targets) == {"answered": 2, "no answer": 1}
    assert found.labels == ()


def test_an_answer_may_stand_in_a_column_of_its_own() -> None:
    row = {"question": "Who?", "context": ROW["context"], "answer": "Ann", "answer_start": "6"}
    assert reader().read(row).row == {**ROW, "question": "Who?"}
    assert reader().read({**row, "answer": ""}).row["answers"] == []


def test_rows_are_the_same_when_they_are_read_again() -> None:
    assert reader().read(reader().read(ROW).row).row == ROW


def test_a_row_without_an_answer_is_its_question_and_context() -> None:
    assert reader().given(ROW) == {"question": ROW["question"], "context": ROW["context"]}
    with pytest.raises(BadValueError, match='the column "answers": expected answers'):
        reader().read({"question": "Who?", "context": "It."})


def test_the_answer_is_what_is_shown_as_learnt() -> None:
    def learnt(row: dict[str, Any]) -> list[str]:
        return [piece.text for piece in question_answering.pieces(TASK, row) if piece.supervised]

    whole = "".join(piece.text for piece in question_answering.pieces(TASK, ROW))
    assert (whole, learnt(ROW)) == ("Who sings?\nIt is Ann who sings.", ["Ann"])
    assert learnt({**ROW, "answers": []}) == ["no answer"]


@pytest.mark.parametrize(("unanswered", "chosen"), [(3, True), (0, False)])
def test_there_may_be_no_answer_where_a_train_row_has_none(unanswered: int, chosen: bool) -> None:
    found = resolved(data_facts=facts(90, unanswered), task="question-answering")
    assert found.task == QuestionAnswering(no_answer=chosen)
    assert found.metrics == (AnswerExact(), AnswerF1())
    assert found.training.loss == CrossEntropy()


def test_a_head_for_answers_is_kept_and_no_other() -> None:
    own = replace(MODEL, architectures=("BertForQuestionAnswering",))
    assert resolved(own, facts(9, 1), task="question-answering").keep_head
    assert not resolved(MODEL, facts(9, 1), task="question-answering").keep_head


def test_steps_are_counted_in_windows_and_no_row_is_called_cut() -> None:
    from compiler.data.checks import check_lengths

    lengths = (0,) * 20 + (30,) + (0,) * 19 + (10,)  # 30 rows of 20 tokens, 10 of 40: these have 3 windows of 20
    training = {"epochs": 2, "batch_size": 10, "max_length": 20}
    found = resolved(data_facts=facts(40, 0, lengths), task="question-answering", training=training)
    assert found.training.num_steps == 2 * (30 + 3 * 10) // 10
    recipe = read(task="question-answering", training=training)
    assert [*check_lengths(recipe, MODEL, facts(40, 0, lengths))] == []


def test_windows_start_at_most_half_a_window_apart() -> None:
    assert [QuestionAnswering(stride=each).window_step(100) for each in ("auto", 30, 70)] == [50, 30, 50]


def test_rows_that_all_have_no_answer_are_nothing_to_learn() -> None:
    [found] = question_answering.check_data(read(task="question-answering"), facts(0, 9))
    assert (found.code, found.message) == ("R308", "no train row has an answer")
    assert [*question_answering.check_data(read(task="question-answering"), facts(1, 9))] == []


def test_weights_of_classes_are_read_by_nothing() -> None:
    with pytest.raises(RecipeError) as caught:
        read(
            task="question-answering",
            training={"loss": {"type": "cross-entropy", "class_weights": "balanced"}},
        )
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R202", "/training/loss/class_weights")


def test_the_summary_says_how_many_have_none() -> None:
    assert question_answering.summary(facts(5, 2)) == "6 rows without an answer"
    assert question_answering.summary(facts(5, 0)) == "every row has an answer"
