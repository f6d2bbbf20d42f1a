"""The metrics a recipe can name: a module for each kind of answer, a frozen dataclass for each metric.

A new one: its dataclass in the module of its kind, a member of `Metric` here, its formula in runtimes/metrics/, its
word in the METRICS of the tasks that have it; `make schema`.
"""

from __future__ import annotations

from compiler.metrics.decisions import AUROC, F1, Accuracy, Matthews, OfClasses, Precision, Recall
from compiler.metrics.entities import EntityF1, EntityPrecision, EntityRecall
from compiler.metrics.texts import (
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
)
from compiler.metrics.tokens import Perplexity, TokenAccuracy
from compiler.metrics.values import MAE, MSE, R2, RMSE, Pearson, Spearman

__all__ = [
    "AUROC",
    "BLEU",
    "CER",
    "F1",
    "LOWER_IS_BETTER",
    "MAE",
    "MSE",
    "R2",
    "RMSE",
    "ROUGE",
    "UNRANKED",
    "WER",
    "Accuracy",
    "AnswerExact",
    "AnswerF1",
    "ChrF",
    "Distinct",
    "EntityF1",
    "EntityPrecision",
    "EntityRecall",
    "ExactMatch",
    "JSONValidity",
    "Matthews",
    "MeanLength",
    "Metric",
    "OfClasses",
    "Pearson",
    "Perplexity",
    "Precision",
    "Recall",
    "Spearman",
    "TokenAccuracy",
    "name_of",
]

DecisionMetric = Accuracy | F1 | Precision | Recall | Matthews | AUROC
ValueMetric = MSE | RMSE | MAE | Pearson | Spearman | R2
TokenMetric = Perplexity | TokenAccuracy
EntityMetric = EntityF1 | EntityPrecision | EntityRecall
AnswerMetric = ExactMatch | AnswerExact | AnswerF1 | JSONValidity
TextMetric = AnswerMetric | BLEU | ChrF | ROUGE | Distinct | MeanLength | WER | CER
Metric = DecisionMetric | ValueMetric | TokenMetric | EntityMetric | TextMetric

LOWER_IS_BETTER = frozenset({"loss", "mse", "rmse", "mae", "perplexity", "wer", "cer"})
"""Names of metrics of which less is better; of all others, more."""
UNRANKED = frozenset({"mean-length"})
"""Names of metrics of which neither is better: they choose no checkpoint, and the gate lets them move."""


def name_of(metric: Metric) -> str:
    """The name by which reports list a metric: its type, and what was chosen of it where there is a choice."""
    match metric:
        case F1() | Precision() | Recall() | AUROC() | EntityF1() | EntityPrecision() | EntityRecall():
            return f"{metric.type}_{metric.average}"
        case ROUGE():
            return f"{metric.type}_{metric.variant}"
        case Distinct():
            return f"{metric.type}_{metric.n}"
        case JSONValidity():
            return "_".join((metric.type, *metric.keys))
        case _:
            return metric.type
