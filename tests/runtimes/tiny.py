"""Tiny train steps and rows for tests of what runs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from compiler.methods import Full, Tuned
from compiler.metrics import F1, Accuracy
from compiler.placement import DeviceKind, Placement, Runtime
from compiler.plan import ModelFiles, Schedule, Selection, Train
from compiler.recipe import SGD, CrossEntropy
from compiler.tasks import Example, TextClassification
from runtimes import tasks
from runtimes.protocol import Batch
from runtimes.rows.batches import Weigh
from runtimes.rows.feature_writer import write_features
from runtimes.rows.features import FeatureFacts, Features
from runtimes.rows.tokens import chunks, open_encoder
from runtimes.tasks import text_classification

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(60)))
LABELS = ("bad", "fair", "good")
TASK = TextClassification(labels=LABELS)


def tokenizer_file(folder: Path) -> Path:
    """A tokenizer.json that splits at spaces, puts [CLS] and [SEP] around, and pads and cuts as real ones do."""
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def rows(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Rows of 1 to 14 words, whose label shows in the words."""
    random = np.random.default_rng(seed)
    found = []
    for label in random.integers(0, 3, count).tolist():
        words = np.where(random.random(random.integers(1, 15)) < 0.5, random.integers(0, 20), random.integers(20, 60))
        found.append((" ".join(f"w{(word + 20 * label) % 60}" for word in words.tolist()), label))
    return found


def features(folder: Path, count: int, seed: int = 0) -> Features:
    """The features of `rows(count, seed)`."""
    folder.mkdir(parents=True, exist_ok=True)
    write(rows(count, seed), tokenizer_file(folder), folder)
    return Features(folder)


def write(labelled: Iterable[tuple[str, int]], tokenizer: Path, folder: Path, max_length: int = 16) -> FeatureFacts:
    """Writes the features of (text, label number) rows, as the prepare step does."""
    encoder = open_encoder(tokenizer, max_length=max_length)
    examples = (Example(row={"text": text, "label": LABELS[label]}, target=label) for text, label in labelled)
    portions = (text_classification.encode(TASK, portion, encoder) for portion in chunks(examples, 1_000))
    columns = text_classification.columns(TASK, pad_token_id=0)
    return write_features(portions, columns, folder, max_length=max_length, pad_token_id=0)


def weigh(step: Train) -> Weigh:
    """The weights of a step's rows in its loss."""
    return partial(tasks.module_of(step.task).weights, step.task, step.loss)


def selection(**changes: Any) -> Selection:
    """Keep the best by accuracy, looking every third step."""
    base = Selection(
        metric="accuracy", greater_is_better=True, evaluate_every=3, patience=0, min_delta=0.0, keep_best=True
    )
    return replace(base, **changes)


def placed(engine: Runtime = "pytorch", device: DeviceKind = "cpu", **changes: Any) -> Placement:
    """A placement on a device, batches whole."""
    base = Placement(engine=engine, engine_reason="", device=device, device_reason="", micro_batch_size=8)
    return replace(base, **changes)


def train_step(**changes: Any) -> Train:
    """Three labels, SGD, batches of 8, 20 steps, no dropout anywhere; `class_weights`: one for each label."""
    num_steps = changes.get("num_steps", 20)
    weights = changes.pop("class_weights", None)
    loss = CrossEntropy(class_weights=dict(zip(LABELS, weights, strict=True))) if weights else CrossEntropy()
    base = Train(
        task=TASK,
        keep_head=False,
        model=ModelFiles(id="tiny", revision=None, files={}),
        method=Full(),
        tuned=Tuned(modules=(), parameters=0, total=0),
        loss=loss,
        label_smoothing=0.0,
        epochs=3,
        num_steps=num_steps,
        batch_size=8,
        packing="none",
        draw="every",
        lengths=(4, 8, 12, 16),
        learning_rate=0.5,
        schedule=Schedule(shape="linear", warmup_steps=2, num_steps=num_steps),
        optimizer=SGD(),
        weight_decay=0.0,
        max_grad_norm=None,
        seed=0,
        precision="fp32",
        selection=None,
        metrics=(Accuracy(), F1()),
        evaluate_every=0,
        checkpoint_every=4,
    )
    return replace(base, **changes)


def batch_of(inputs: Mapping[str, np.ndarray], targets: np.ndarray | None = None) -> Batch:
    """A batch of rows that all count, with one answer each, or several: zeros where none are given."""
    count = len(next(iter(inputs.values())))
    return Batch(
        inputs=inputs,
        targets=np.zeros(count, np.int64) if targets is None else targets,
        weights=np.ones(count if targets is None else targets.shape, np.float32),
        positions=np.ones(count, bool),
        rows=np.arange(count),
    )
