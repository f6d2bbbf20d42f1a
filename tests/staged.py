"""Stages of tiny models: texts to go on learning from, prompts to answer, and moods to tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny import prompts, rows, save_decoder, write_language_project

TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
WIKI = {
    "name": "wiki",
    "task": "continued-pretraining",
    "dataset": {"train": "wiki.jsonl"},
    "method": "lora",
    "training": {"max_steps": 12},
}
CHAT = {
    "name": "chat",
    "task": "text-generation",
    "dataset": {"train": "rows.jsonl"},
    "training": {"epochs": 2},
    "metrics": ["perplexity", "exact-match"],
    "generation": {"max_new_tokens": 6, "rows": 6},
}
COMMON = {"training": {"batch_size": 8, "learning_rate": 1e-2, "max_length": 48}}
MOODS = {"train": "moods.jsonl", "columns": {"text": "snippet", "label": "sentiment"}}


def write(folder: Path, *stages: dict[str, Any], save: Callable[[Path], None] = save_decoder, **changes: Any) -> Path:
    """A project with a tiny model, texts, prompts and moods, and a recipe of these stages."""
    value = {**COMMON, "stages": stages, **changes}
    write_language_project(folder, prompts(60), save=save, **value)
    recipe = json.loads((folder / "recipe.json").read_text())
    del recipe["dataset"]
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    for name, lines in {"wiki": [{"text": row["snippet"]} for row in rows(160)], "moods": rows(120)}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder
