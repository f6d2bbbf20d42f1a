"""Options of adapters that the conformance table has no cells for: MLX beside PyTorch, and what it saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

from compiler.driver import compile_recipe
from compiler.loading import load
from compiler.placement import parse_target
from tests.conformance.cells import over_limits
from tests.conformance.engines import measure
from tests.conformance.subjects import FACTS, Project, Subject, write

METHODS: dict[str, dict[str, Any]] = {
    "lora": {
        "type": "lora",
        "rank": 4,
        "rank_stabilized": True,
        "initialization": "orthogonal",
        "target_modules": ["layer.*.attention.self.*"],
        "modules_to_save": ["word_embeddings", "pooler"],
    },
    "dora": {"type": "dora", "rank": 4, "initialization": "gaussian", "target_modules": "all-linear"},
    "ia3": {"type": "ia3", "target_modules": ["query", "intermediate.dense"], "modules_to_save": ["pooler"]},
    "layer-norm": {"type": "layer-norm", "target_modules": ["layer.*.output.LayerNorm"], "modules_to_save": ["pooler"]},
}


@pytest.mark.parametrize("name", METHODS)
def test_both_engines_train_and_save_the_same(name: str, tmp_path: Path) -> None:
    project = write(Subject(task="text-classification", loss="cross-entropy", method="lora"), tmp_path / "project")
    recipe = json.loads((project.folder / "recipe.json").read_text(encoding="utf-8"))
    file = project.folder / "varied.json"
    file.write_text(json.dumps({**recipe, "method": METHODS[name]}), encoding="utf-8")
    varied = Project(folder=project.folder, compiled=compile_recipe(load(file), FACTS, parse_target("cpu")))
    figures = measure(varied)
    assert {"gradients", "steps", "saved", "parameters"} <= figures.keys()
    assert not over_limits(figures)
