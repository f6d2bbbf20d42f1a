"""Pairs of texts become what an encoder reads, what a decoder reads, and what it is to write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.tasks import Example, Translation
from runtimes import tasks
from runtimes.rows.batches import collate
from runtimes.rows.feature_writer import write_features
from runtimes.rows.features import IGNORED, TARGETS, Features
from runtimes.rows.tokens import Encoder, open_encoder
from tests.runtimes.tiny import WORDS, tokenizer_file

START, END = WORDS.index("[CLS]"), WORDS.index("[SEP]")
TASK = Translation(start_id=START, end_id=END, max_target_length=5)
MODULE = tasks.writing_module_of(TASK)


def pair(source: str, target: str) -> Example:
    return Example(row={"source": source, "target": target})


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return open_encoder(tokenizer_file(tmp_path), max_length=6)


def test_the_decoder_reads_its_start_and_what_it_should_have_written(encoder: Encoder) -> None:
    portion = MODULE.encode(TASK, [pair("w1 w2", "w3 w4 w5")], encoder)
    assert portion.ragged["input_ids"][0].tolist() == ids("[CLS]", "w1", "w2", "[SEP]")
    assert portion.ragged["decoder_input_ids"][0].tolist() == ids("[CLS]", "w3", "w4", "w5")
    assert portion.ragged[TARGETS][0].tolist() == ids("w3", "w4", "w5", "[SEP]")
    assert (portion.truncated, portion.truncated_labels) == (0, 0)


def test_both_sides_are_cut_and_counted_and_a_cut_target_has_no_end(encoder: Encoder) -> None:
    examples = [pair("w1 w2 w3 w4 w5", "w3"), pair("w1", "w1 w2 w3 w4 w5"), pair("w1", "w1 w2 w3 w4")]
    portion = MODULE.encode(TASK, examples, encoder)
    assert [len(row) for row in portion.ragged["input_ids"]] == [6, 3, 3]
    assert portion.ragged[TARGETS][1].tolist() == ids("w1", "w2", "w3", "w4", "w5")
    assert portion.ragged[TARGETS][2].tolist() == ids("w1", "w2", "w3", "w4", "[SEP]")
    assert (portion.truncated, portion.truncated_labels) == (1, 1)


def test_a_row_without_a_target_is_to_be_answered_with_the_end(encoder: Encoder) -> None:
    portion = MODULE.encode(TASK, [Example(row={"source": "w1"})], encoder)
    assert portion.ragged[TARGETS][0].tolist() == [END]


def test_a_prompt_is_what_the_encoder_reads_with_the_prefix_and_never_empty(encoder: Encoder, tmp_path: Path) -> None:
    task = replace(TASK, prefix="w9 ")
    portion = MODULE.encode(task, [pair("w1", "w2")], encoder)
    assert MODULE.prompt(task, {"source": "w1"}, encoder).ids == tuple(portion.ragged["input_ids"][0])
    assert MODULE.prompt(task, {"source": "w1"}, encoder).ids == tuple(ids("[CLS]", "w9", "w1", "[SEP]"))
    bare = replace(encoder, tokenizer=encoder.whole)
    bare.tokenizer.post_processor = None
    assert MODULE.prompt(TASK, {"source": ""}, bare).ids == (END,)


def test_a_prompt_that_is_too_long_says_that_its_end_is_cut(encoder: Encoder) -> None:
    found = [MODULE.prompt(TASK, {"source": text}, encoder) for text in ("w1 w2 w3 w4", "w1 w2 w3 w4 w5")]
    assert [(len(prompt.ids), prompt.cut) for prompt in found] == [(6, None), (6, "end")]


def prepared(encoder: Encoder, folder: Path, examples: list[Example], **changes: Any) -> Features:
    columns = MODULE.columns(TASK, 0)
    write_features([MODULE.encode(TASK, examples, encoder)], columns, folder, max_length=6, pad_token_id=0)
    return Features(folder)


def test_each_side_of_a_batch_is_padded_on_a_grid_of_its_own(encoder: Encoder, tmp_path: Path) -> None:
    examples = [pair("w1 w2 w3", "w4"), pair("w1", "w1 w2 w3 w4"), pair("w2", "w3 w4")]
    rows = prepared(encoder, tmp_path / "rows", examples)
    assert rows.facts.labels is not None
    assert (rows.facts.labels.num_tokens, rows.facts.labels.longest) == (2 + 5 + 3, 5)
    batch = collate(rows, np.asarray([0, 2]), grid=(4, 6), fill_to=3)
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape == (3, 6)
    assert batch.inputs["decoder_input_ids"].shape == batch.targets.shape == (3, 5), "the longest that any row has"
    assert batch.inputs["attention_mask"].sum(axis=1).tolist() == [5, 3, 5]
    assert batch.targets[0].tolist() == [*ids("w4", "[SEP]"), *[IGNORED] * 3]
    assert batch.weights.sum(axis=1).tolist() == [2, 3, 0], "rows that only fill bear no loss"
    assert batch.positions.sum(axis=1).tolist() == [2, 3, 0]
    assert set(batch.inputs) == {"attention_mask", "input_ids", "decoder_input_ids"}


def test_the_loss_is_that_of_each_token_and_padding_bears_none(encoder: Encoder, tmp_path: Path) -> None:
    """Uniform logits cost ln V a token."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from compiler.recipe import CrossEntropy
    from runtimes.pytorch.objective import target_losses

    batch = collate(prepared(encoder, tmp_path / "rows", [pair("w1", "w2 w3"), pair("w1", "w2")]), np.arange(2))
    logits = torch.zeros((*batch.targets.shape, len(WORDS)))
    for smoothing in (0.0, 0.1):
        losses = target_losses(CrossEntropy(), logits, torch.from_numpy(batch.targets), smoothing).numpy()
        assert np.allclose(losses, np.log(len(WORDS)) * (batch.targets != IGNORED), atol=1e-6)


def test_config_json_must_say_that_there_are_two_halves() -> None:
    assert MODULE.name_faults(TASK, {"is_encoder_decoder": True}) == (1, ())
    assert MODULE.name_faults(TASK, {"architectures": ["T5EncoderModel"]})[1] == (
        "is_encoder_decoder in config.json is None, not true",
    )
