"""The gate on texts: the source writes greedily, and what was exported is forced along its tokens through its cache."""

# P = tokens of all answers

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtimes.generation.answers import Writing, Written, said_of_cuts
from runtimes.generation.decoding import Decoder, forced
from runtimes.rows.inputs import Row
from runtimes.verification.gate import Check, Decisions, compare_outputs

NUM_PROMPTS = 50
MAX_EXCUSED = 0.1
"""Share of the tokens that may be near ties: written texts have more of them than labels."""
OUTPUTS, DECISIONS = "written_outputs", "written_tokens"


def write_source(writing: Writing, source: Decoder[Any], rows: Sequence[Row], numbers: Sequence[int]) -> list[Written]:
    """What the source writes for some rows. `numbers`: of the rows in the split."""
    prompts = writing.prompts(rows, source)
    answers = writing.decoded(source, [prompt.ids for prompt in prompts])
    return [
        Written(
            row=int(number),
            prompt=prompt.ids,
            ids=found.ids,
            log_probs=tuple(float(value) for value in found.log_probs),
            margins=tuple(float(value) for value in found.margins),
            text=writing.text(found),
            prompt_cut=prompt.cut,
            cut=found.ended == "length",
        )
        for number, prompt, found in zip(numbers, prompts, answers, strict=True)
    ]


def compare_written(written: Sequence[Written], other: Decoder[Any], pad_id: int, tolerance: float) -> Iterator[Check]:
    """Whether another decoder gives each token the same log-probability, and would have chosen it.

    A token that it would not have chosen is excused where the source was nearer than the tolerance to another one.
    """
    found = forced(other, [row.prompt for row in written], [row.ids for row in written], pad_id=pad_id)
    rows_P = np.repeat([row.row for row in written], [len(row.ids) for row in written])
    expected_P1 = np.concatenate([np.empty(0), *(row.log_probs for row in written)])[:, None]
    found_P1 = np.concatenate([np.empty(0), *(reading.log_probs for reading in found)])[:, None]
    yield compare_outputs(expected_P1, found_P1, tolerance, name=OUTPUTS, rows=rows_P)
    chosen_P = np.concatenate([np.empty(0, np.int64), *(np.asarray(row.ids, np.int64) for row in written)])
    best_P = np.concatenate([np.empty(0, np.int64), *(reading.best for reading in found)])
    margins_P = np.concatenate([np.empty(0), *(row.margins for row in written)])
    differ_P, tied_P = chosen_P != best_P, margins_P < tolerance
    excused_P, wrong_P = differ_P & tied_P, differ_P & ~tied_P
    yield Decisions(
        name=DECISIONS,
        passed=bool(len(chosen_P) and not wrong_P.any() and excused_P.mean() <= MAX_EXCUSED),
        rows=len(written),
        positions=len(chosen_P),
        agreeing=int((~differ_P).sum()),
        num_excused=int(excused_P.sum()),
        excused=tuple(np.unique(rows_P[excused_P]).tolist()),
        disagreeing=tuple(np.unique(rows_P[wrong_P]).tolist()),
        tolerance=tolerance,
        max_excused=MAX_EXCUSED,
        note=said_of_cuts([row.prompt_cut for row in written if row.prompt_cut], len(written)),
    )
