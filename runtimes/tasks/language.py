"""What the tasks of language models have in common: what is learnt of a text's tokens, and how it is measured."""

# P = positions (tokens of all rows), C = figures of a position (see readings)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric, Perplexity, TokenAccuracy
from compiler.tasks import Task
from runtimes.metrics.tokens import score_tokens
from runtimes.rows.features import IGNORED, TARGETS, TOKENS, Column, Portion, Ragged
from runtimes.rows.readings import BEST, NUM_FIGURES, TARGET, decide_tokens
from runtimes.tasks.interface import Array, Floats, Head
from runtimes.verification.gate import Decide, Scores

VARY = None
HEAD = Head(
    auto_class="AutoModelForCausalLM",
    peft_task="CAUSAL_LM",
    config={},
    num_outputs=NUM_FIGURES,
    reading="tokens",
    arguments={"use_cache": False},
    cached=True,
    pretrained=True,
)
"""The head that a decoder has of its own: a logit for each token of the vocabulary."""


def decider(task: Task) -> Decide:
    """The likeliest token."""
    return decide_tokens


def learns(task: Task) -> bool:
    """Nothing."""
    return False


def fit(task: Task, targets: Ragged, outputs: Ragged) -> Task:
    """The task as it is."""
    return task


def token_columns(pad_token_id: int) -> tuple[Column, ...]:
    """Token ids, and of each the one that follows it, where that is to be learnt."""
    return (
        Column(name="input_ids", dtype="int32", axis=TOKENS, padding=pad_token_id),
        Column(name=TARGETS, dtype="int32", axis=TOKENS, padding=IGNORED),
    )


def next_tokens(ids: Sequence[Array], learnt: Sequence[Array], truncated: int) -> Portion:
    """The columns of some rows. `learnt`: of each token whether it is to be learnt, from those before it."""
    return Portion(
        ragged={"input_ids": ids, TARGETS: [_following(*row) for row in zip(ids, learnt, strict=True)]},
        fixed={},
        truncated=truncated,
    )


def _following(ids: Array, learnt: Array) -> Array:
    """[T] the next token of each; IGNORED where that is not to be learnt, and at the end."""
    following = np.full(len(ids), IGNORED, np.int32)
    following[:-1] = np.where(learnt[1:], ids[1:], IGNORED)
    return following


def counted(targets: Array) -> npt.NDArray[np.float32]:
    """One for each target."""
    return np.asarray(targets != IGNORED, np.float32)


def token_losses(outputs: Floats) -> npt.NDArray[np.float64]:
    """[P] cross-entropy in nats."""
    return -outputs[:, TARGET].astype(np.float64)


def score_targets(metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name, over the tokens that were to be learnt; those of written texts are left out."""
    metrics = [metric for metric in metrics if isinstance(metric, (Perplexity, TokenAccuracy))]
    learnt_P = targets.values != IGNORED
    figures_PC = outputs.values[learnt_P]
    hits_P = figures_PC[:, TARGET] >= figures_PC[:, BEST]
    return score_tokens(metrics, token_losses(figures_PC), hits_P)


def settle_figures(
    task: Task, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float
) -> Scores:
    """The other side's figures, but the source's where the difference is within the tolerance, or excused."""
    if source.shape != other.shape:
        return other
    settled: Scores = np.where(excused[:, None] | (np.abs(source - other) <= tolerance), source, other)
    return settled


def no_details(targets: Ragged, outputs: Ragged) -> dict[str, Any]:
    """How many tokens were scored."""
    return {"tokens": int((targets.values != IGNORED).sum())}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """None: the metrics say it."""
    return []


def name_faults(task: Task, config: Any) -> tuple[int, tuple[str, ...]]:
    """Whether config.json speaks of a language model, as readers of the transformers layout ask it."""
    named = config.get("architectures") if isinstance(config, dict) else None
    fits = isinstance(named, list) and any("LM" in str(name) for name in named)
    return 1, () if fits else (f"architectures in config.json are {named}, none of a language model",)
