"""Tiny projects whose bundles the clients of others open: one for each task that such a client has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tests.asked import write_asked
from tests.conformance.subjects import SEQUENCE, save_model
from tests.tagged import write_tagged
from tests.tiny import (
    BAD,
    COMMON,
    GOOD,
    prompts,
    rows,
    save_masked_encoder,
    save_tokenizer,
    write_language_project,
    write_project,
)

TRAINING: Mapping[str, Any] = {"max_steps": 40, "learning_rate": 5e-3, "batch_size": 16, "keep": "last"}
NUM_ROWS = 160
SIDE = 8
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def name_special_tokens(model: Path) -> None:
    """Says in tokenizer.json which tokens are special, as every real one does: answers are read without them."""
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    kinds = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    number_of = tokenizer["model"]["vocab"]
    tokenizer["added_tokens"] = [{"id": number_of[word], "content": word, **kinds} for word in SPECIAL]
    tokenizer["added_tokens"].sort(key=lambda token: token["id"])
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


def labels(folder: Path) -> Path:
    """Texts that are good or bad."""
    return write_project(folder, num_rows=NUM_ROWS, training=TRAINING)


PRECISIONS = ("int8", "fp16", "int4")


def precisions(folder: Path) -> Path:
    """Texts that are good or bad, by graphs in fewer bits."""
    export = [{"format": "onnx", "precision": name, "max_metric_drop": 0.5} for name in PRECISIONS]
    return write_project(folder, num_rows=NUM_ROWS, training=TRAINING, export=export)


def label_sets(folder: Path) -> Path:
    """Texts with any number of labels."""
    sets = {"positive": ["praise", "short"], "negative": ["blame"]}
    write_project(
        folder,
        task={"type": "text-classification", "multi_label": True},
        training=TRAINING,
        metrics=[],
    )
    lines = [json.dumps({**row, "sentiment": sets[row["sentiment"]]}) for row in rows(NUM_ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def tags(folder: Path) -> Path:
    """Words of praise and blame."""
    return write_tagged(folder, num_rows=NUM_ROWS, training=TRAINING)


def asked(folder: Path) -> Path:
    """Questions about texts."""
    return write_asked(folder, num_rows=NUM_ROWS, training={**TRAINING, "max_steps": 120})


def masked(folder: Path) -> Path:
    """Texts of which words are hidden."""
    nouns = ("movie", "film", "plot", "actor")
    parts = [*product(nouns, GOOD, nouns, BAD)][::2]
    lines = [{"text": f"the {one} was very {good} and a {other} is {bad}"} for one, good, other, bad in parts]
    return write_language_project(
        folder,
        lines,
        save=save_masked_encoder,
        task="continued-pretraining",
        training={**TRAINING, "batch_size": 8},
        export=["onnx"],
    )


def written(folder: Path) -> Path:
    """Prompts of a language model, and what comes after them."""
    return write_language_project(
        folder,
        prompts(NUM_ROWS),
        task="text-generation",
        training={**TRAINING, "batch_size": 8, "max_length": 48},
        generation={"max_new_tokens": 6, "rows": 10},
        metrics=["perplexity"],
        export=["onnx"],
    )


def save_marian(folder: Path) -> None:
    """A random Marian whose weights are so large that what it writes depends on what it reads."""
    import torch
    from transformers import MarianMTModel

    from runtimes.pytorch.quiet import quiet
    from tests.runtimes.pairs import MODELS, PAD

    config = MODELS["marian"][1]()
    config.vocab_size = config.decoder_vocab_size = save_tokenizer(folder, (*COMMON, *GOOD, *BAD), PAD)
    torch.manual_seed(1)
    with quiet():
        MarianMTModel(config).save_pretrained(folder)


def save_t5(folder: Path) -> None:
    """A random T5."""
    save_model(folder, "t5", SEQUENCE)


def save_bart(folder: Path) -> None:
    """A random BART."""
    save_model(folder, "bart", SEQUENCE)


def pairs(folder: Path, save: Callable[[Path], None], method: str = "full") -> Path:
    """Texts that are made of others by an encoder-decoder."""
    folder.mkdir(parents=True)
    save(folder / "model")
    told = {"positive": "the movie is good", "negative": "bad plot"}
    lines = [json.dumps({"en": row["snippet"], "said": told[row["sentiment"]]}) for row in rows(NUM_ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "recipe": 1,
        "name": "tiny",
        "task": "text-to-text",
        "dataset": {
            "train": "rows.jsonl",
            "validation": {"fraction": 0.1},
            "test": {"fraction": 0.1},
            "columns": {"source": "en", "target": "said"},
        },
        "model": "./model",
        "method": method,
        "training": {**TRAINING, "max_steps": 120},
        "generation": {"max_new_tokens": 8, "rows": 10},
        "export": ["onnx"],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    return folder


def photos(folder: Path) -> Path:
    """Dark and light images, each of the size that the model reads."""
    from PIL import Image

    from tests.cli.test_images import RECIPE, save_vit

    folder.mkdir(parents=True)
    save_vit(folder / "model")
    random = np.random.default_rng(0)
    for number in range(NUM_ROWS):
        pixels = random.integers(0, 160, (SIDE, SIDE, 3)).astype(np.uint8) + np.uint8(90 * (number % 2))
        path = folder / "photos" / ("dark", "light")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    recipe = {**RECIPE, "task": "image-classification", "training": TRAINING}
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    return folder


PROJECTS: Mapping[str, Callable[[Path], Path]] = {
    "labels": labels,
    "label-sets": label_sets,
    "precisions": precisions,
    "tags": tags,
    "asked": asked,
    "masked": masked,
    "written": written,
    "photos": photos,
    "t5": lambda folder: pairs(folder, save_t5),
    "t5-prompt": lambda folder: pairs(folder, save_t5, "prompt"),
    "bart": lambda folder: pairs(folder, save_bart),
    "marian": lambda folder: pairs(folder, save_marian),
}


def write(kind: str, folder: Path) -> Path:
    """The folder, with a project of this kind in it."""
    PROJECTS[kind](folder)
    if (folder / "model" / "tokenizer.json").exists():
        name_special_tokens(folder / "model")
    return folder
