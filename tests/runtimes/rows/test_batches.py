from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.balance import rows_of_epoch
from runtimes.rows import batches
from runtimes.rows.batches import collate, epoch_batches, epoch_rows, evaluation_batches, micro_batches, padded_lengths
from runtimes.rows.feature_writer import write_features
from runtimes.rows.features import Column, Features, Portion
from tests.runtimes.tiny import features, train_step, weigh

GRID = (4, 8, 12, 16)
LENGTHS = st.lists(st.integers(1, 16), min_size=1, max_size=200).map(lambda values: np.asarray(values, np.int64))


@given(LENGTHS, st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_an_epoch_has_every_row_once_in_full_batches_but_one(lengths, batch_size, seed, epoch) -> None:
    found = epoch_batches(padded_lengths(lengths, GRID), batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    sizes = sorted(len(rows) for rows in found)
    assert len(found) == batches.num_batches(len(lengths), batch_size)
    assert set(sizes[1:]) <= {batch_size}
    assert 0 < sizes[0] <= batch_size


@given(LENGTHS, st.integers(1, 40))
def test_rows_of_a_batch_are_next_to_each_other_in_length(lengths, batch_size) -> None:
    padded = padded_lengths(lengths, GRID)
    found = epoch_batches(padded, batch_size=batch_size, seed=0, epoch=0)
    ranges = sorted((padded[rows].min(), padded[rows].max()) for rows in found)
    assert all(first[1] <= second[0] for first, second in pairwise(ranges))


CLASSES = st.lists(st.sampled_from([0, 1, 2, 5]), min_size=1, max_size=80).map(
    lambda values: np.asarray(values, np.int64)
)


@given(CLASSES, st.sampled_from(["oversample", "undersample"]), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_a_balanced_epoch_has_as_many_rows_of_each_class_and_uses_them_evenly(classes, draw, seed, epoch) -> None:
    found = epoch_rows(classes, draw=draw, seed=seed, epoch=epoch)
    counts = np.bincount(classes)
    assert len(found) == rows_of_epoch(draw, counts.tolist())
    _, each = np.unique(classes[found], return_counts=True)
    assert set(each.tolist()) == {(max if draw == "oversample" else min)(counts[counts > 0].tolist())}
    for label in np.unique(classes):
        times = np.bincount(found, minlength=len(classes))[classes == label]
        assert times.max() - times.min() <= 1


def test_a_balanced_epoch_is_drawn_anew_each_time_and_without_balance_it_has_every_row() -> None:
    classes = np.asarray([0] * 40 + [1] * 6)
    first, second, again = (
        epoch_rows(classes, draw="undersample", seed=3, epoch=epoch).tolist() for epoch in (0, 1, 0)
    )
    assert first == again != second
    assert epoch_rows(classes, draw="every", seed=3, epoch=0).tolist() == list(range(46))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    lengths = np.full(100, 8)

    def flat(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(np.concatenate(epoch_batches(lengths, batch_size=8, seed=seed, epoch=epoch)).tolist())

    assert flat(0, 0) == flat(0, 0)
    assert len({flat(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_the_order_is_the_same_with_every_version_of_numpy() -> None:
    found = epoch_batches(np.asarray([4, 8, 4, 8, 4, 8, 4]), batch_size=2, seed=1, epoch=2)
    assert [rows.tolist() for rows in found] == [[5, 3], [2, 0], [6, 4], [1]]


def test_the_short_batch_is_not_always_the_longest_rows() -> None:
    lengths = np.repeat([4, 8, 12, 16], 10)
    short = [min(epoch_batches(lengths, batch_size=7, seed=0, epoch=epoch), key=len)[0] // 10 for epoch in range(30)]
    assert len(set(short)) > 2


def test_long_epochs_are_grouped_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW", 16)
    lengths = np.arange(1, 101)
    found = epoch_batches(lengths, batch_size=5, seed=0, epoch=0)
    assert sorted(np.concatenate(found).tolist()) == list(range(100))
    assert {len(rows) for rows in found} == {5}


@given(LENGTHS, st.integers(1, 40))
def test_micro_batches_share_out_the_rows_longest_first(lengths, size) -> None:
    rows = np.arange(len(lengths))
    parts = micro_batches(rows, lengths, size)
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    assert all(len(part) == size for part in parts[:-1])
    assert np.all(np.diff(lengths[np.concatenate(parts)]) <= 0)


def test_evaluation_covers_every_row_once() -> None:
    parts = evaluation_batches(np.asarray([3, 9, 1, 9, 5]), 2)
    assert [part.tolist() for part in parts] == [[1, 3], [4, 0], [2]]


@given(LENGTHS)
def test_padding_takes_the_smallest_length_of_the_grid(lengths) -> None:
    expected = [min(step for step in GRID if step >= length) for length in lengths.tolist()]
    assert padded_lengths(lengths, GRID).tolist() == expected


def test_a_row_beyond_the_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="17 tokens is longer than the longest batch, 16"):
        padded_lengths(np.asarray([17]), GRID)


def test_a_batch_holds_its_rows_tokens_labels_and_weights(tmp_path: Path) -> None:
    found = features(tmp_path, 20)
    rows = np.asarray([3, 1, 7])
    step = train_step(class_weights=(1.0, 2.0, 0.5))
    batch = collate(found, rows, grid=GRID, weigh=weigh(step))
    longest = int(found.lengths[rows].max())
    assert batch.inputs["input_ids"].shape == (3, min(step for step in GRID if step >= longest))
    for place, row in enumerate(rows.tolist()):
        tokens = found.row(row)["input_ids"].tolist()
        assert batch.inputs["input_ids"][place].tolist()[: len(tokens)] == tokens
        assert not batch.inputs["input_ids"][place, len(tokens) :].any()
        assert batch.inputs["attention_mask"][place].sum() == len(tokens)
        assert batch.weights[place] == (1.0, 2.0, 0.5)[int(found.row(row)["targets"])]
    assert batch.targets.tolist() == found.targets.values[rows].tolist()
    assert batch.inputs["attention_mask"].sum() == found.lengths[rows].sum()


def test_fractions_stay_fractions(tmp_path: Path) -> None:
    columns = (
        Column(name="values", dtype="float32", axis="tokens", padding=-1),
        Column(name="targets", dtype="int64"),
    )
    rows = [np.asarray([0.5, 1.5], np.float32), np.asarray([2.25], np.float32)]
    portion = Portion(ragged={"values": rows}, fixed={"targets": np.asarray([1, 0])}, truncated=0)
    write_features([portion], columns, tmp_path, max_length=4, pad_token_id=0)
    batch = collate(Features(tmp_path), np.asarray([0, 1]), grid=(4,))
    assert batch.inputs["values"].tolist() == [[0.5, 1.5, -1.0, -1.0], [2.25, -1.0, -1.0, -1.0]]


def test_filling_rows_weigh_nothing_and_are_marked(tmp_path: Path) -> None:
    batch = collate(features(tmp_path, 20), np.asarray([3, 1]), grid=GRID, fill_to=4)
    assert batch.rows.tolist() == [3, 1, -1, -1]
    assert batch.weights.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert batch.inputs["input_ids"].shape[0] == batch.targets.shape[0] == 4
