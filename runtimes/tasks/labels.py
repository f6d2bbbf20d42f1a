"""Labels: what the tasks share whose outputs are logits of a few names."""

# N = rows or positions, C = labels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.recipe import CrossEntropy, Focal
from runtimes.tasks.interface import Array, Floats

LABELS = "labels.json"
"""The file of a bundle with the names in order."""


_LISTED = 12


def listed(names: Sequence[str]) -> str:
    """Names for a card: each as code in one line, at most twelve of them."""
    shown = ", ".join(f"`{' '.join(name.replace('`', chr(39)).split())}`" for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def label_config(names: Sequence[str]) -> dict[str, Any]:
    """What config.json says of a head with these labels."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def label_weights(loss: CrossEntropy | Focal, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """[C] the weight of each label."""
    if isinstance(loss.class_weights, str):
        return np.ones(len(names), np.float32)
    return np.array([loss.class_weights[name] for name in names], np.float32)


def cross_entropy(logits: Floats, targets: Array) -> npt.NDArray[np.float64]:
    """[N] the negative log-likelihood of each target in nats."""
    logits_NC = logits.astype(np.float64)
    if not logits_NC.size:
        return np.zeros(len(logits_NC))
    shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
    chosen_N = shifted_NC[np.arange(len(targets)), targets]
    found: npt.NDArray[np.float64] = np.log(np.exp(shifted_NC).sum(axis=1)) - chosen_N
    return found


def softmax(scores: Floats) -> npt.NDArray[np.float64]:
    """Probabilities [N, C]."""
    scores_NC = scores.astype(np.float64)
    if not scores_NC.size:
        return scores_NC
    shifted_NC = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float64] = shifted_NC / shifted_NC.sum(axis=1, keepdims=True)
    return found


def read_labels(read: Callable[[str], Any]) -> tuple[str, ...]:
    """The names that a bundle has in labels.json. Raises ValueError."""
    names = read(LABELS)
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{LABELS} is not a list of label names")
    if len(set(names)) < len(names):
        raise ValueError(f"{LABELS} has a name twice")
    return tuple(names)


def label_faults(ours: Sequence[str], config: Any) -> tuple[int, tuple[str, ...]]:
    """How many label names config.json has, and where they are not those of labels.json."""
    named = _config_labels(config)
    faults = [
        f"number {number} is {our} in {LABELS} and {their} in config.json"
        for number, (our, their) in enumerate(zip(ours, named, strict=False))
        if our != their
    ]
    if len(named) != len(ours):
        faults.append(f"{len(ours)} in {LABELS}, {len(named)} in config.json")
    return len(named), tuple(faults)


def _config_labels(config: Any) -> tuple[str, ...]:
    """The label names of a config.json by their numbers; none where it does not name them."""
    names: Mapping[str, Any] | None = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(names, dict):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=lambda key: int(key) if key.isdecimal() else -1))
