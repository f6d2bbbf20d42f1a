"""Few-shot prompts: solved train rows before a question, for the model as it was before tuning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from compiler.data.splits import scramble
from compiler.few_shot import share
from compiler.generation import Generation
from compiler.tasks import texts_of
from runtimes import tasks
from runtimes.generation.answers import Row, Writing
from runtimes.generation.decoding import Decoder
from runtimes.generation.shared_prefix import SharedPrefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Solved train rows in the order in which they stand before a prompt."""

    rows: tuple[Row, ...]
    numbers: tuple[int, ...]  # of the rows in the train split
    passed_over: int  # rows that were drawn too, and are too long or no question with an answer


def draw_examples(writing: Writing, path: Path, count: int, most: int) -> Examples:
    """`count` train rows of at most `most` tokens, or as many as there are, drawn by the seed from a file of rows."""
    module = tasks.example_module_of(writing.task)
    found: dict[int, Row] = {}
    passed_over = 0
    for number, row in _drawn(path, writing.generation.seed):
        if module.is_solved(writing.task, row) and _num_tokens(writing, row) <= most:
            found[number] = row
        else:
            passed_over += 1
        if len(found) == count:
            break
    return Examples(rows=tuple(found.values()), numbers=tuple(found), passed_over=passed_over)


def _drawn(path: Path, seed: int) -> Iterator[tuple[int, Row]]:
    """The rows of a file, each with its number, in an order that only the seed and the numbers decide."""
    with path.open("rb") as file:
        ends = list(accumulate(len(line) for line in file))
        starts = [0, *ends[:-1]] if ends else []
        for number in np.argsort(scramble(seed, np.arange(len(starts))), kind="stable").tolist():
            file.seek(starts[number])
            yield number, json.loads(file.readline())


def _num_tokens(writing: Writing, row: Row) -> int:
    """Tokens of a row that asks and answers, whole."""
    texts = texts_of(writing.task, row)
    return sum(len(writing.encoder.whole.encode(text, add_special_tokens=False).ids) for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShot:
    """What was written after solved rows, and how many of them stood before each prompt."""

    texts: tuple[str, ...]  # none where no prompt could have a solved row
    counts: tuple[int, ...]
    examples: Examples

    def as_json(self, generation: Generation) -> Mapping[str, Any]:
        """What is told of them: which rows they are, and before how many prompts there was room for how many."""
        shown = zip(self.examples.numbers, self.examples.rows, strict=True)
        return {
            "wanted": generation.few_shot,
            "examples": [{"number": number, "row": row} for number, row in shown],
            "passed_over": self.examples.passed_over,
            "prompts": {str(count): num for count, num in sorted(Counter(self.counts).items(), reverse=True)},
        }


def written_after_examples(
    writing: Writing,
    decoder: Decoder[Any],
    rows: Sequence[Row],
    numbers: Sequence[int],
    train_rows: Path,
    *,
    shared: bool = False,
) -> FewShot:
    """The answer to each row after solved rows of a file. `numbers`: of the rows, by which what is drawn is seeded.

    `shared`: what prompts begin with is read once for a batch, by a decoder that can (see SharedPrefix).
    """
    count = writing.generation.few_shot
    assert count != "auto", "resolved"
    room = writing.generation.room(decoder.max_positions)
    examples = draw_examples(writing, train_rows, count, share(room, writing.encoder.max_length, count))
    prompted = [_prompt(writing, decoder, row, examples.rows, room) for row in rows]
    counts = tuple(shown for _, shown in prompted)
    reader = SharedPrefix(decoder) if shared else decoder
    answers = writing.decoded(reader, [prompt for prompt, _ in prompted], numbers) if any(counts) else []
    return FewShot(texts=tuple(writing.text(answer) for answer in answers), counts=counts, examples=examples)


def _prompt(
    writing: Writing, decoder: Decoder[Any], row: Row, examples: Sequence[Row], room: int | None
) -> tuple[tuple[int, ...], int]:
    """The prompt of a row after as many of the examples as there is room for, and how many those are."""
    module = tasks.example_module_of(writing.task)
    for count in range(len(examples), 0, -1):
        ids = module.prompt_after(writing.task, row, examples[:count], writing.encoder)
        if ids is not None and (room is None or len(ids) <= room):
            return ids, count
    [alone] = writing.prompts([row], decoder)
    return alone.ids, 0
