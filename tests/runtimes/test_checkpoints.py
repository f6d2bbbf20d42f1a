from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtimes import checkpoints
from runtimes.checkpoints import Damaged
from runtimes.errors import RunError


def writes(value: float):
    return lambda folder: save_file({"weight": np.full(3, value)}, folder / "state.safetensors")


def test_a_checkpoint_gives_back_its_state(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 7, {"step": 7, "best": 0.1 + 0.2}, writes(1.0))
    assert checkpoints.load(tmp_path, 7) == {"step": 7, "best": 0.1 + 0.2}
    assert checkpoints.steps(tmp_path) == (7,)


def test_steps_are_listed_latest_first_and_only_kept_ones_stay(tmp_path: Path) -> None:
    for step in (1, 20, 3):
        checkpoints.save(tmp_path, step, {}, writes(1.0))
    (tmp_path / ".step-00000009.x.part").mkdir()
    assert checkpoints.steps(tmp_path) == (20, 3, 1)
    checkpoints.keep_only(tmp_path, {1, 20})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000020"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_never_saved(tmp_path: Path, value: float) -> None:
    with pytest.raises(RunError, match="weight is not finite after step 4") as caught:
        checkpoints.save(tmp_path, 4, {}, writes(value))
    assert caught.value.code == "E403"
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        writes(1.0)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path, 4, {}, fails)
    assert list(tmp_path.iterdir()) == []


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _edit(path: Path) -> None:
    content = json.loads(path.read_text())
    content["state"]["step"] = 8
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("state.safetensors", _flip, "state.safetensors is not the file"),
        ("state.safetensors", Path.unlink, "state.safetensors is not the file"),
        ("checkpoint.json", _edit, "checkpoint.json was changed"),
        ("checkpoint.json", _flip, "checkpoint.json can't be read|was changed"),
        ("checkpoint.json", Path.unlink, "checkpoint.json can't be read"),
        ("checkpoint.json", lambda path: path.write_text("[]"), "checkpoint.json can't be read"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, file: str, damage, said: str) -> None:
    checkpoints.save(tmp_path, 7, {"step": 7}, writes(1.0))
    damage(tmp_path / "step-00000007" / file)
    with pytest.raises(Damaged, match=said):
        checkpoints.load(tmp_path, 7)
