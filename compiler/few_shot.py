"""Few-shot prompts: how many solved train rows stand before a prompt, and how long they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.auto import Auto

if TYPE_CHECKING:
    from compiler.facts import SplitFacts

MOST = 3
"""Solved rows that "auto" stands for: they show the form of an answer, and more would cost more than they add."""


def share(room: int | None, max_length: int, count: int) -> int:
    """Tokens that a solved row may have, so that `count` of them and a prompt of that length fit.

    `room`: tokens that a prompt may have; None without a limit. No row is longer than those that are learnt from.
    """
    return max_length if room is None else min(max_length, room // (count + 1))


def num_fitting(train: SplitFacts, tokens: int) -> int:
    """How many train rows have at most so many tokens; all of them where tokens were not counted."""
    return train.rows.num_rows if train.lengths is None else sum(train.lengths[: tokens + 1])


def auto_few_shot(train: SplitFacts, room: int | None, max_length: int) -> Auto[int]:
    """What a few_shot of "auto" stands for: MOST, or as many as half of the train rows are short enough for."""
    total = train.rows.num_rows if train.lengths is None else sum(train.lengths)
    for count in range(min(MOST, total), 0, -1):
        most = share(room, max_length, count)
        fitting = num_fitting(train, most)
        if 2 * fitting >= total:
            fit = f"{count} and a prompt fit, where none has more than {most:,} tokens"
            return Auto(count, f"{fit}: so have {fitting:,} of {total:,} train rows")
    most = share(room, max_length, 1)
    return Auto(0, f"one and a prompt fit, where neither has more than {most:,} tokens: most train rows have more")
