"""Error rates of transcripts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from runtimes.metrics.alignment import edit_distance


def word_error_rate(references: Iterable[str], answers: Iterable[str]) -> float:
    """Edits over all rows per word of the references; words are what stands between spaces, case and marks count.

    More than 1 where answers are longer. Where the references have no word at all, the edits.
    """
    return _rate([plain(text).split() for text in references], [plain(text).split() for text in answers])


def character_error_rate(references: Iterable[str], answers: Iterable[str]) -> float:
    """As `word_error_rate`, of characters; a run of spaces counts as one."""
    return _rate([plain(text) for text in references], [plain(text) for text in answers])


def plain(text: str) -> str:
    """The text in NFC, with one space where there are some, and none around it."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _rate(references: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> float:
    edits = sum(edit_distance(there, answer) for there, answer in zip(references, answers, strict=True))
    return edits / max(sum(map(len, references)), 1)
