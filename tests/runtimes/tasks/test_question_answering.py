"""Parts of a context that answer: where they stand among tokens and windows, what is best, and what is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.metrics import AnswerExact, AnswerF1
from compiler.recipe import CrossEntropy
from compiler.tasks import Example, QuestionAnswering
from compiler.windows import num_windows
from runtimes.rows.batches import collate
from runtimes.rows.feature_writer import write_features
from runtimes.rows.features import IGNORED, POSSIBLE, Features, Ragged, is_answered
from runtimes.rows.readings import span_figures
from runtimes.rows.spans import LAST_TOKEN, ONE_TOKEN, best_span, decide_spans, marked
from runtimes.rows.tokens import Encoder, open_encoder
from runtimes.rows.windows import of_rows, windows_of
from runtimes.saved import SavedModel
from runtimes.tasks import question_answering as task
from runtimes.verification.comparison import encoded, examples_of, outputs_of
from runtimes.verification.gate import UNDECIDED, compare_decisions
from tests.tiny import BAD, COMMON, GOOD, save_tokenizer

TASK = QuestionAnswering(no_answer=True)
METRICS = (AnswerExact(), AnswerF1())
WORDS = (*COMMON, *GOOD, *BAD)
ROW: dict[str, Any] = {
    "question": "the movie",
    "context": "a plots was great, good film!",
    "answers": [{"text": "great, good", "start": 12}, {"text": "film", "start": 24}],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers") / "model"
    save_tokenizer(folder, (*WORDS, ",", "!"))
    return folder


@pytest.fixture
def encoder(model: Path) -> Encoder:
    return open_encoder(model / "tokenizer.json", max_length=32)


def examples(rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    return [Example(row=row) for row in rows]


def long_row(answer: int, count: int = 40) -> dict[str, Any]:
    """A row of so many words, of which one is the answer; -1 for none."""
    words = [str(word) for word in np.random.default_rng(0).choice(WORDS, count)]
    context = " ".join(words)
    start = len(" ".join(words[:answer])) + bool(answer)
    answers = [{"text": words[answer], "start": start}] if answer >= 0 else []
    return {"question": "the movie", "context": context, "answers": answers}


def figures(first: Any, last: Any, context: range) -> np.ndarray[Any, Any]:
    logits = np.stack([first, last], axis=-1)[None].astype(np.float32)
    found: np.ndarray[Any, Any] = span_figures(logits, marked(len(first), context, None)[None])[0]
    return found


# --- rows -> arrays


def test_the_first_answer_is_marked_and_the_question_can_not_be_one(encoder: Encoder) -> None:
    table = encoded(TASK, examples([ROW]), encoder)
    names = [encoder.tokenizer.id_to_token(number) for number in table.row(0)["input_ids"].tolist()]
    found = dict(zip(names, table.targets.row(0).tolist(), strict=True))
    assert names[:4] == ["[CLS]", "the", "movie", "[SEP]"]
    assert [found[name] for name in ("[CLS]", "the", "movie", "[SEP]")] == [POSSIBLE, IGNORED, IGNORED, IGNORED]
    assert [found[name] for name in ("was", "great", ",", "good", "film")] == [
        POSSIBLE,
        0,
        POSSIBLE,
        LAST_TOKEN,
        POSSIBLE,
    ]


def test_no_answer_is_the_first_token_and_one_token_is_first_and_last(encoder: Encoder) -> None:
    none, one = {**ROW, "answers": []}, {**ROW, "answers": ROW["answers"][1:]}
    table = encoded(TASK, examples([none, one]), encoder)
    assert [np.flatnonzero(is_answered(table.targets.row(number))).tolist() for number in (0, 1)] == [[0], [11]]
    assert table.targets.row(0)[0] == table.targets.row(1)[11] == ONE_TOKEN


def test_each_row_weighs_one_and_padding_nothing(encoder: Encoder) -> None:
    table = encoded(TASK, examples([ROW, long_row(-1, 20)]), encoder)
    batch = collate(table, np.arange(2), weigh=lambda targets: task.weights(TASK, CrossEntropy(), targets))
    assert batch.weights.sum(axis=1).tolist() == [1.0, 1.0]
    assert batch.positions.sum(axis=1).tolist() == table.lengths.tolist()


def test_windows_have_every_word_and_the_answer_is_marked_where_it_is_whole(encoder: Encoder) -> None:
    row = long_row(30)
    [windows] = windows_of(TASK, [row], encoder)
    whole = len(encoder.whole.encode(row["question"], row["context"]).ids)
    assert len(windows) == num_windows(whole, 32, 16) > 1
    reads = task.reads(TASK, windows, encoder)
    assert all(len(read.ids) <= 32 for read in reads)
    words = {span for read in reads for span in read.offsets if span != (0, 0)}
    assert len(words) == len(encoder.whole.encode(row["context"], add_special_tokens=False).ids)
    table = encoded(TASK, examples(windows), encoder)
    first = row["answers"][0]
    for number, read in enumerate(reads):
        [place] = np.flatnonzero(is_answered(table.targets.row(number)))
        start, end = read.offsets[place]
        inside = any(span[0] <= first["start"] < span[1] for span in read.offsets)
        assert row["context"][start:end] == (first["text"] if inside else "")
    assert 0 < sum(table.targets.row(number)[0] == ONE_TOKEN for number in range(len(reads))) < len(reads)


def test_a_window_stays_one_when_it_is_read_again(encoder: Encoder) -> None:
    [windows] = windows_of(TASK, [long_row(30)], encoder)
    assert [example.row for example in examples_of(TASK, windows)] == windows
    assert windows_of(TASK, windows, encoder) == [[window] for window in windows]


def test_a_question_too_long_is_cut_and_the_context_is_read(encoder: Encoder) -> None:
    row = {**ROW, "question": "the movie " * 30}
    portion = task.encode(TASK, examples([row]), encoder)
    assert portion.truncated == 1
    [read] = task.reads(TASK, [row], encoder)
    assert (len(read.ids), len(read.context)) == (len(portion.ragged["input_ids"][0]), 9)
    assert len(read.ids) <= 32


def test_notes_are_there_again_when_features_are_read(encoder: Encoder, tmp_path: Path) -> None:
    columns = task.columns(TASK, 0)
    write_features([task.encode(TASK, examples([ROW]), encoder)], columns, tmp_path, max_length=32, pad_token_id=0)
    [note] = Features(tmp_path).targets.notes
    assert note == encoded(TASK, examples([ROW]), encoder).targets.notes[0]
    assert note["answers"] == ["great, good", "film"]


# --- what is best


@pytest.mark.parametrize("no_answer", [True, False])
@pytest.mark.parametrize("most", [1, 3, 50])
def test_the_best_span_is_that_of_a_search_over_all(most: int, no_answer: bool) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        count, start = int(random.integers(4, 14)), int(random.integers(1, 4))
        context = range(start, int(random.integers(start, count + 1)))
        found = figures(random.normal(size=count), random.normal(size=count), context)
        best = best_span(found, marked(count, context, None) != IGNORED, most, no_answer=no_answer)
        pairs = [(i, j) for i in context for j in context if i <= j < i + most]
        pairs += [(0, 0)] if no_answer or not context else []
        scores = sorted(((float(found[i, 0]) + float(found[j, 1]), (i, j)) for i, j in pairs), reverse=True)
        assert (best.start, best.end) == scores[0][1]
        assert best.score == pytest.approx(scores[0][0])
        assert best.margin == pytest.approx(scores[0][0] - scores[1][0] if len(scores) > 1 else math.inf)


def test_figures_are_log_probabilities_over_what_can_be_the_answer() -> None:
    found = figures([1.0, 9.0, 2.0, 3.0], [0.0, 9.0, 0.0, 0.0], range(2, 4))
    assert np.exp(found[[0, 2, 3], :2]).sum(axis=0).tolist() == pytest.approx([1.0, 1.0])
    assert found[1].tolist() == [0.0, 0.0, -1.0]
    assert found[:, 2].tolist() == [0.0, -1.0, 1.0, 1.0]


def test_a_decision_is_one_of_a_row_and_near_ties_settle_on_the_source() -> None:
    source = np.concatenate(
        [figures([0, 0, 5, 1], [0, 0, 1, 5], range(2, 4)), figures([0, 0, 2, 2.001], [0, 0, 9, 9], range(2, 4))]
    )
    other = source.copy()
    other[6, 0] += 0.002
    decided, margin = decide_spans(source, 30, no_answer=True)
    assert (decided == UNDECIDED).tolist() == [False, True, True, True, False, True, True, True]
    assert margin[4] == pytest.approx(0.001, abs=1e-5)
    decide = task.decider(TASK)
    found = compare_decisions(source, other, 0.01, 0.6, decide=decide, rows=[0] * 4 + [1] * 4)
    assert (found.passed, found.rows, found.positions, found.agreeing, found.excused) == (True, 2, 2, 1, (1,))
    assert not compare_decisions(source, other, 0.01, 0.4, decide=decide, rows=[0] * 4 + [1] * 4).passed
    assert not compare_decisions(source, other, 0.0001, 0.6, decide=decide, rows=[0] * 4 + [1] * 4).passed
    excused = np.zeros(8, bool)
    excused[4] = True
    assert np.array_equal(task.settle(TASK, source, other, excused, 0.01), source)
    assert task.decision(TASK, source[:4]) == "2-3"


# --- measuring


def test_the_loss_of_even_outputs_is_the_logarithm_of_the_number_of_tokens() -> None:
    targets = marked(6, range(2, 5), (3, 4))
    even = figures([0.0] * 6, [0.0] * 6, range(2, 5))
    assert task.losses(CrossEntropy(), TASK, targets, even).tolist() == pytest.approx([0, 0, 0, math.log(4), 0, 0])


def answered(rows: Sequence[Mapping[str, Any]], spans: Sequence[tuple[int, int]], encoder: Encoder) -> dict[str, float]:
    """The metrics where a model says these tokens of each window, the later ones the more surely."""
    windows = [part for parts in windows_of(TASK, rows, encoder) for part in parts]
    table = encoded(TASK, examples(windows), encoder)
    parts = []
    for number, (start, end) in enumerate(spans):
        logits = np.zeros((int(table.lengths[number]), 2), np.float32)
        logits[start, 0] = logits[end, 1] = 5.0 + number
        parts.append(span_figures(logits[None], table.targets.row(number)[None])[0])
    return task.score(TASK, METRICS, table.targets, Ragged.of(parts, np.empty((0, 3), np.float32)))


def test_any_accepted_answer_is_right_and_words_are_shared(encoder: Encoder) -> None:
    assert answered([ROW], [(8, 10)], encoder) == {"answer-exact": 1.0, "answer-f1": 1.0}
    assert answered([ROW], [(11, 11)], encoder) == {"answer-exact": 1.0, "answer-f1": 1.0}
    assert answered([ROW], [(10, 10)], encoder) == {"answer-exact": 0.0, "answer-f1": pytest.approx(2 / 3)}
    assert answered([ROW], [(0, 0)], encoder) == {"answer-exact": 0.0, "answer-f1": 0.0}


def test_the_answer_is_the_best_of_all_windows(encoder: Encoder) -> None:
    row = long_row(30)
    [windows] = windows_of(TASK, [row], encoder)
    targets = encoded(TASK, examples(windows), encoder).targets
    right = [int(np.flatnonzero(is_answered(targets.row(number)))[0]) for number in range(len(windows))]
    assert 0 in right
    assert answered([row], [(place, place) for place in right], encoder)["answer-exact"] == 1.0
    nothing = {**row, "answers": []}
    assert answered([nothing, ROW], [*[(0, 0)] * len(windows), (8, 10)], encoder)["answer-exact"] == 1.0


def test_the_baseline_says_that_there_is_no_answer(encoder: Encoder) -> None:
    table = encoded(TASK, examples([ROW, {**ROW, "answers": []}]), encoder)
    name, outputs = task.baseline(TASK, table.targets.values, len(table.targets.values)) or ("", np.zeros(0))
    found = task.score(TASK, METRICS, table.targets, Ragged(outputs, table.targets.offsets))
    assert (name, found["answer-exact"]) == ("no answer", 0.5)
    details = task.details(TASK, table.targets, Ragged(outputs, table.targets.offsets))
    assert details["answers"]["no answer"] == {"answer-exact": 1.0, "answer-f1": 1.0, "rows": 1, "none": 1}
    assert [line.split()[0] for line in task.detail_lines(details)] == ["answer-exact", "answered", "no"]


# --- an outside reader


def save_random_model(folder: Path) -> None:
    """A random BERT whose answers differ from row to row."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForQuestionAnswering

    from runtimes.pytorch.quiet import quiet

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with quiet():
        BertForQuestionAnswering(config).save_pretrained(folder)


def expected_answer(folder: Path, encoder: Encoder, row: Mapping[str, Any]) -> dict[str, Any]:
    """By the rule of transformers' former pipeline for questions: logits of the text and the first token, softmax."""
    import torch
    from transformers import BertForQuestionAnswering

    model = BertForQuestionAnswering.from_pretrained(folder).eval()
    whole = encoder.whole.encode(row["question"], row["context"])
    parts = whole.sequence_ids
    context = [place for place, part in enumerate(parts) if part == 1]
    room = 32 - (len(parts) - len(context))
    best, none = (-1.0, 0, 0), math.inf
    for skipped in range(0, max(1, len(context) - room + 16), 16):
        inside = context[skipped : skipped + room]
        kept = [place for place in range(len(parts)) if parts[place] != 1 or place in inside]
        given = {
            "input_ids": torch.tensor([[whole.ids[place] for place in kept]]),
            "token_type_ids": torch.tensor([[whole.type_ids[place] for place in kept]]),
        }
        with torch.inference_mode():
            found = model(**given)
        allowed = [number for number, place in enumerate(kept) if parts[place] == 1]
        mask = torch.full((len(kept),), -1e9)
        mask[[0, *allowed]] = 0
        first, last = ((logits[0] + mask).softmax(0) for logits in (found.start_logits, found.end_logits))
        none = min(none, float(first[0] * last[0]))
        for i in allowed:
            for j in allowed:
                if i <= j < i + TASK.max_answer_length and float(first[i] * last[j]) > best[0]:
                    best = (float(first[i] * last[j]), whole.offsets[kept[i]][0], whole.offsets[kept[j]][1])
    score, start, end = best if best[0] > none else (none, 0, 0)
    return {"answer": row["context"][start:end], "score": pytest.approx(score, rel=1e-4), "start": start, "end": end}


def test_answers_are_those_of_the_models_own_logits_also_over_windows(model: Path, encoder: Encoder) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    from runtimes.pytorch.scores import torch_scores

    save_random_model(model)
    rows = [ROW, *(long_row(0, count) for count in (5, 20, 30, 45, 60))]
    windows = windows_of(TASK, rows, encoder)
    table = encoded(TASK, examples([part for parts in windows for part in parts]), encoder)
    outputs = of_rows(
        outputs_of(torch_scores(SavedModel(model), task.head(TASK)), table, np.arange(len(table)), 4), windows
    )
    for number, row in enumerate(rows):
        found = task.answer(TASK, row, outputs.row(number), encoder)
        assert found == expected_answer(model, encoder, row)
    assert task.line({"answer": "", "score": 0.5}) == "no answer  0.5000"


def test_torchs_figures_and_losses_are_numpys() -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from runtimes.pytorch.objective import read_outputs, span_losses

    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 7, 2)).astype(np.float32)
    targets = np.stack([marked(7, range(3, 6), (3, 4)), marked(7, range(2, 7), None)]).astype(np.int64)
    ours = span_figures(logits, targets)
    theirs = read_outputs("spans", torch.from_numpy(logits), torch.from_numpy(targets)).numpy()
    assert np.abs(ours - theirs).max() < 1e-5
    losses = span_losses(torch.from_numpy(logits), torch.from_numpy(targets), 0.0).numpy()
    expected = [task.losses(CrossEntropy(), TASK, targets[row], ours[row]) for row in (0, 1)]
    assert np.abs(losses - np.stack(expected)).max() < 1e-5
    smoothed = span_losses(torch.from_numpy(logits), torch.from_numpy(targets), 0.2).numpy()
    possible = targets != IGNORED
    even = [-ours[row][possible[row], :2].mean() for row in (0, 1)]
    assert smoothed.sum(axis=1) == pytest.approx(0.8 * losses.sum(axis=1) + 0.2 * np.asarray(even), abs=1e-5)
