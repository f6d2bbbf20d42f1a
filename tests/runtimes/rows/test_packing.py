"""Packed rows: each keeps its tokens, targets and positions, and on every engine the loss that it has alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.methods import Full
from compiler.tasks import ContinuedPretraining, Example
from runtimes import tasks
from runtimes.rows.batches import collate
from runtimes.rows.feature_writer import write_features
from runtimes.rows.features import IGNORED, TARGETS, Features
from runtimes.rows.packing import POSITIONS, SEGMENTS, write_packed
from runtimes.rows.tokens import open_encoder
from tests.runtimes.tiny import placed, train_step
from tests.tiny import rows, save_causal_tokenizer, save_decoder

TASK = ContinuedPretraining(end="[SEP]")
CAPACITY = 24


def texts(folder: Path, count: int = 12) -> Features:
    """Unpacked rows of some texts."""
    module = tasks.module_of(TASK)
    encoder = open_encoder(folder / "tokenizer.json", max_length=CAPACITY)
    examples = [Example(row={"text": row["snippet"]}) for row in rows(count)]
    portion = module.encode(TASK, examples, encoder)
    write_features([portion], module.columns(TASK, 0), folder / "rows", max_length=CAPACITY, pad_token_id=0)
    return Features(folder / "rows")


@pytest.mark.parametrize("packing", ["fill", "whole"])
def test_a_sequence_is_its_rows_one_after_another_with_positions_that_restart(tmp_path: Path, packing) -> None:
    save_causal_tokenizer(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    plain = texts(tmp_path)
    write_packed(plain, packing, CAPACITY, tmp_path / "packed")
    packed = Features(tmp_path / "packed")
    assert len(packed) < len(plain)
    assert packed.facts.num_tokens == plain.facts.num_tokens
    assert packed.lengths.max() <= CAPACITY
    pieces = []
    for number in range(len(packed)):
        row = packed.row(number)
        for segment in range(1, row[SEGMENTS].max() + 1):
            inside = row[SEGMENTS] == segment
            assert row[POSITIONS][inside].tolist() == list(range(inside.sum()))
            pieces.append((row["input_ids"][inside].tolist(), row[TARGETS][inside].tolist()))
    whole = [(plain.row(row)["input_ids"].tolist(), plain.row(row)[TARGETS].tolist()) for row in range(len(plain))]
    if packing == "whole":
        assert sorted(pieces) == sorted(whole)
    assert sorted(flat(ids for ids, _ in pieces)) == sorted(flat(ids for ids, _ in whole))
    assert sorted(flat(targets for _, targets in pieces)) == sorted(flat(targets for _, targets in whole))


def flat(lists: Iterable[list[int]]) -> list[int]:
    return [item for part in lists for item in part]


@pytest.mark.parametrize("runtime", ["pytorch", "mlx"])
def test_packed_and_unpacked_rows_have_the_same_loss_and_gradient(tmp_path: Path, runtime) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    from runtimes.backends import backend

    model = tmp_path / "model"
    save_decoder(model)
    (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    plain = texts(tmp_path)
    write_packed(plain, "whole", CAPACITY, tmp_path / "packed")
    packed = Features(tmp_path / "packed")
    found = []
    for features, packing in ((plain, "none"), (packed, "whole")):
        step = train_step(task=TASK, method=Full(), packing=packing, keep_head=True, metrics=())
        engine = backend(runtime).load_engine(step, model, tmp_path / "init.safetensors", placed(runtime))
        batch = collate(features, np.arange(len(features)), grid=(CAPACITY,))
        total = float((batch.targets != IGNORED).sum())
        result = engine.train_step([batch], denominators={"loss": total}, learning_rates=(0.1,), seed=0).result()
        after = engine.evaluate(collate(plain, np.arange(len(plain)), grid=(CAPACITY,))).losses
        found.append((result.losses["loss"], result.grad_norm, after))
    (loss, norm, after), (packed_loss, packed_norm, packed_after) = found
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert packed_norm == pytest.approx(norm, rel=1e-5)
    np.testing.assert_allclose(packed_after, after, rtol=1e-4, atol=1e-5)


def test_rows_in_one_sequence_that_saw_each_other_would_have_another_loss(tmp_path: Path) -> None:
    """The test above can fail: without the segments, positions alone don't keep rows apart."""
    pytest.importorskip("torch", reason="needs the torch extra")
    from runtimes.backends import backend

    model = tmp_path / "model"
    save_decoder(model)
    (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    write_packed(texts(tmp_path), "whole", CAPACITY, tmp_path / "packed")
    packed = Features(tmp_path / "packed")
    step = train_step(task=TASK, method=Full(), packing="whole", keep_head=True, metrics=())
    engine = backend("pytorch").load_engine(step, model, tmp_path / "init.safetensors", placed())
    batch = collate(packed, np.arange(len(packed)), grid=(CAPACITY,))
    seen = {name: values for name, values in batch.inputs.items() if name != SEGMENTS}
    apart, together = engine.evaluate(batch).losses, engine.evaluate(replace(batch, inputs=seen)).losses
    assert np.abs(apart - together).max() > 1e-2
