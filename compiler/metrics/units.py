"""What metrics of texts count: words, or characters where a script has no spaces. The references decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from compiler.auto import Choice
from compiler.metrics import BLEU, ROUGE, Distinct, MeanLength, Metric
from compiler.scripts import Tokenization

_WHY: Mapping[Tokenization, str] = {
    "13a": "most words of the references stand between spaces",
    "zh": "most words of the references are Chinese characters",
    "char": "most words of the references are characters of a script without spaces",
}


def settled(
    metrics: tuple[Metric, ...], references: Tokenization | None
) -> tuple[tuple[Metric, ...], tuple[Choice, ...]]:
    """The metrics, BLEU with a tokenization where it is left open, and what the references decided, with the reason.

    `references`: how BLEU parts them; None where nobody looked at them.
    """
    if references is None:
        return metrics, ()
    found = tuple(_settled(metric, references) for metric in metrics)
    return found, tuple(_choices(metrics, references))


def _settled(metric: Metric, references: Tokenization) -> Metric:
    match metric:
        case BLEU(tokenization="auto"):
            return replace(metric, tokenization=references)
        case _:
            return metric


def _choices(metrics: tuple[Metric, ...], references: Tokenization) -> Iterator[Choice]:
    for index, metric in enumerate(metrics):
        match metric:
            case BLEU(tokenization="auto"):
                yield Choice(pointer=f"/metrics/{index}/tokenization", value=references, reason=_WHY[references])
            case ROUGE() | Distinct() | MeanLength() if references != "13a":
                yield Choice(pointer=f"/metrics/{index}", value="of characters", reason=_WHY[references])
            case _:
                pass
