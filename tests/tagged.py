"""A tiny project for tags of words: praise and blame of one word or two, in texts of the tiny model's vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import BAD, COMMON, GOOD, RECIPE, write_project

TAGS = ("O", "B-blame", "I-blame", "B-praise", "I-praise")
TASK = {"type": "token-classification"}
DATASET = {"train": "rows.jsonl", "validation": {"fraction": 0.1}, "test": {"fraction": 0.2}}
TRAINING = {"epochs": 6, "learning_rate": 5e-3, "batch_size": 16}


def tagged_rows(count: int) -> list[dict[str, Any]]:
    """Rows of 3 to 16 words with their tags; commas, and words of several tokens, among them."""
    random = np.random.default_rng(0)
    found: dict[tuple[str, ...], list[str]] = {}
    while len(found) < count:
        parts = [((word,), "") for word in random.choice((*COMMON, ",", "filmy", "plots"), random.integers(3, 13))]
        for kind, words in (("praise", GOOD), ("blame", BAD)):
            if random.random() < 0.6:
                two = (random.choice(words[:2]), random.choice(words[2:]))
                parts.append((two[: random.integers(1, 3)], kind))
        random.shuffle(parts)
        tokens = [str(word) for words, _ in parts for word in words]
        tags = [_tag(kind, place) for words, kind in parts for place in range(len(words))]
        found.setdefault(tuple(tokens), tags)
    return [{"tokens": list(tokens), "tags": tags} for tokens, tags in found.items()]


def _tag(kind: str, place: int) -> str:
    return f"{'I' if place else 'B'}-{kind}" if kind else "O"


def as_spans(row: dict[str, Any]) -> dict[str, Any]:
    """A row of tokens and tags as a text with spans."""
    spans: list[dict[str, Any]] = []
    start = 0
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        if tag[0] == "B":
            spans.append({"start": start, "end": start + len(token), "label": tag[2:]})
        elif tag[0] == "I":
            spans[-1]["end"] = start + len(token)
        start += len(token) + 1
    return {"text": " ".join(row["tokens"]), "spans": spans}


def write_tagged(folder: Path, *, num_rows: int = 300, spans: bool = False, **changes: Any) -> Path:
    """The folder, with model/, rows.jsonl and recipe.json in it; `changes` replace top-level keys of the recipe."""
    recipe = {"task": TASK, "dataset": DATASET, "training": TRAINING, "metrics": [], **changes}
    write_project(folder, **recipe)
    rows = [as_spans(row) if spans else row for row in tagged_rows(num_rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert {*recipe} <= {*RECIPE, *changes}
    return folder
