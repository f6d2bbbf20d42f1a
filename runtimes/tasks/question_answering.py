"""question-answering: for each token whether the answer begins and ends there, and with them the part of the text.

The model reads the question and then the context. A context that is too long is read in windows, which overlap; where
the answer is not in one of them, there is none in it. Of a row's windows the best answer counts, unless in every one of
them it is likelier that there is none (as transformers' pipeline, and BERT's run_squad.py before it).
"""

# T = tokens of a row, P = tokens of all rows, C = figures of a token

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from compiler.diagnostics import printable
from compiler.metrics import AnswerExact, AnswerF1, Metric
from compiler.recipe import Loss
from compiler.tasks import Example, QuestionAnswering
from compiler.windows import num_windows
from runtimes.bundles.manifest import digest_of_rows
from runtimes.metrics.texts import score_accepted
from runtimes.rows.encoding import text_columns
from runtimes.rows.features import IGNORED, TARGETS, TOKENS, Column, Portion, Ragged, is_answered
from runtimes.rows.readings import FIRST, LAST, NUM_SPAN_FIGURES
from runtimes.rows.spans import LAST_TOKEN, ONE_TOKEN, Best, best_span, decide_spans, marked, row_ranges, tokens_of
from runtimes.rows.tokens import Encoder
from runtimes.rows.windows import WINDOW
from runtimes.tasks.interface import Answer, Array, Floats, Head, TaskCard
from runtimes.verification.gate import Decide, Scores

VARY = None
PROBED = "What is it about?"
"""The question about a text that was made up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A row as the model reads it, and which characters of the context each token stands for; none for others."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    context: range  # tokens of the context
    offsets: tuple[tuple[int, int], ...]  # [T]
    window: tuple[int, int]  # characters of the context that the model reads
    cut: bool  # whether a part of the question was left out

    def answer(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and last token of some characters; None where the window does not have them all."""
        inside = [place for place in self.context if self.offsets[place][1] > start and self.offsets[place][0] < end]
        whole = self.window[0] <= start and end <= self.window[1]
        return (inside[0], inside[-1]) if inside and whole else None

    @property
    def possible(self) -> npt.NDArray[np.bool_]:
        """[T] the tokens that an answer can be of."""
        found: npt.NDArray[np.bool_] = marked(len(self.ids), self.context, None) != IGNORED
        return found


def decider(task: QuestionAnswering) -> Decide:
    """The likeliest part of the context, or none, at the first token of each row."""
    return partial(decide_spans, most=task.max_answer_length, no_answer=may_be_none(task))


def may_be_none(task: QuestionAnswering) -> bool:
    """Whether the answer of a task that is resolved may be that there is none."""
    assert task.no_answer != "auto", "a plan's task is resolved"
    return task.no_answer


def head(task: QuestionAnswering) -> Head:
    """Two logits for each token: that the answer begins, and that it ends there."""
    return Head(
        auto_class="AutoModelForQuestionAnswering",
        peft_task="",  # peft 0.21 keeps token_type_ids from the model under QUESTION_ANS: it would read one text
        config={"num_labels": 2},
        num_outputs=NUM_SPAN_FIGURES,
        reading="spans",
        results=("start_logits", "end_logits"),
    )


def card(task: QuestionAnswering) -> TaskCard:
    """A part of a text."""
    none = ", or says that none does" if may_be_none(task) else ""
    return TaskCard(pipeline_tag="question-answering", says=f"Finds the part of a text that answers a question{none}.")


# --- rows -> arrays


def columns(task: QuestionAnswering, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of question and context, and for each what it is to the answer."""
    return (*text_columns(pad_token_id), Column(name=TARGETS, dtype="int32", axis=TOKENS, padding=IGNORED))


def windows(task: QuestionAnswering, rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[list[dict[str, Any]]]:
    """The windows of each row: the row itself where it is short enough."""
    step = task.window_step(encoder.max_length)
    return [
        [dict(row)] if count == 1 else [{**row, WINDOW: [number, count]} for number in range(count)]
        for row, encoding in zip(rows, encoder.uncut(_pairs(rows)), strict=True)
        for count in [num_windows(len(encoding.ids), encoder.max_length, step)]
    ]


def _pairs(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(row["question"], row["context"]) for row in rows]


def reads(task: QuestionAnswering, rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[Read]:
    """What the model reads of each row: of its window, or the first one."""
    step = task.window_step(encoder.max_length)
    numbers = [row[WINDOW][0] if WINDOW in row else 0 for row in rows]
    return [
        _read(encoding, encoder.max_length, number * step, step)
        for encoding, number in zip(encoder.uncut(_pairs(rows)), numbers, strict=True)
    ]


def _read(encoding: Encoding, max_length: int, skipped: int, step: int) -> Read:
    """A window of the context after so many tokens of it; a question that leaves less than a step of room is cut."""
    parts = encoding.sequence_ids  # None, 0 or 1 of each token
    question = [place for place, part in enumerate(parts) if part == 0]
    context = [place for place, part in enumerate(parts) if part == 1]
    room = max(step, max_length - (len(parts) - len(context)))
    dropped = {*context[:skipped], *context[skipped + room :]}
    excess = len(parts) - len(dropped) - max_length
    cut = question[max(0, len(question) - excess) :] if excess > 0 else []
    dropped |= {*cut}
    kept = [place for place in range(len(parts)) if place not in dropped][:max_length]
    inside = [number for number, place in enumerate(kept) if parts[place] == 1]
    return Read(
        ids=tuple(encoding.ids[place] for place in kept),
        type_ids=tuple(encoding.type_ids[place] for place in kept),
        context=range(inside[0], inside[-1] + 1) if inside else range(0),
        offsets=tuple(encoding.offsets[place] if parts[place] == 1 else (0, 0) for place in kept),
        window=_characters(encoding, context, [kept[number] for number in inside]),
        cut=bool(cut),
    )


def _characters(encoding: Encoding, context: Sequence[int], inside: Sequence[int]) -> tuple[int, int]:
    """The characters of a context that its tokens inside a window stand for, with those beside that have no token."""
    if not inside:
        return 0, 0
    start = 0 if inside[0] == context[0] else encoding.offsets[inside[0]][0]
    end = encoding.offsets[inside[-1]][1]
    return start, sys.maxsize if inside[-1] == context[-1] else end


def encode(task: QuestionAnswering, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    rows = [example.row for example in examples]
    found = reads(task, rows, encoder)
    return Portion(
        ragged={
            "input_ids": [np.asarray(read.ids, np.int32) for read in found],
            "token_type_ids": [np.asarray(read.type_ids, np.int8) for read in found],
            TARGETS: [_targets(row, read) for row, read in zip(rows, found, strict=True)],
        },
        fixed={},
        truncated=sum(read.cut for read in found),
        notes=[_note(row, read) for row, read in zip(rows, found, strict=True)],
    )


def _targets(row: Mapping[str, Any], read: Read) -> Array:
    """The first accepted answer, where the window has it."""
    first = next(iter(row.get("answers", ())), None)
    answer = read.answer(first["start"], first["start"] + len(first["text"].rstrip())) if first else None
    return marked(len(read.ids), read.context, answer)


def _note(row: Mapping[str, Any], read: Read) -> dict[str, Any]:
    """By what a row is measured: the text of its window, where its tokens are in that, and the accepted answers."""
    spans = [read.offsets[place] for place in read.context]
    start, end = (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else (0, 0)
    return {
        "row": digest_of_rows([{"question": row["question"], "context": row["context"]}])[:16],
        "window": row[WINDOW][0] if WINDOW in row else 0,
        "text": row["context"][start:end],
        "first": read.context.start,
        "spans": [[one - start, other - start] for one, other in spans],
        "answers": [answer["text"] for answer in row.get("answers", ())],
    }


def weights(task: QuestionAnswering, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """[B, T] one at the first token of each answer: every row counts the same."""
    return np.asarray(is_answered(targets), np.float32)


# --- measuring


def losses(loss: Loss, task: QuestionAnswering, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[P] at the first token of each answer the mean cross-entropy in nats of its first and its last token."""
    found = np.zeros(len(targets))
    firsts = np.flatnonzero(is_answered(targets))
    lasts = np.flatnonzero((targets == LAST_TOKEN) | (targets == ONE_TOKEN))
    found[firsts] = -0.5 * (outputs[firsts, FIRST].astype(np.float64) + outputs[lasts, LAST].astype(np.float64))
    return found


def score(task: QuestionAnswering, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name, over rows: the answer is the best of all of a row's windows."""
    references, answers = _answered(task, targets, outputs)
    return score_accepted(metrics, references, answers)


def _answered(task: QuestionAnswering, targets: Ragged, outputs: Ragged) -> tuple[list[list[str]], list[str]]:
    """The accepted answers of each row, and the one given."""
    references, answers = [], []
    for numbers in _rows_of(targets.notes):
        found = [_best(task, outputs.row(number), targets.row(number) != IGNORED) for number in numbers]
        notes = [targets.notes[number] for number in numbers]
        references.append(notes[0]["answers"])
        chosen = choose(found, no_answer=may_be_none(task))
        answers.append("" if chosen is None else _text(notes[chosen], found[chosen]))
    return references, answers


def _rows_of(notes: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The numbers of the windows of each row. A text that stands twice, with the same question, is two rows."""
    found: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    seen: Counter[tuple[str, int]] = Counter()
    for number, note in enumerate(notes):
        key = (note["row"], note["window"])
        found[note["row"], seen[key]].append(number)
        seen[key] += 1
    return [*found.values()]


def _best(task: QuestionAnswering, figures: Floats, possible: npt.NDArray[np.bool_]) -> Best:
    """The best part of a window's text, if it has one."""
    most, no_answer = task.max_answer_length, may_be_none(task)
    return best_span(figures, possible, most, no_answer=no_answer, passages_only=True)


def choose(found: Sequence[Best], *, no_answer: bool) -> int | None:
    """Of the best parts of a row's windows the number of the best one; None where that there is none is likelier."""
    scores = [-np.inf if best.is_none else best.score for best in found]
    chosen = int(np.argmax(scores))
    if found[chosen].is_none or (no_answer and min(best.none for best in found) >= scores[chosen]):
        return None
    return chosen


def _text(note: Mapping[str, Any], best: Best) -> str:
    """The characters of an answer."""
    spans, first = note["spans"], note["first"]
    text: str = note["text"][spans[best.start - first][0] : spans[best.end - first][1]]
    return text


def details(
    task: QuestionAnswering, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None
) -> dict[str, Any]:
    """Exact answers and F1 of rows that have an answer, and of those that have none."""
    references, answers = _answered(task, targets, outputs)
    pairs = list(zip(references, answers, strict=True))
    kinds = {"answered": [pair for pair in pairs if pair[0]], "no answer": [pair for pair in pairs if not pair[0]]}
    return {"answers": {kind: _figures(rows) for kind, rows in kinds.items() if rows}}


def _figures(rows: Sequence[tuple[list[str], str]]) -> dict[str, float]:
    there, given = [row[0] for row in rows], [row[1] for row in rows]
    return {**score_accepted((AnswerExact(), AnswerF1()), there, given), "rows": len(rows), "none": given.count("")}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """A line for rows with an answer, and one for those without."""
    kinds: Mapping[str, Mapping[str, float]] = details["answers"]
    lines = ["    " + " " * 10 + "".join(f"{name:>14}" for name in ("answer-exact", "answer-f1", "rows", "no answer"))]
    for kind, figures in kinds.items():
        shares = f"{figures['answer-exact']:>14.4f}{figures['answer-f1']:>14.4f}"
        lines.append(f"    {kind:<10}{shares}{figures['rows']:>14,}{figures['none']:>14,}")
    return lines


def baseline(task: QuestionAnswering, train_targets: Array, count: int) -> tuple[str, Floats] | None:
    """That there is no answer, where that may be; else the first token of the context. All are equally likely."""
    name = "no answer" if may_be_none(task) else "first token"
    return name, np.zeros((count, NUM_SPAN_FIGURES), np.float32)


def learns(task: QuestionAnswering) -> bool:
    """Nothing beside the model's weights."""
    return False


def fit(task: QuestionAnswering, targets: Ragged, outputs: Ragged) -> QuestionAnswering:
    """The task as it is."""
    return task


# --- comparing


def settle(
    task: QuestionAnswering, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float
) -> Scores:
    """The other side's figures, but the source's in rows that are excused, so that near ties move no metric."""
    if source.shape != other.shape or not excused.any():
        return other
    settled = other.copy()
    for start, end in row_ranges(source):
        if excused[start]:
            settled[start:end] = source[start:end]
    return settled


def probe_row(text: str) -> Mapping[str, Any]:
    """A question about the text, and no answer."""
    return {"question": PROBED, "context": text, "answers": []}


# --- answering


def answer(task: QuestionAnswering, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """The answer, its probability, and the characters that it starts at and ends before; "" where there is none."""
    [parts] = windows(task, [row], encoder) if WINDOW not in row else [[dict(row)]]
    found = reads(task, parts, encoder)
    ends = np.cumsum([0, *(len(read.ids) for read in found)])
    figures = [outputs[start:end] for start, end in pairwise(ends.tolist())]
    best = [_best(task, each, read.possible) for each, read in zip(figures, found, strict=True)]
    chosen = choose(best, no_answer=may_be_none(task))
    if chosen is None:
        return {"answer": "", "score": float(np.exp(min(one.none for one in best))), "start": 0, "end": 0}
    start = found[chosen].offsets[best[chosen].start][0]
    end = found[chosen].offsets[best[chosen].end][1]
    return {"answer": row["context"][start:end], "score": float(np.exp(best[chosen].score)), "start": start, "end": end}


def decision(task: QuestionAnswering, outputs: Floats) -> str | None:
    """The tokens of a window that answer it, the first and the last."""
    decided, _ = decider(task)(outputs)
    start, end = tokens_of(int(decided[0]))
    return f"{start}-{end}" if start else "none"


def line(answer: Answer) -> str:
    """The answer and its probability."""
    return f"{printable(answer['answer']) or 'no answer'}  {answer['score']:.4f}"


def bundle_files(task: QuestionAnswering) -> Mapping[str, Any]:
    """None: what outputs mean is in their names."""
    return {}


def from_bundle(task: QuestionAnswering, read: Callable[[str], Any]) -> QuestionAnswering:
    """The task as the manifest has it."""
    return task


def name_faults(task: QuestionAnswering, config: Any) -> tuple[int, tuple[str, ...]]:
    """Whether config.json speaks of such a head too, as readers of the transformers layout ask it."""
    found = config.get("architectures") if isinstance(config, dict) else None
    named = isinstance(found, list) and any(str(name).endswith("ForQuestionAnswering") for name in found)
    return 1, () if named else (f"architectures in config.json is {found}, none for question answering",)
