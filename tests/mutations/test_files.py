"""A fault that does not fit a bundle says so: the benchmark of gates puts every fault into any bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mutations.files import lose_thresholds, set_generation


@pytest.mark.parametrize(
    ("file", "value", "damage", "lacking"),
    [
        ("labels.json", ["bad", "good"], lose_thresholds, "thresholds"),
        ("labels.json", {"labels": ["bad", "good"]}, lose_thresholds, "thresholds"),
        ("manifest.json", {"generation": None}, set_generation("temperature", 1.0), "temperature"),
        ("manifest.json", {}, set_generation("temperature", 1.0), "generation"),
    ],
)
def test_a_value_that_is_not_there_is_named(
    tmp_path: Path, file: str, value: Any, damage: Callable[[Path], None], lacking: str
) -> None:
    (tmp_path / file).write_text(json.dumps(value))
    with pytest.raises(LookupError, match=f"there is no {lacking}"):
        damage(tmp_path)
    assert json.loads((tmp_path / file).read_text()) == value
