"""Tiny projects for every task, loss, method and encoder of the registries; each compiled as a user's is.

What a registry has and a table here lacks is a cell that fails: add its case.
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compiler import tasks
from compiler.driver import Compiled, compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.methods import Method
from compiler.placement import EVERY_RUNTIME, Runtime, parse_target
from compiler.tasks.interface import Architecture
from compiler.typed import members, tag
from runtimes.tasks import MODULES
from tests.tiny import BAD, COMMON, GOOD, RECIPE, rows, save_causal_tokenizer, save_image_processor, save_tokenizer

FACTS = LocalFacts(offline=True)
ENCODERS = ("bert", "distilbert", "roberta", "albert", "modernbert", "deberta")
DECODERS = ("llama", "qwen3", "gpt2")
VISION = ("vit", "resnet")
_LINEAR = "vit"  # the one with linear layers, beside which updates stand, and with norms of single rows
ENCODER_DECODERS = ("t5", "bart", "marian", "encoder-decoder")
# How the weights of a model are on the hub: alone; with a head for words; with a head for labels, which is kept.
STORED = ("bare", "masked-lm", "classifier")
STORED_VISION = ("bare", "classifier")
# With a head for hidden words, which language modelling goes on with.
MASKED = "masked-lm"
# With a head for the next word, which is the only one that a decoder is stored with here.
CAUSAL = "causal-lm"
# The same of a decoder that has an encoder.
SEQUENCE = "seq2seq-lm"
LABELS = ("negative", "positive")
NUM_ROWS = 150

_WEIGHTS: Mapping[str, float] = {"negative": 2.0, "positive": 0.5}
_TEXT: Mapping[str, Any] = {"text": "snippet", "label": "sentiment"}
_PAIR: Mapping[str, Any] = {"source": "snippet", "target": "reversed"}
_TASKS: Mapping[str, Mapping[str, Any]] = {
    "text-classification": {"columns": _TEXT, "training": {"label_smoothing": 0.1}, "weights": _WEIGHTS},
    "text-regression": {"columns": {"text": "snippet", "target": "share"}, "training": {}},
    "token-classification": {
        "columns": {"tokens": "words", "tags": "tags"},
        "training": {"label_smoothing": 0.1},
        "weights": {"B-negative": 2.0, "I-positive": 0.5},
    },
    "question-answering": {
        "columns": {"question": "asked", "context": "snippet"},
        "training": {"label_smoothing": 0.1},
    },
    "image-classification": {
        "columns": {"image": "picture", "label": "sentiment"},
        # With seed 0 the gradient of the ResNet's 17th step depends on the rounding of one value at a ReLU's kink or a
        # pooling's tie: its norm differs by half a percent, on the same commit on one machine and not on another.
        "training": {"label_smoothing": 0.1, "seed": 1},
        "weights": _WEIGHTS,
    },
    "text-generation": {"columns": {"prompt": "snippet", "completion": "sentiment"}, "training": {}},
    "continued-pretraining": {"columns": {"text": "snippet"}, "training": {"label_smoothing": 0.1}},
    "translation": {"columns": _PAIR, "training": {"label_smoothing": 0.1}},
    "summarization": {"columns": _PAIR, "training": {}},
    "text-to-text": {"columns": _PAIR, "training": {}},
}
_LOSSES: Mapping[str, Any] = {
    "cross-entropy": {"type": "cross-entropy"},
    "focal": {"type": "focal", "gamma": 2.0},
    "binary-cross-entropy": {"type": "binary-cross-entropy"},
    "mse": {"type": "mse"},
    "mae": {"type": "mae"},
    "huber": {"type": "huber", "delta": 0.5},
}
# What a loss needs of its task: rows that may have several labels.
_OF_LOSS: Mapping[str, Mapping[str, Any]] = {
    "binary-cross-entropy": {"task": {"multi_label": True}, "columns": {"label": "moods"}},
}
# What a task does in another way than its usual one: by a word for it, what the recipe says for that.
_VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "text-regression": {
        "several targets": {"task": {"targets": ["share", "length"]}, "columns": {"text": "snippet"}},
    },
}
# All of the weights, and updates beside frozen ones.
STAND_FOR_ALL = ("full", "lora")
_METHODS: Mapping[str, Any] = {
    "full": {"type": "full"},
    "head": {"type": "head"},
    "freeze": {"type": "freeze", "layers": 1},
    "lora": {"type": "lora", "rank": 4},
    "qlora": {"type": "qlora", "rank": 4, "group_size": 32},
    "dora": {"type": "dora", "rank": 4},
    "ia3": {"type": "ia3"},
    "layer-norm": {"type": "layer-norm"},
    "adapter": {"type": "adapter", "reduction_factor": 4},
    "bitfit": {"type": "bitfit"},
    "scratch": {"type": "scratch"},
    "adalora": {"type": "adalora", "initial_rank": 4, "target_rank": 2},
    "prompt": {"type": "prompt", "num_virtual_tokens": 4},
    "prefix": {"type": "prefix", "num_virtual_tokens": 4},
    "p-tuning": {"type": "p-tuning", "num_virtual_tokens": 4, "hidden_size": 24},
}
# Models that a method has nothing to train of, having no biases; that take no keys and values, or vectors, from
# outside.
_UNFIT: Mapping[str, tuple[str, ...]] = {
    "bitfit": ("modernbert", "llama", "qwen3", "t5"),
    "prefix": ("distilbert", "albert", "modernbert", "deberta"),
    "prompt": ("marian",),
    "p-tuning": ("marian",),
}
# Weights that seed 1 draws for a ViT are trained on a path where rounding grows: the first gradients are equal (5e-6),
# and within 20 steps the losses differ by 1.1e-4. From seeds 2, 3 and 4 they differ by 3e-6 at most.
_SEEDS: Mapping[tuple[str, str], int] = {("image-classification", "scratch"): 2}
# What methods do not tune, as diagnostics say; tests of their own see that they do.
_UNTUNED: Mapping[str, tuple[str, ...]] = {
    "prompt": ("vision",),
    "p-tuning": ("vision",),
    "prefix": ("vision", "encoder-decoder", "question-answering", MASKED),
}
_TRAINING: Mapping[str, Any] = {
    "max_steps": 20,
    "schedule": {"type": "cosine", "warmup_steps": 3},
    "learning_rate": 5e-3,
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
    "batch_size": 9,
    "micro_batch_size": 5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is trained in a cell: words of the language, and a tiny model as it is stored."""

    task: str
    loss: str
    method: str
    encoder: str = "bert"
    stored: str = "bare"
    variant: str = ""  # a word of _VARIANTS, where the task does not do as usual

    def __str__(self) -> str:
        return "-".join(filter(None, asdict(self).values()))

    @property
    def task_name(self) -> str:
        """The task, and how it differs from its usual self."""
        return f"{self.task}, {self.variant}" if self.variant else self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with model/, rows.jsonl and recipe.json, and what the recipe compiles to."""

    folder: Path
    compiled: Compiled = field(repr=False)

    @property
    def model(self) -> Path:
        """The pretrained model's folder."""
        return self.folder / "model"


def task_names() -> tuple[str, ...]:
    """Every task of the language."""
    return tuple(word for owner in members(tasks.Task) if (found := tag(owner)) for word in [found[1]])


def method_names() -> tuple[str, ...]:
    """Every method of the language."""
    return tuple(word for owner in members(Method) if (found := tag(owner)) for word in [found[1]])


def runtimes_of(method: str) -> tuple[Runtime, ...]:
    """What runs a method."""
    [owner] = [owner for owner in members(Method) if tag(owner) == ("type", method)]
    runtimes: tuple[Runtime, ...] = importlib.import_module(owner.__module__).RUNTIMES
    return runtimes


def saves(method: str) -> str:
    """What a method leaves: model, or adapter."""
    [owner] = [owner for owner in members(Method) if tag(owner) == ("type", method)]
    found: str = importlib.import_module(owner.__module__).SAVES
    return found


def loss_names(task: str) -> tuple[str, ...]:
    """Every loss that a task may have, its default first."""
    [owner] = [owner for owner in members(tasks.Task) if tag(owner) == ("type", task)]
    return tasks.module_of(owner()).LOSSES


def architecture_of(task: str) -> Architecture:
    """The kind of model that a task tunes first of all."""
    [owner] = [owner for owner in members(tasks.Task) if tag(owner) == ("type", task)]
    return tasks.module_of(owner()).ARCHITECTURES[0]


def tunes(method: str, task: str) -> bool:
    """Whether a method tunes the models of a task."""
    return not {task, architecture_of(task)} & {*_UNTUNED.get(method, ())}


def subject_of(task: str, loss: str, method: str, number: int = 0) -> Subject:
    """A subject with a model that the task tunes; `number`: which, and how it is stored."""
    if architecture_of(task) == "vision":
        encoder = _LINEAR if saves(method) == "adapter" else VISION[number % len(VISION)]
        return Subject(task=task, loss=loss, method=method, encoder=encoder, stored=STORED_VISION[number % 2])
    if architecture_of(task) == "decoder":
        names = _fit(method, DECODERS)
        return Subject(task=task, loss=loss, method=method, encoder=names[number % len(names)], stored=CAUSAL)
    if architecture_of(task) == "encoder-decoder":
        number += task_names().index(task) + method_names().index(method)
        names = _fit(method, ENCODER_DECODERS)
        return Subject(task=task, loss=loss, method=method, encoder=names[number % len(names)], stored=SEQUENCE)
    names = _fit(method, ENCODERS)
    encoder, stored = names[number % len(names)], STORED[number % len(STORED)]
    return Subject(task=task, loss=loss, method=method, encoder=encoder, stored=stored)


def shared_methods() -> tuple[str, ...]:
    """The methods that every runtime runs: the others have nothing to be compared with."""
    return tuple(method for method in method_names() if set(runtimes_of(method)) == set(EVERY_RUNTIME))


def _fit(method: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some models of which the method has something to train."""
    return tuple(name for name in names if name not in _UNFIT.get(method, ()))


def every_method() -> tuple[Subject, ...]:
    """Each task with each method that every runtime runs; with each of its losses by the methods that stand for all.

    A loss is computed of the outputs: which parameters its gradient goes to is nothing to it.
    """
    return tuple(
        subject_of(task=task, loss=loss, method=method)
        for task in task_names()
        for loss in loss_names(task)
        for method in shared_methods()
        if tunes(method, task) and (method in STAND_FOR_ALL or loss == loss_names(task)[0])
    )


def every_gate() -> tuple[tuple[Subject, Runtime], ...]:
    """Each task with its usual loss and each method, on each runtime that runs the method."""
    return tuple(
        (subject_of(task=task, loss=loss_names(task)[0], method=method), runtime)
        for task in task_names()
        for method in method_names()
        if tunes(method, task)
        for runtime in runtimes_of(method)
    )


def variants_of(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """The subjects in each way that their task has beside its usual one."""
    return tuple(
        replace(subject, variant=variant) for subject in subjects for variant in _VARIANTS.get(subject.task, ())
    )


def every_masked() -> tuple[Subject, ...]:
    """Hidden tokens, which encoders learn in place of the next one: one encoder with each method, then others."""
    task = "continued-pretraining"
    loss, [first, *others] = loss_names(task)[0], ENCODERS
    tuned = (method for method in method_names() if MASKED not in _UNTUNED.get(method, ()))
    pairs = [*((first, method) for method in tuned), *((encoder, "full") for encoder in others)]
    return tuple(
        Subject(task=task, loss=loss, method=method, encoder=encoder, stored=MASKED) for encoder, method in pairs
    )


def every_encoder() -> tuple[Subject, ...]:
    """Each encoder as it may be stored, all of it tuned; and by updates beside it, where names are changed twice."""
    [task, *_] = task_names()
    pairs = [*((stored, "full") for stored in STORED), ("masked-lm", "lora")]
    return tuple(
        Subject(task=task, loss=loss_names(task)[0], method=method, encoder=encoder, stored=stored)
        for encoder, (stored, method) in itertools.product(ENCODERS, pairs)
    )


def every_vision() -> tuple[Subject, ...]:
    """Each vision model as it may be stored, all or a part of it tuned."""
    [task] = [task for task in task_names() if architecture_of(task) == "vision"]
    loss = loss_names(task)[0]
    return tuple(
        Subject(task=task, loss=loss, method=method, encoder=encoder, stored=stored)
        for encoder, stored, method in itertools.product(VISION, STORED_VISION, ("full", "head", "freeze"))
    )


def cover() -> tuple[Subject, ...]:
    """Few subjects with each task and each method, and with each loss, encoder and way of storing somewhere.

    Of the tasks that one module runs, the first stands for all.
    """
    return tuple(_cover())


def _cover() -> Iterator[Subject]:
    first = {module: task for task, module in reversed(list(MODULES.items()))}
    chosen = [task for task in task_names() if first[MODULES[task]] == task]
    others = [method for method in shared_methods() if method not in STAND_FOR_ALL]
    tuned = [[task for task in chosen if tunes(method, task)] for method in others]
    spread = [names[number % len(names)] for number, names in enumerate(tuned)]
    cases = [
        *((task, loss_names(task)[0], method) for task in chosen for method in STAND_FOR_ALL),
        *((task, loss_names(task)[0], method) for task, method in zip(spread, others, strict=True)),
        *((task, loss, STAND_FOR_ALL[0]) for task in chosen for loss in loss_names(task)[1:]),
    ]
    varied: list[Subject] = []
    for number, (task, loss, method) in enumerate(cases):
        subject = subject_of(task, loss, method, number)
        yield subject
        varied += variants_of([subject])
    yield from varied


def write(subject: Subject, folder: Path) -> Project:
    """The project of a subject, in an empty folder."""
    for name, table in ((subject.task, _TASKS), (subject.loss, _LOSSES), (subject.method, _METHODS)):
        if name not in table:
            raise LookupError(f"{name} has no case in tests/conformance/subjects.py")
    save_model(folder / "model", subject.encoder, subject.stored)
    written = [_answered(number, row) for number, row in enumerate(rows(NUM_ROWS))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    case, needed = _TASKS[subject.task], _OF_LOSS.get(subject.loss, {"task": {}, "columns": {}})
    varied = _VARIANTS[subject.task][subject.variant] if subject.variant else {"task": {}, "columns": case["columns"]}
    usual = case["training"] if subject.loss == loss_names(subject.task)[0] else {}  # smoothing is of one loss
    seeded = {"seed": _SEEDS[key]} if (key := (subject.task, subject.method)) in _SEEDS else {}
    recipe = {
        **RECIPE,
        "task": {"type": subject.task, **needed["task"], **varied["task"]},
        "dataset": {**RECIPE["dataset"], "columns": {**varied["columns"], **needed["columns"]}},
        "method": _METHODS[subject.method],
        "runtime": "auto" if len(runtimes_of(subject.method)) > 1 else runtimes_of(subject.method)[0],
        "training": {**_TRAINING, **usual, **seeded, "loss": _loss(subject)},
        "metrics": [],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    return Project(folder=folder, compiled=compile_recipe(load(folder / "recipe.json"), FACTS, parse_target("cpu")))


def _answered(number: int, row: Mapping[str, str]) -> dict[str, Any]:
    """A row with the answers of every task."""
    words = row["snippet"].split()
    place = next(place for place, word in enumerate(words) if word in (*GOOD, *BAD))
    tags = ["O"] * len(words)
    tags[place : place + 2] = [f"{prefix}-{row['sentiment']}" for prefix in "BI"][: len(words) - place]
    share = len(row["snippet"]) / 40 + (row["sentiment"] == "positive")
    moods = [row["sentiment"]][number % 5 == 0 :] + ["long"][len(row["snippet"]) < 40 :]
    picture = _picture(number, bright=row["sentiment"] == "positive")
    asked = " ".join((COMMON[number % 3], COMMON[number % 5]))
    spans = [{"text": words[place], "start": row["snippet"].index(words[place])}][number % 7 == 0 :]
    answers = {
        "share": share,
        "length": 1000 * len(words),
        "words": words,
        "tags": tags,
        "moods": moods,
        "picture": picture,
        "answers": spans,
    }
    return {**row, **answers, "asked": asked, "reversed": " ".join(words[::-1])}


def _picture(number: int, *, bright: bool) -> str:
    """An image within the row, of a size of its own, whose upper half is bright or whose lower half is."""
    from PIL import Image

    from runtimes.rows.images import png

    random = np.random.default_rng(number)
    pixels = random.integers(0, 200, (6 + number % 5, 7 + number % 3, 3)).astype(np.uint8)
    half = slice(0, len(pixels) // 2) if bright else slice(len(pixels) // 2, None)
    pixels[half] += np.uint8(55)
    return png(Image.fromarray(pixels))


def _loss(subject: Subject) -> Mapping[str, Any]:
    """The loss, its classes weighted where the task has classes."""
    weights = _TASKS[subject.task].get("weights")
    return {**_LOSSES[subject.loss], **({"class_weights": weights} if weights else {})}


def save_model(folder: Path, encoder: str, stored: str) -> None:
    """A random encoder without dropout, with the tokenizer of the rows' words."""
    import torch
    import transformers

    from runtimes.pytorch.quiet import quiet
    from tests.runtimes.mlx.architectures import ARCHITECTURES, SIDE

    architecture = ARCHITECTURES[encoder]
    config = architecture.config()
    if encoder in VISION:
        save_image_processor(folder, config, SIDE)
    elif stored == CAUSAL:
        config.vocab_size = save_causal_tokenizer(folder)
        config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 2, 3
    elif stored == SEQUENCE:
        halves = [config.encoder, config.decoder] if encoder == "encoder-decoder" else [config]
        vocabulary = save_tokenizer(folder, (*COMMON, *GOOD, *BAD))
        for half in halves:
            half.vocab_size = vocabulary
        config.pad_token_id, config.eos_token_id, config.decoder_start_token_id = 0, 3, 2
    else:
        config.vocab_size = save_tokenizer(folder, (*COMMON, *GOOD, *BAD), config.pad_token_id)
    for name in (*architecture.dropouts, *(("qa_dropout",) if hasattr(config, "qa_dropout") else ())):
        setattr(config, name, 0.0)
    heads = {
        "bare": "AutoModel",
        "masked-lm": "AutoModelForMaskedLM",
        "classifier": f"AutoModelFor{'Image' if encoder in VISION else 'Sequence'}Classification",
        CAUSAL: "AutoModelForCausalLM",
        SEQUENCE: "AutoModelForSeq2SeqLM",
    }
    if stored == "classifier":
        config.id2label = dict(enumerate(LABELS))
        config.label2id = {name: number for number, name in enumerate(LABELS)}
    torch.manual_seed(0)
    with quiet():
        getattr(transformers, heads[stored]).from_config(config).save_pretrained(folder)
