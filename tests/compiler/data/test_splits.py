"""Splits are disjoint, complete, deterministic, and as large as their rules say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compiler.data.splits import Rows, apportion, scramble, select


@dataclass(frozen=True)
class Rule:
    split: Literal["train", "validation", "test"]
    fraction: float = 0.0
    stratify: bool = False
    seed: int = 0
    rows: int = 0


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(lambda values: np.array(values, dtype=np.int64))
FRACTIONS = st.floats(0.01, 0.45)
SEEDS = st.integers(0, 2**70)


def three(fractions: tuple[float, float], *, stratify: bool, seed: int) -> list[Rule]:
    validation, test = fractions
    return [Rule("train"), Rule("validation", validation, stratify, seed), Rule("test", test, stratify, seed)]


def rounded(share: float) -> int:
    return int(np.floor(share + 0.5))


def counts(labels: Rows, rows: Rows) -> Rows:
    return np.bincount(labels[rows], minlength=5)


def test_the_numbers_of_a_seed_never_change():
    found = scramble(0, np.arange(3, dtype=np.int64))
    assert [int(number) for number in found] == [0xA706DD2F4D197E6F, 0x08B4FDA8C892B50E, 0xD7CC9674FF5FFA39]


@given(SEEDS, st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_scramble_follows_the_formula(seed, rows):
    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    found = scramble(seed, np.array(rows, dtype=np.int64))
    assert [int(number) for number in found] == [mix(mix(seed % 2**64) ^ row) for row in rows]


@given(LABELS, st.tuples(FRACTIONS, FRACTIONS), st.booleans(), SEEDS)
def test_splits_are_disjoint_complete_and_ascending(labels, fractions, stratify, seed):
    chosen = select(three(fractions, stratify=stratify, seed=seed), {"train": labels})
    together = np.concatenate(list(chosen.values()))
    assert np.array_equal(np.sort(together), np.arange(len(labels)))
    assert all(np.array_equal(rows, np.sort(rows)) and rows.dtype == np.int64 for rows in chosen.values())


@given(LABELS, st.tuples(FRACTIONS, FRACTIONS), st.booleans(), SEEDS)
def test_a_fraction_takes_its_share_of_all_rows(labels, fractions, stratify, seed):
    chosen = select(three(fractions, stratify=stratify, seed=seed), {"train": labels})
    validation, test = (rounded(fraction * len(labels)) for fraction in fractions)
    assert len(chosen["test"]) == test
    assert len(chosen["validation"]) == min(validation, len(labels) - test)


@given(st.lists(st.integers(10, 60), min_size=1, max_size=5), st.floats(0.1, 0.45), SEEDS)
def test_a_stratified_share_of_each_label_is_within_one_row(sizes, fraction, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rule = Rule("test", fraction, stratify=True, seed=seed)
    found = counts(labels, select([Rule("train"), rule], {"train": labels})["test"])
    wanted = fraction * np.bincount(labels, minlength=5)
    assert np.all(np.abs(found - wanted) < 1 + 1e-9)


@given(LABELS, FRACTIONS, SEEDS)
def test_no_label_is_left_out_where_that_can_be(labels, fraction, seed):
    rules = [Rule("train"), Rule("test", fraction, stratify=True, seed=seed)]
    chosen = select(rules, {"train": labels})
    there = np.bincount(labels, minlength=5)
    shared = there >= 2
    assume(rounded(fraction * len(labels)) >= shared.sum())
    assume(rounded(fraction * len(labels)) <= np.maximum(there - 1, 0).sum())
    assert np.all(counts(labels, chosen["test"])[shared] >= 1)
    assert np.all(counts(labels, chosen["train"])[there >= 1] >= 1)


@given(LABELS, st.tuples(FRACTIONS, FRACTIONS), SEEDS, st.permutations(range(5)))
def test_the_choice_does_not_depend_on_how_labels_are_numbered(labels, fractions, seed, numbers):
    rules = three(fractions, stratify=True, seed=seed)
    once = select(rules, {"train": labels})
    again = select(rules, {"train": np.array(numbers, dtype=np.int64)[labels]})
    assert all(np.array_equal(once[name], again[name]) for name in once)


@given(LABELS, st.integers(1, 250), st.booleans(), SEEDS)
def test_rows_limits_a_split_after_the_others_took_theirs(labels, limit, stratify, seed):
    rules = [Rule("train", rows=limit, stratify=stratify, seed=seed), Rule("test", 0.2, stratify=True)]
    unlimited = select([Rule("train"), rules[1]], {"train": labels})
    limited = select(rules, {"train": labels})
    assert np.array_equal(limited["test"], unlimited["test"])
    assert len(limited["train"]) == min(limit, len(unlimited["train"]))
    assert set(limited["train"]) <= set(unlimited["train"])


def test_a_split_with_files_of_its_own_has_all_their_rows():
    labels = {"train": np.zeros(10, dtype=np.int64), "test": np.zeros(4, dtype=np.int64)}
    chosen = select([Rule("train"), Rule("validation", 0.2), Rule("test")], labels)
    assert chosen["test"].tolist() == [0, 1, 2, 3]
    assert (len(chosen["train"]), len(chosen["validation"])) == (8, 2)


def test_another_seed_draws_other_rows_and_the_same_seed_the_same():
    labels = np.zeros(1000, dtype=np.int64)
    drawn = [select([Rule("train"), Rule("test", 0.1, seed=seed)], {"train": labels})["test"] for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert 0 < len(np.intersect1d(drawn[0], drawn[2])) < 30  # 10 are expected by chance


def test_no_rows_give_empty_splits():
    chosen = select([Rule("train"), Rule("test", 0.5, stratify=True)], {"train": np.zeros(0, dtype=np.int64)})
    assert [len(rows) for rows in chosen.values()] == [0, 0]


@pytest.mark.parametrize(
    ("wanted", "total", "at_most", "found"),
    [
        ([5.0, 4.6, 0.4], 10, [9, 9, 9], [5, 4, 1]),  # the rare class gets a row
        ([0.5, 0.5], 1, [9, 9], [1, 0]),  # ties go to the first
        ([9.9, 0.1], 10, [8, 0], [10, 0]),  # at_most gives way to the total
        ([0.2, 0.2, 0.2], 1, [1, 1, 1], [1, 0, 0]),
    ],
)
def test_shares_are_apportioned_by_largest_remainder(wanted, total, at_most, found):
    available = np.array(at_most) + np.array([2, 0, 0][: len(at_most)])
    assert apportion(np.array(wanted), total, np.array(at_most), available).tolist() == found
