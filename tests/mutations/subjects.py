"""What faults are put into: tiny models of every kind of task, each run once from its recipe to its bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.cli.conftest import invoke
from tests.cli.test_images import write_project as write_images
from tests.cli.test_label_sets import tagged
from tests.finished import Finished
from tests.tagged import write_tagged
from tests.tiny import BAD, COMMON, GOOD, prompts, rows, save_tokenizer, write_language_project, write_project

NAME = "tiny"


@dataclass(frozen=True, slots=True)
class Subject:
    """A tiny project: its name, and what writes it into a folder."""

    name: str
    write: Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Built:
    """A subject whose run is done."""

    subject: Subject
    folder: Path

    @property
    def run(self) -> Finished:
        """The run."""
        return Finished(self.folder / "runs" / NAME, self.folder)

    @property
    def bundle(self) -> Path:
        """What its receiver gets."""
        return self.run.folder / "bundle"


def build(subject: Subject, folder: Path) -> Built:
    """The subject, written into a folder and run there; as it is where that was done before."""
    built = Built(subject, folder)
    if not (folder / "recipe.json").exists():
        subject.write(folder)
    with _offline(folder / "cache"):
        done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    return built


@contextmanager
def _offline(cache: Path) -> Iterator[None]:
    """An environment without a mirror, a hub or a user's cache."""
    before = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(cache)}
    os.environ.pop("RECIPE_MIRROR", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# --- the projects

TRAINING: Mapping[str, Any] = {"epochs": 3, "learning_rate": 5e-3, "batch_size": 16}
SPLITS: Mapping[str, Any] = {"train": "rows.jsonl", "validation": {"fraction": 0.1}, "test": {"fraction": 0.2}}


def write_pairs(folder: Path) -> None:
    """Two texts and a label, by which of them has the good word; low-rank updates, which are merged."""
    random = np.random.default_rng(3)
    lines = []
    for number in range(300):
        first = number % 2 == 0
        words = [*random.choice(COMMON, random.integers(2, 9)), random.choice(GOOD if first else BAD)]
        other = [*random.choice(COMMON, random.integers(2, 9)), random.choice(BAD if first else GOOD)]
        lines.append({"text": " ".join(words), "other": " ".join(other), "label": ("second", "first")[first]})
    columns = {"text": "text", "text_pair": "other", "label": "label"}
    write_project(folder, dataset={**SPLITS, "columns": columns}, training={**TRAINING, "epochs": 6}, method="lora")
    _write_lines(folder, lines)


def write_rounded(folder: Path) -> None:
    """Texts with a label; what is exported has eight bits."""
    export = [{"format": "onnx", "precision": "int8-static", "max_metric_drop": 0.05}]
    write_project(folder, num_rows=200, training=TRAINING, export=export)


def write_rated(folder: Path) -> None:
    """Texts rated 70 for a good word and 30 for a bad one."""
    lines = [
        {"text": row["snippet"], "target": 50 + 20 * (1 if row["sentiment"] == "positive" else -1)} for row in rows(200)
    ]
    write_project(folder, task="text-regression", dataset=SPLITS, training=TRAINING, metrics=["mae", "r2"])
    _write_lines(folder, lines)


def write_topics(folder: Path) -> None:
    """Texts with any number of labels, each with a threshold that is learnt."""
    columns = {"text": "snippet", "label": "sentiment"}
    task = {"type": "text-classification", "multi_label": True}
    write_project(folder, task=task, dataset={**SPLITS, "columns": columns}, training={**TRAINING, "epochs": 8})
    _write_lines(folder, tagged(400))


def write_chat(folder: Path) -> None:
    """A decoder that answers prompts."""
    write_language_project(
        folder,
        prompts(150),
        task="text-generation",
        training={"epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "max_length": 48},
        metrics=["perplexity", "token-accuracy"],
        generation={"max_new_tokens": 6, "rows": 10},
        export=["onnx"],
    )


def write_translation(folder: Path) -> None:
    """An encoder-decoder that writes whether a text is good or bad."""
    told = {"positive": "the movie is good", "negative": "bad plot"}
    lines = [{"source": row["snippet"], "target": told[row["sentiment"]]} for row in rows(200)]
    write_project(
        folder,
        task="text-to-text",
        dataset={**SPLITS, "test": {"fraction": 0.15}},
        training={"max_steps": 90, "learning_rate": 5e-3, "batch_size": 16, "keep": "last"},
        metrics=["perplexity"],
        generation={"max_new_tokens": 8, "rows": 10},
    )
    _write_lines(folder, lines)
    for file in (folder / "model").iterdir():
        file.unlink()
    (folder / "model").rmdir()
    save_t5(folder / "model")


def save_t5(folder: Path) -> None:
    """A random T5 without dropout, with the tokenizer of the rows' words."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from runtimes.pytorch.quiet import quiet

    vocabulary = save_tokenizer(folder, (*COMMON, *GOOD, *BAD))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        pad_token_id=0,
        eos_token_id=3,
    )
    config.decoder_start_token_id = 2
    with quiet():
        T5ForConditionalGeneration(config).save_pretrained(folder)


def write_tags(folder: Path) -> None:
    """Words, each with a tag."""
    write_tagged(folder, num_rows=200, training={**TRAINING, "epochs": 5})


def _write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


PAIRS = Subject("pairs", write_pairs)
CHAT = Subject("chat", write_chat)
TRANSLATION = Subject("translation", write_translation)
IMAGES = Subject("images", lambda folder: write_images(folder, 120))
TAGS = Subject("tags", write_tags)
RATED = Subject("rated", write_rated)
TOPICS = Subject("topics", write_topics)
ROUNDED = Subject("rounded", write_rounded)
SUBJECTS = (PAIRS, CHAT, TRANSLATION, IMAGES, TAGS, RATED, TOPICS, ROUNDED)
