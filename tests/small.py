"""A recipe with rows and a model of two layers, written without a framework."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models


def write_without_framework(folder: Path) -> Path:
    """The folder, with r.json, rows.jsonl and model/ in it."""
    write_model(folder / "model")
    rows = [{"text": f"{word} {number}", "label": word} for number in range(30) for word in ("good", "bad")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "recipe": 1,
        "name": "case",
        "task": "text-classification",
        "dataset": {"train": "rows.jsonl"},
        "model": "./model",
    }
    (folder / "r.json").write_text(json.dumps(recipe), encoding="utf-8")
    return folder


def write_model(folder: Path) -> None:
    """Writes a model of two layers with its tokenizer."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "num_hidden_layers": 2,
        "hidden_size": 4,
        "vocab_size": 3,
        "max_position_embeddings": 64,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {f"encoder.layer.{n}.attention.self.query.weight": np.zeros((4, 4), np.float32) for n in range(2)}
    tensors["embeddings.word_embeddings.weight"] = np.zeros((3, 4), np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "good": 1, "bad": 2}, unk_token="[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))
