"""A tiny project of two tasks on one encoder: of what kind a text is, and how good it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.driver import Compiled, compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.placement import parse_target
from tests.tiny import RECIPE, rows, save_encoder

FACTS = LocalFacts(offline=True)
DATASET = {**RECIPE["dataset"], "train": "rows.jsonl"}
SENTIMENT: dict[str, Any] = {
    "task": "text-classification",
    "dataset": {**DATASET, "columns": {"text": "snippet", "label": "sentiment"}},
    "metrics": ["accuracy"],
}
VALENCE: dict[str, Any] = {
    "task": "text-regression",
    "dataset": {**DATASET, "train": "rated.jsonl", "columns": {"text": "snippet", "target": "rating"}},
    "metrics": ["mse", "r2"],
}
MOODS: dict[str, Any] = {
    "task": {"type": "text-classification", "multi_label": True, "labels": ["good", "long"]},
    "dataset": {**DATASET, "columns": {"text": "snippet", "label": "moods"}},
    "metrics": [{"type": "f1", "average": "micro"}],
}
TRAINING = {"epochs": 4, "learning_rate": 3e-3, "batch_size": 16}
PARTS: Mapping[str, Mapping[str, Any]] = {"sentiment": SENTIMENT, "valence": VALENCE}


def several(parts: Mapping[str, Mapping[str, Any]] = PARTS, *, task: Any = (), **changes: Any) -> dict[str, Any]:
    """The recipe; `task` has keys of /task, `changes` are top-level ones."""
    named = {"type": "multi-task", "tasks": parts, **dict(task)}
    shared = {"model": "./model", "training": TRAINING, "export": ["onnx"]}
    return {"recipe": 1, "name": "several", "task": named, **shared, **changes}


def write_several(folder: Path, *, num_rows: int = 300, num_rated: int = 120, **recipe: Any) -> Path:
    """The folder, with model/, rows.jsonl, rated.jsonl (other rows) and recipe.json in it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder / "model")
    made = [{**row, "moods": moods_of(row)} for row in rows(num_rows + num_rated)]
    rated = [{**row, "rating": 1.5 if row["sentiment"] == "positive" else -2.5} for row in made[num_rows:]]
    for name, written in (("rows", made[:num_rows]), ("rated", rated)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    (folder / "recipe.json").write_text(json.dumps(several(**recipe), indent=2), encoding="utf-8")
    return folder


def moods_of(row: Mapping[str, str]) -> list[str]:
    """Whether a text is good, and whether it is long."""
    is_long = len(row["snippet"].split()) > 10
    return [*(["good"] if row["sentiment"] == "positive" else []), *(["long"] if is_long else [])]


def compiled(folder: Path) -> Compiled:
    """The recipe of such a project, compiled."""
    return compile_recipe(load(folder / "recipe.json"), FACTS, parse_target("cpu"))
