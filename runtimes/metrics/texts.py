"""Metrics of texts that were answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from compiler.metrics import (
    BLEU,
    CER,
    ROUGE,
    WER,
    AnswerExact,
    AnswerF1,
    ChrF,
    Distinct,
    ExactMatch,
    JSONValidity,
    MeanLength,
    Metric,
    name_of,
)
from compiler.scripts import words_of
from runtimes.metrics.answers import answer_exact, answer_f1, exact_match, valid_json
from runtimes.metrics.averages import divide
from runtimes.metrics.errors import character_error_rate, word_error_rate
from runtimes.metrics.overlap import bleu, chrf, ngrams, require_sacrebleu, rouge

RowScore = Callable[[str, str], float]
"""From a reference and an answer, a score from 0 to 1."""


def score_texts(metrics: Sequence[Metric], references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Each metric by its name, over the texts that rows have and that they were given. Raises RunError E402."""
    if len(references) != len(answers):
        raise ValueError(f"{len(answers)} answers for {len(references)} references")
    return {name_of(metric): measure_texts(metric, references, answers) for metric in metrics}


def score_accepted(
    metrics: Sequence[Metric], references: Sequence[Sequence[str]], answers: Sequence[str]
) -> dict[str, float]:
    """As `score_texts`, where any of several references will do: each row counts by its best.

    A row without any asks for no answer (SQuAD 2.0). Of metrics that are means over rows.
    """
    found = {}
    for metric in metrics:
        score = row_score(metric)
        if score is None:
            raise ValueError(f"{metric.type} is no mean over rows")
        rows = zip(references, answers, strict=True)
        found[name_of(metric)] = mean([max(score(text, answer) for text in there or ("",)) for there, answer in rows])
    return found


def measure_texts(metric: Metric, references: Sequence[str], answers: Sequence[str]) -> float:
    """One metric of texts. Raises RunError E402 where it needs a package that is missing."""
    score = row_score(metric)
    if score is not None:
        return mean([score(there, answer) for there, answer in zip(references, answers, strict=True)])
    match metric:
        case BLEU():
            return bleu(references, answers, metric.tokenization)
        case ChrF():
            return chrf(references, answers)
        case WER():
            return word_error_rate(references, answers)
        case CER():
            return character_error_rate(references, answers)
        case Distinct():
            return distinct(answers, metric.n)
        case MeanLength():
            return mean([len(words_of(answer)) for answer in answers])
        case _:
            raise ValueError(f"{metric.type} is no metric of texts")


def row_score(metric: Metric) -> RowScore | None:
    """How a metric scores a row, where it is the mean over rows."""
    match metric:
        case ExactMatch():
            return exact_match
        case AnswerExact():
            return answer_exact
        case AnswerF1():
            return answer_f1
        case ROUGE():
            return partial(rouge, variant=metric.variant)
        case JSONValidity():
            return partial(valid_json, keys=metric.keys)
        case _:
            return None


def require_packages(metrics: Iterable[Metric]) -> None:
    """Nothing where what the metrics need is installed: asked before hours of training. Raises RunError E402."""
    if any(isinstance(metric, (BLEU, ChrF)) for metric in metrics):
        require_sacrebleu()


def distinct(answers: Iterable[str], n: int) -> float:
    """Different n-grams of words over all n-grams of the answers (Li 2016); 0 where there are none."""
    found = [gram for answer in answers for gram in ngrams(words_of(answer), n)]
    return divide(len(set(found)), len(found))


def mean(scores: Sequence[float]) -> float:
    """The mean, the same in any order; 0 without rows."""
    return divide(math.fsum(scores), len(scores))
