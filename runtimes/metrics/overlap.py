"""What texts share: ROUGE, BLEU and chrF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Literal

from compiler.scripts import Tokenization, tokenization_of, words_of
from runtimes.errors import RunError
from runtimes.metrics.alignment import common_length

Variant = Literal["1", "2", "l"]


def rouge(reference: str, answer: str, variant: Variant) -> float:
    """F1 of shared n-grams of words, or of the longest common sequence of words (Lin 2004), from 0 to 1.

    Words by `compiler.scripts.words_of`, not stemmed. Where neither text has an n-gram: whether the words are the same.
    """
    there, given = words_of(reference), words_of(answer)
    if variant == "l":
        shared, total = common_length(there, given), len(there) + len(given)
    else:
        pieces, others = (Counter(ngrams(words, int(variant))) for words in (there, given))
        shared, total = (pieces & others).total(), pieces.total() + others.total()
    return 2 * shared / total if total else float(there == given)


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Each run of n words."""
    return zip(*(words[place:] for place in range(n)), strict=False)


def bleu(references: Sequence[str], answers: Sequence[str], tokenization: Tokenization | Literal["auto"]) -> float:
    """BLEU over all rows by sacrebleu, from 0 to 100; 0 without rows.

    As its default, but where no answer has as many as 4 words the longer n-grams are left out: equal texts give 100.
    """
    metrics = require_sacrebleu()
    if not answers:
        return 0.0
    chosen = tokenization_of(references) if tokenization == "auto" else tokenization
    scorer = metrics.BLEU(tokenize=chosen, effective_order=True, force=True)  # force: no advice in the log
    return float(scorer.corpus_score(list(answers), [list(references)]).score)


def chrf(references: Sequence[str], answers: Sequence[str]) -> float:
    """The chrF2 over all rows by sacrebleu, from 0 to 100; 0 without rows."""
    metrics = require_sacrebleu()
    return float(metrics.CHRF().corpus_score(list(answers), [list(references)]).score) if answers else 0.0


def require_sacrebleu() -> ModuleType:
    """The package. Raises RunError E402 where it is missing."""
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise RunError(
            "E402", f"sacrebleu counts BLEU and chrF: {error}", 'install it: pip install "recipec[text]"'
        ) from error
    return sacrebleu.metrics
