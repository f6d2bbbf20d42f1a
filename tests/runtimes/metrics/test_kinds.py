"""Every metric of the language is counted, by the functions of one kind of answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from compiler.metrics import Metric, name_of
from compiler.typed import members
from runtimes.metrics.decisions import score_decisions
from runtimes.metrics.entities import score_entities
from runtimes.metrics.ranking import score_ranking
from runtimes.metrics.texts import score_texts
from runtimes.metrics.tokens import score_tokens
from runtimes.metrics.values import score_values

LABELS, TARGETS, NUMBERS = ("no", "yes"), np.asarray([0, 1]), np.asarray([0.5, 1.5])
Score = Callable[[Metric], dict[str, float]]
KINDS: dict[str, Score] = {
    "decisions": lambda metric: score_decisions((metric,), TARGETS, TARGETS, LABELS),
    "ranking": lambda metric: score_ranking((metric,), TARGETS, np.eye(2), LABELS),
    "values": lambda metric: score_values((metric,), NUMBERS, NUMBERS),
    "tokens": lambda metric: score_tokens((metric,), NUMBERS, np.asarray([True, False])),
    "entities": lambda metric: score_entities((metric,), [["B-X"]], [["B-X"]]),
    "texts": lambda metric: score_texts((metric,), ["a b"], ["a b"]),
}


def counted(score: Score, metric: Metric) -> bool:
    try:
        [found] = score(metric).items()
    except ValueError as error:
        if f"{metric.type} is no metric of" not in str(error):
            raise
        return False
    return found[0] == name_of(metric) and bool(np.isfinite(found[1]))


@pytest.mark.parametrize("metric", [owner() for owner in members(Metric)], ids=name_of)
def test_a_metric_is_counted_by_one_kind(metric: Metric) -> None:
    [_] = [name for name, score in KINDS.items() if counted(score, metric)]
