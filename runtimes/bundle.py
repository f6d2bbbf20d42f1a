"""A bundle: one folder from which the tuned model answers, with onnxruntime, tokenizers and numpy alone."""

# Axes: B = rows, T = tokens, C = classes, N = texts

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from runtimes.errors import RunError
from runtimes.golden import Golden, read_golden
from runtimes.manifest import Manifest, broken, read_json, read_manifest
from runtimes.tokens import Encoder, Tokens, chunks, open_encoder

if TYPE_CHECKING:
    from runtimes.export.session import Session

GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
LABELS = "labels.json"
GOLDEN = "golden.jsonl"
OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
"""Files that other readers of the tokenizer want; carried where the model has them."""
BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The label decided for a text, its probability, and that of every label."""

    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle. The graph is loaded on first use."""

    folder: Path
    manifest: Manifest
    labels: tuple[str, ...]
    encoder: Encoder = field(repr=False)
    threads: int

    def predict(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> list[Prediction]:
        """A prediction for each text, in order. Raises RunError when the graph does not run."""
        probabilities_NC = softmax(self.scores(texts, batch_size))
        return [self._prediction(row_C) for row_C in probabilities_NC]

    def scores(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> npt.NDArray[np.float32]:
        """Logits [N, C], in order. Texts of like length share a batch, so that little is padded."""
        rows = list(self.encoder.encode(texts))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        found_NC = np.empty((len(rows), len(self.labels)), np.float32)
        for indices in chunks(order, batch_size):
            found_NC[indices] = self.score_rows([rows[index] for index in indices])
        return found_NC

    def score_rows(self, rows: Sequence[Tokens]) -> npt.NDArray[np.float32]:
        """Logits [B, C] of rows as one batch, padded."""
        logits_BC = self.session.scores(self.encoder.pad(rows))
        if logits_BC.shape[1] != len(self.labels):
            message = f"{LABELS} names {len(self.labels)} labels, the graph scores {logits_BC.shape[1]}"
            raise broken(self.folder, message)
        return logits_BC

    def golden(self) -> tuple[Golden, ...]:
        """The golden rows. Raises RunError E601."""
        try:
            return read_golden(self.folder / GOLDEN)
        except (OSError, ValueError) as error:
            raise broken(self.folder, f"{GOLDEN} can't be read: {error}") from error

    @cached_property
    def session(self) -> Session:
        """The graph, opened as the gate opened it. Raises RunError."""
        try:
            from runtimes.export.session import open_session
        except ImportError as error:
            raise RunError(
                "E402", f"a bundle runs on onnxruntime: {error}", 'install it: pip install "recipec[predict]"'
            ) from error
        return open_session(self.folder / GRAPH, threads=self.threads)

    def _prediction(self, row_C: npt.NDArray[np.float64]) -> Prediction:
        best = int(row_C.argmax())
        scores = dict(zip(self.labels, row_C.tolist(), strict=True))
        return Prediction(label=self.labels[best], score=float(row_C[best]), scores=scores)


def open_bundle(folder: Path, *, threads: int = 0) -> Bundle:
    """The bundle in a folder. `threads`: 0 for one a core. Raises RunError E601 when it is not a whole bundle."""
    manifest = read_manifest(folder)
    for name in (GRAPH, TOKENIZER, CONFIG, LABELS, GOLDEN):
        if not (folder / name).is_file():
            raise broken(folder, f"{name} is missing")
    return Bundle(
        folder=folder,
        manifest=manifest,
        labels=_labels(folder),
        encoder=_encoder(folder, manifest),
        threads=threads,
    )


def softmax(scores_NC: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities [N, C]."""
    if not scores_NC.size:
        return scores_NC.astype(np.float64)
    shifted_NC = np.exp(scores_NC.astype(np.float64) - scores_NC.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float64] = shifted_NC / shifted_NC.sum(axis=1, keepdims=True)
    return found


def config_labels(config: object) -> tuple[str, ...]:
    """The label names of a config.json by their numbers; none where it does not name them."""
    names = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(names, dict):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=lambda key: int(key) if key.isdecimal() else -1))


def _labels(folder: Path) -> tuple[str, ...]:
    value = read_json(folder, LABELS)
    if not (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        raise broken(folder, f"{LABELS} is not a list of label names")
    if len(set(value)) < len(value):
        raise broken(folder, f"{LABELS} has a name twice")
    return tuple(value)


def _encoder(folder: Path, manifest: Manifest) -> Encoder:
    try:
        return open_encoder(folder / TOKENIZER, max_length=manifest.max_length, pad_id=_pad_id(folder))
    except (OSError, ValueError) as error:
        raise broken(folder, f"{TOKENIZER} can't be read: {error}") from error


def _pad_id(folder: Path) -> int:
    """The padding token's id, which config.json or else the tokenizer's own padding names; 0 when neither does."""
    config, tokenizer = read_json(folder, CONFIG), read_json(folder, TOKENIZER)
    padding = tokenizer.get("padding") if isinstance(tokenizer, dict) else None
    for found in (config, padding):
        value = found.get("pad_token_id", found.get("pad_id")) if isinstance(found, dict) else None
        if isinstance(value, int):
            return value
    return 0
