"""Which rows belong to which split: pure functions of the splits' rules, the seeds and the rows' labels."""

# Shape suffixes: N rows, C classes.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Shares = npt.NDArray[np.floating]
_MASK = 2**64 - 1
_DRAWN_FIRST: tuple[Literal["test", "validation"], ...] = ("test", "validation")


class SplitRule(Protocol):
    """What decides a split's rows; compiler.plan.SplitRows is one."""

    @property
    def split(self) -> Literal["train", "validation", "test"]:
        """The split's name."""

    @property
    def fraction(self) -> float:
        """The share of the train files' rows; 0 for all rows of its own files."""

    @property
    def stratify(self) -> bool:
        """Whether every label keeps its share."""

    @property
    def seed(self) -> int:
        """Decides which rows are drawn."""

    @property
    def rows(self) -> int:
        """At most this many rows; 0 for all."""


def scramble(seed: int, rows: Rows) -> npt.NDArray[np.uint64]:
    """A number for each row number, [N], that looks random and depends on (seed, row) alone.

    The finalizer of splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195), once for each of the two.
    """
    start = np.array([seed & _MASK], dtype=np.uint64)
    return _mix(_mix(start) ^ rows.astype(np.uint64))


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def select(splits: Sequence[SplitRule], labels: Mapping[str, Rows]) -> dict[str, Rows]:
    """The row numbers of each split, ascending.

    `labels`: by split, the label number of every row in the split's files. A split with a fraction has the train
    split's files, and its numbers count their rows; its own entry in `labels` is not read. Test draws its share
    first, then validation, and train has the rest. Last, `rows` limits each.
    """
    train_labels = labels["train"]
    free = np.ones(len(train_labels), dtype=bool)
    rules = {rule.split: rule for rule in splits}
    chosen: dict[str, Rows] = {}
    for name in _DRAWN_FIRST:
        if name in rules and rules[name].fraction > 0:
            chosen[name] = _share(rules[name], train_labels, free)
            free[chosen[name]] = False
    for rule in splits:
        rows = chosen.get(rule.split)
        if rows is None:
            rows = np.flatnonzero(free) if rule.split == "train" else np.arange(len(labels[rule.split]))
        own = train_labels if rule.fraction > 0 else labels[rule.split]
        chosen[rule.split] = _limited(rule, rows.astype(np.int64), own)
    return {rule.split: chosen[rule.split] for rule in splits}


def _share(rule: SplitRule, labels: Rows, free: npt.NDArray[np.bool_]) -> Rows:
    """The free rows that a fraction of all rows takes."""
    total = min(int(np.floor(rule.fraction * len(labels) + 0.5)), int(free.sum()))
    rows = np.flatnonzero(free).astype(np.int64)
    if not rule.stratify:
        return _drawn(rule.seed, rows, total)
    codes = _codes(labels)
    wanted_C = rule.fraction * np.bincount(codes)
    return _drawn_by_class(rule.seed, rows, codes[rows], wanted_C, total, keep=1)


def _limited(rule: SplitRule, rows: Rows, labels: Rows) -> Rows:
    """At most `rule.rows` of the rows."""
    if not 0 < rule.rows < len(rows):
        return rows
    if not rule.stratify:
        return _drawn(rule.seed, rows, rule.rows)
    codes = _codes(labels[rows])
    wanted_C = np.bincount(codes) * (rule.rows / len(rows))
    return _drawn_by_class(rule.seed, rows, codes, wanted_C, rule.rows, keep=0)


def _codes(labels: Rows) -> Rows:
    """The labels numbered by first appearance, so that nothing depends on how the caller numbers them."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes]


def _drawn(seed: int, rows: Rows, count: int) -> Rows:
    """`count` of the rows, ascending."""
    order = np.argsort(scramble(seed, rows), kind="stable")
    return np.sort(rows[order[:count]])


def _drawn_by_class(seed: int, rows: Rows, codes: Rows, wanted_C: Shares, total: int, *, keep: int) -> Rows:
    """`total` of the rows, ascending; of each class about as many as wanted, leaving `keep` of them if that can be."""
    counts_C = np.bincount(codes, minlength=len(wanted_C))
    take_C = apportion(wanted_C, total, np.maximum(counts_C - keep, 0), counts_C)
    drawn = [_drawn(seed, rows[codes == code], int(take)) for code, take in enumerate(take_C) if take]
    return np.sort(np.concatenate(drawn)) if drawn else rows[:0]


def apportion(wanted_C: Shares, total: int, at_most_C: Rows, available_C: Rows) -> Rows:
    """Whole numbers, [C], near `wanted_C` that add up to `total`: largest remainders, and nobody empty where avoidable.

    `at_most_C` is exceeded, up to `available_C`, only when the total can't be reached below it.
    """
    most_C = at_most_C if at_most_C.sum() >= total else available_C
    least_C = np.minimum(1, most_C) if np.minimum(1, most_C).sum() <= total else np.zeros_like(most_C)
    take_C = np.clip(np.floor(wanted_C).astype(np.int64), least_C, most_C)
    while take_C.sum() < total:
        lacking_C = np.where(take_C < most_C, wanted_C - take_C, -np.inf)
        take_C[int(np.argmax(lacking_C))] += 1
    while take_C.sum() > total:
        surplus_C = np.where(take_C > least_C, take_C - wanted_C, -np.inf)
        take_C[int(np.argmax(surplus_C))] -= 1
    return take_C
