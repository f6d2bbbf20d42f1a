from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtimes.errors import RunError
from runtimes.initial import New, initial_values

NEW = (
    New(name="head.weight", shape=(3, 400), kind="normal", scale=0.02),
    New(name="head.bias", shape=(3,), kind="zeros"),
    New(name="norm.weight", shape=(4,), kind="ones"),
    New(name="lora_A", shape=(8, 400), kind="uniform", scale=0.05),
)


def test_values_follow_their_kind(tmp_path: Path) -> None:
    found = initial_values(NEW, 0, tmp_path / "init.safetensors")
    # 1,200 draws: a standard error of the deviation is 0.02 / sqrt(2 * 1200) = 0.0004.
    assert abs(found["head.weight"].std() - 0.02) < 0.002
    assert not found["head.bias"].any()
    assert (found["norm.weight"] == 1).all()
    assert 0.049 < np.abs(found["lora_A"]).max() <= 0.05
    assert all(value.dtype == np.float32 for value in found.values())


def test_the_file_is_read_back_to_the_bit_whatever_the_seed(tmp_path: Path) -> None:
    first = initial_values(NEW, 0, tmp_path / "init.safetensors")
    again = initial_values(NEW, 1, tmp_path / "init.safetensors")
    assert {name: value.tobytes() for name, value in first.items()} == {
        name: value.tobytes() for name, value in again.items()
    }


def test_seeds_and_names_give_different_values(tmp_path: Path) -> None:
    first = initial_values(NEW, 0, tmp_path / "first")
    second = initial_values(NEW, 1, tmp_path / "second")
    assert not np.array_equal(first["lora_A"], second["lora_A"])


def test_the_file_of_another_model_is_refused(tmp_path: Path) -> None:
    initial_values(NEW, 0, tmp_path / "init.safetensors")
    with pytest.raises(RunError, match="another method or model"):
        initial_values(NEW[:2], 0, tmp_path / "init.safetensors")
