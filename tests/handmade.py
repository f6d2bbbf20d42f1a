"""Facts written by hand, and the plan that a recipe has with them: no file is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from compiler.facts import DataFacts, ModelFacts, SplitFacts
from compiler.loading import load_text
from compiler.placement import Target
from compiler.plan import File, Plan, SplitRows
from compiler.planning import plan
from compiler.reading import read_recipe
from compiler.recipe import Recipe
from compiler.resolve import ResolvedRecipe, resolve

CPU = Target(kind="cpu", memory_gib=None, reason="asked for")
CUDA = Target(kind="cuda", memory_gib=80, reason="asked for")
RECIPE: dict[str, Any] = {
    "recipe": 1,
    "name": "case",
    "task": "text-classification",
    "dataset": {"train": "rows.jsonl"},
    "model": "org/model",
}
MODEL = ModelFacts(
    id="org/model",
    revision="0123abc",
    on_hub=True,
    model_type="bert",
    architectures=("BertModel",),
    num_layers=6,
    hidden_size=384,
    vocab_size=30522,
    max_positions=512,
    num_parameters=22_713_216,
    dtype="float32",
    shapes={
        **{
            f"encoder.layer.{number}.attention.self.{name}.weight": (384, 384)
            for number in (0, 1)
            for name in ("query", "value")
        },
        "pooler.dense.weight": (384, 384),
    },
    labels=None,
    files={"config.json": "c" * 64, "model.safetensors": "d" * 64, "tokenizer.json": "e" * 64},
    has_tokenizer=True,
)


def split_facts(
    name: Literal["train", "validation", "test"], counts: Mapping[str, int], *, fraction: float = 0.0, longest: int = 40
) -> SplitFacts:
    """The rows of a split of rows.jsonl with so many rows of each label."""
    rows = SplitRows(
        split=name,
        files=(File(path="rows.jsonl", format="jsonl", sha256="a" * 64),),
        dataset=None,
        revision=None,
        fraction=fraction,
        stratify=fraction > 0,
        seed=0,
        rows=0,
        num_rows=sum(counts.values()),
    )
    return SplitFacts(rows=rows, label_counts=counts, lengths=(*(0,) * longest, 1))


DATA = DataFacts(
    splits=(
        split_facts("train", {"bad": 200, "good": 600}),
        split_facts("validation", {"bad": 25, "good": 75}, fraction=0.1),
        split_facts("test", {"bad": 25, "good": 75}, fraction=0.1),
    ),
    labels=("bad", "good"),
)


def read(**changes: Any) -> Recipe:
    """The recipe with other top-level keys."""
    return read_recipe(load_text(json.dumps({**RECIPE, **changes}), "r.json"))


def resolved(
    model_facts: ModelFacts = MODEL, data_facts: DataFacts = DATA, target: Target = CPU, **changes: Any
) -> ResolvedRecipe:
    """The recipe with other top-level keys, with facts."""
    return resolve(read(**changes), model_facts, data_facts, target)


def planned(
    model_facts: ModelFacts = MODEL, data_facts: DataFacts = DATA, target: Target = CPU, **changes: Any
) -> Plan:
    """The plan of the recipe with other top-level keys, with facts."""
    return plan(resolved(model_facts, data_facts, target, **changes))


def without_validation(data: DataFacts = DATA) -> DataFacts:
    """The facts of a recipe that says "validation": null."""
    return replace(data, splits=tuple(split for split in data.splits if split.rows.split != "validation"))
