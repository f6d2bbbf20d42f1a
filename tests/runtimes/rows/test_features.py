from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from runtimes.rows.features import Features
from tests.runtimes.tiny import features, rows, tokenizer_file, write


def test_rows_come_back_with_special_tokens_and_targets(tmp_path: Path) -> None:
    write([("w0 w1", 2), ("", 0), ("nowhere", 1)], tokenizer_file(tmp_path), tmp_path)
    found = Features(tmp_path)
    assert [found.row(index)["input_ids"].tolist() for index in range(3)] == [[2, 4, 5, 3], [2, 3], [2, 1, 3]]
    assert [found.row(index)["targets"] for index in range(3)] == [2, 0, 1]
    assert found.lengths.tolist() == [4, 2, 3]
    assert len(found) == 3


def test_cut_rows_are_counted_and_keep_their_special_tokens(tmp_path: Path) -> None:
    facts = write([("w0 w1 w2 w3", 0), ("w0 w1", 0)], tokenizer_file(tmp_path), tmp_path, max_length=4)
    assert (facts.truncated, facts.longest, facts.num_tokens) == (1, 4, 8)
    assert Features(tmp_path).row(0)["input_ids"].tolist() == [2, 4, 5, 3]


def test_the_tokenizer_files_own_padding_and_truncation_do_not_count(tmp_path: Path) -> None:
    found = features(tmp_path, 50)
    assert found.lengths.min() < 5 < found.lengths.max() <= 16


def test_type_ids_are_kept_only_where_they_say_something(tmp_path: Path) -> None:
    one_text = tokenizer_file(tmp_path)
    write([("w0", 0)], one_text, tmp_path / "plain")
    tokenizer = Tokenizer.from_file(str(one_text))
    tokenizer.post_processor = type(tokenizer.post_processor)(
        single="[CLS]:1 $A:1 [SEP]:1", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(tmp_path / "typed.json"))
    write([("w0", 0)], tmp_path / "typed.json", tmp_path / "typed")
    assert "token_type_ids" not in Features(tmp_path / "plain").row(0)
    assert Features(tmp_path / "typed").row(0)["token_type_ids"].tolist() == [1, 1, 1]


def test_more_rows_than_one_portion_stay_in_order(tmp_path: Path) -> None:
    expected = rows(2_500)
    found = features(tmp_path, 2_500)
    assert [found.row(index)["targets"] for index in range(2_500)] == [label for _, label in expected]
    lengths = [min(16, 2 + len(text.split())) for text, _ in expected]
    assert found.lengths.tolist() == lengths


def test_no_rows_are_no_error(tmp_path: Path) -> None:
    facts = write([], tokenizer_file(tmp_path), tmp_path)
    assert (facts.num_rows, facts.longest, len(Features(tmp_path))) == (0, 0, 0)


@pytest.mark.parametrize("count", [20_000])
def test_memory_grows_by_a_few_bytes_a_row_only(tmp_path: Path, count: int) -> None:
    tokenizer = tokenizer_file(tmp_path)
    text = " ".join(["w1"] * 14)

    def peak(num_rows: int) -> int:
        tracemalloc.start()
        write(((text, 0) for _ in range(num_rows)), tokenizer, tmp_path / str(num_rows))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # The index of 8 bytes a row is grown by appending (an eighth in reserve) and summed up once: three copies at most.
    assert peak(count) - peak(1_000) < 3 * 8 * count
    assert np.memmap(tmp_path / str(count) / "input_ids.bin", np.int32).size == 16 * count
