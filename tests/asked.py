"""A tiny project for questions: which word of praise or blame stands in a text of the tiny model's vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import BAD, COMMON, GOOD, RECIPE, write_project

TASK = {"type": "question-answering"}
COLUMNS = {"question": "asked", "context": "passage", "answers": "found"}
DATASET = {"train": "rows.jsonl", "validation": {"fraction": 0.1}, "test": {"fraction": 0.2}, "columns": COLUMNS}
TRAINING = {"epochs": 8, "learning_rate": 5e-3, "batch_size": 16}
ASKED = {"good": GOOD, "bad": BAD}


def asked_rows(count: int) -> list[dict[str, Any]]:
    """Rows with a word of praise, one of blame, or both among 3 to 24 others; asked for one that may not be there."""
    random = np.random.default_rng(0)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    while len(found) < count:
        words = [str(word) for word in random.choice(COMMON, random.integers(3, 25))]
        there = {}
        for kind, choices in ASKED.items():
            if random.random() < 0.75:
                there[kind] = str(random.choice(choices))
                words.insert(int(random.integers(0, len(words) + 1)), there[kind])
        kind, passage = str(random.choice([*ASKED])), " ".join(words)
        starts = [
            len(" ".join(words[:place])) + bool(place) for place, word in enumerate(words) if word == there.get(kind)
        ]
        answers = {"text": [there[kind] for _ in starts], "answer_start": starts}
        found.setdefault((kind, passage), {"asked": kind, "passage": passage, "found": answers})
    return [*found.values()]


def write_asked(folder: Path, *, num_rows: int = 400, **changes: Any) -> Path:
    """The folder, with model/, rows.jsonl and recipe.json in it; `changes` replace top-level keys of the recipe."""
    recipe = {"task": TASK, "dataset": DATASET, "training": TRAINING, "metrics": [], **changes}
    write_project(folder, **recipe)
    text = "".join(json.dumps(row) + "\n" for row in asked_rows(num_rows))
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    assert {*recipe} <= {*RECIPE, *changes}
    return folder
