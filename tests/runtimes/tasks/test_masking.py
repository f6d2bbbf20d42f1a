"""Hidden tokens: how many, which, and what stands in their place; the same ones wherever that is asked for."""

# B = rows, T = tokens of a row

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.tasks import ContinuedPretraining, Example
from compiler.tasks.masking import Masking
from runtimes.protocol import Batch
from runtimes.rows.batches import collate
from runtimes.rows.features import IGNORED, TARGETS, Portion, Table, table_of
from runtimes.rows.tokens import open_encoder
from runtimes.tasks import continued_pretraining as module
from runtimes.tasks import masking
from tests.runtimes.tiny import WORDS, tokenizer_file

VOCABULARY, MASK, FIRST = 500, 4, 5
MASKING = Masking(mask_id=MASK, special_ids=(0, 1, 2, 3, MASK), vocab_size=VOCABULARY)
TASK = ContinuedPretraining(objective="masked", end="", masking=MASKING)
COUNT = 400


def table(lengths: Sequence[int]) -> Table:
    """Rows of other tokens between two special ones, of which nothing is hidden yet."""
    random = np.random.default_rng(0)
    ids = [np.array([2, *random.integers(FIRST, VOCABULARY, length), 3], np.int32) for length in lengths]
    zeros = [np.zeros(len(row), np.int8) for row in ids]
    none = [np.full(len(row), IGNORED, np.int32) for row in ids]
    columns: dict[str, list[Any]] = {"input_ids": ids, "token_type_ids": zeros, TARGETS: none}
    return table_of([Portion(ragged=columns, fixed={}, truncated=0)], module.columns(TASK, 0))


@pytest.fixture(scope="module")
def rows() -> Table:
    return table([1 + number % 120 for number in range(COUNT)])


def hidden(rows: Table, places: Sequence[int] = (), *, seed: int = 0, epoch: int = 0, fill_to: int = 0) -> Batch:
    """The rows at these places, or all of them, as they are learnt."""
    numbers = np.array(places) if places else np.arange(len(rows))
    return collate(rows, numbers, vary=partial(module.vary, TASK, seed=seed, epoch=epoch), fill_to=fill_to)


def whole(rows: Table) -> Batch:
    return collate(rows, np.arange(len(rows)))


def test_a_share_of_each_row_is_hidden_and_one_token_at_least(rows: Table) -> None:
    found = (hidden(rows).targets != IGNORED).sum(axis=1)
    possible = rows.lengths - 2
    assert found.tolist() == np.maximum(1, np.rint(0.15 * possible)).tolist()
    assert abs(found.sum() / possible.sum() - 0.15) < 0.005


def test_of_ten_hidden_tokens_eight_are_the_mask_one_is_random_and_one_stays(rows: Table) -> None:
    batches = [hidden(rows, epoch=epoch) for epoch in range(6)]
    seen, true = (
        np.concatenate([values[batch.targets != IGNORED] for batch, values in each])
        for each in (
            [(batch, batch.inputs["input_ids"]) for batch in batches],
            [(batch, batch.targets) for batch in batches],
        )
    )
    assert len(true) > 20_000
    other = VOCABULARY - FIRST  # a random token is the true one once in so many
    shares = {
        0.8: seen == MASK,
        0.1 * (1 - 1 / other): (seen != MASK) & (seen != true),
        0.1 + 0.1 / other: seen == true,
    }
    for share, found in shares.items():
        assert abs(found.mean() - share) < 5 * sqrt(share * (1 - share) / len(true))  # five standard errors
    assert seen.min() == MASK, "no other special token is drawn"
    assert seen.max() < VOCABULARY


def test_what_is_hidden_is_asked_for_and_the_rest_is_as_it_was(rows: Table) -> None:
    batch, before = hidden(rows), whole(rows)
    asked = batch.targets != IGNORED
    assert np.array_equal(np.where(asked, batch.targets, batch.inputs["input_ids"]), before.inputs["input_ids"])
    assert np.array_equal(batch.weights > 0, asked)


def test_special_tokens_and_padding_are_never_hidden(rows: Table) -> None:
    ordinary = whole(rows).inputs["input_ids"] >= FIRST
    for epoch in range(5):
        assert not (hidden(rows, epoch=epoch).targets[~ordinary] != IGNORED).any()


def test_every_place_is_hidden_as_often_as_another() -> None:
    long = table([40] * 200)
    times = sum((hidden(long, epoch=epoch).targets != IGNORED).sum(axis=0) for epoch in range(20))[1:-1]
    expected = 4000 * 6 / 40  # 4,000 rows, six of forty tokens of each
    assert np.abs(times - expected).max() < 5 * sqrt(expected)


def test_a_row_of_special_tokens_alone_hides_nothing() -> None:
    assert (hidden(table([0, 3])).targets != IGNORED).sum(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("fill_to", [0, 8])
def test_a_row_hides_the_same_in_any_batch(rows: Table, fill_to: int) -> None:
    """Padded to another length, in another order, in portions: accumulated steps and resumed runs see one thing."""
    places = [40, 7, 119, 0]
    large, small = hidden(rows), hidden(rows, places, fill_to=fill_to)
    for number, place in enumerate(places):
        length = rows.lengths[place]
        for one, other in ((large.targets, small.targets), (large.inputs["input_ids"], small.inputs["input_ids"])):
            assert np.array_equal(one[place, :length], other[number, :length])


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_another_epoch_or_seed_hides_others(rows: Table, seed: int, epoch: int) -> None:
    long = np.flatnonzero(rows.lengths > 40)
    one, other = (batch.targets[long] for batch in (hidden(rows), hidden(rows, seed=seed, epoch=epoch)))
    assert (one != other).any(axis=1).all()


# --- where nothing is learnt


def encoded(texts: Sequence[str], folder: Path, task: ContinuedPretraining) -> Portion:
    encoder = open_encoder(tokenizer_file(folder), max_length=30)
    return module.encode(task, [Example(row={"text": text}) for text in texts], encoder)


@pytest.fixture
def masked() -> ContinuedPretraining:
    found = Masking(probability=0.3, mask_id=1, special_ids=(0, 1, 2, 3), vocab_size=len(WORDS))
    return ContinuedPretraining(objective="masked", end="", masking=found)


TEXTS = tuple(" ".join(f"w{(7 * word + 3 * number) % 60}" for word in range(3 + number)) for number in range(20))


def test_a_text_always_hides_the_same_whatever_stands_around_it(tmp_path: Path, masked: ContinuedPretraining) -> None:
    first = encoded(TEXTS, tmp_path, masked)
    again = encoded(TEXTS[::-1], tmp_path, masked)
    for name in ("input_ids", TARGETS):
        assert all(
            np.array_equal(one, other) for one, other in zip(first.ragged[name], again.ragged[name][::-1], strict=True)
        )
    assert all((targets != IGNORED).any() for targets in first.ragged[TARGETS])


def test_what_is_stored_does_not_matter_to_what_is_learnt(tmp_path: Path, masked: ContinuedPretraining) -> None:
    """Train rows are stored as they would be measured; hidden anew, they are what they are of the bare text."""
    assert masked.masking is not None
    portion = encoded(TEXTS, tmp_path, masked)
    stored = table_of([portion], module.columns(masked, 0))
    true = [
        np.where(targets != IGNORED, targets, ids)
        for ids, targets in zip(portion.ragged["input_ids"], portion.ragged[TARGETS], strict=True)
    ]
    none = [np.full(len(ids), IGNORED, np.int32) for ids in true]
    columns = {**portion.ragged, "input_ids": true, TARGETS: none}
    bare = table_of([Portion(ragged=columns, fixed={}, truncated=0)], module.columns(masked, 0))
    one, other = (
        collate(each, np.arange(len(TEXTS)), vary=partial(module.vary, masked, seed=3, epoch=2))
        for each in (stored, bare)
    )
    assert np.array_equal(one.inputs["input_ids"], other.inputs["input_ids"])
    assert np.array_equal(one.targets, other.targets)
    assert not np.array_equal(one.targets, collate(stored, np.arange(len(TEXTS))).targets)


def test_nothing_is_hidden_from_a_decoder(rows: Table) -> None:
    batch = whole(rows)
    assert module.vary(ContinuedPretraining(objective="causal"), batch, seed=0, epoch=0) is batch


def test_the_answer_is_of_the_hidden_tokens(tmp_path: Path, masked: ContinuedPretraining) -> None:
    encoder = open_encoder(tokenizer_file(tmp_path), max_length=30)
    row = {"text": TEXTS[-1]}
    [targets] = module.encode(masked, [Example(row=row)], encoder).ragged[TARGETS]
    outputs = np.zeros((len(targets), masking.HEAD.num_outputs), np.float32)
    outputs[:, 0] = np.where(targets != IGNORED, -2.0, -100.0)
    found = module.answer(masked, row, outputs, encoder)
    count = int((targets != IGNORED).sum())
    assert found == {"tokens": count, "log_probability": -2.0 * count, "perplexity": pytest.approx(np.e**2)}
