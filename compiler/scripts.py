"""Scripts: what the words of a text are, also where it stands without spaces between them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

Script = Literal["han", "kana", "southeast-asian"]
Tokenization = Literal["13a", "zh", "char"]
"""sacrebleu's ways to part a text: words and punctuation, Chinese characters, all characters."""

# First and last code point (Unicode Blocks.txt); half-width kana and compatibility ideographs are gone after NFKC.
_BLOCKS: tuple[tuple[int, int, Script], ...] = (
    (0x2E80, 0x2FDF, "han"),
    (0x3005, 0x3007, "han"),
    (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"),
    (0xF900, 0xFAFF, "han"),
    (0x20000, 0x3FFFF, "han"),
    (0x3041, 0x30FF, "kana"),
    (0x31F0, 0x31FF, "kana"),
    (0x0E00, 0x0EFF, "southeast-asian"),  # Thai, Lao
    (0x1000, 0x109F, "southeast-asian"),  # Burmese
    (0x1780, 0x17FF, "southeast-asian"),  # Khmer
)


def script_of(character: str) -> Script | None:
    """The script of a character, where it is one that is written without spaces between words."""
    code = ord(character)
    return next((script for first, last, script in _BLOCKS if first <= code <= last), None)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; single characters where a script has no spaces.

    A word is a run of letters, marks and numbers, after NFKC: full-width and composed forms are one.
    """
    return unicodedata.normalize("NFKC", text).lower().translate(_PLACES).split()


class Translation(dict[int, str]):
    """What `str.translate` puts for a character, by a function that is asked once for each."""

    def __init__(self, of: Callable[[str], str]) -> None:
        super().__init__()
        self.of = of

    def __missing__(self, code: int) -> str:
        found = self[code] = self.of(chr(code))
        return found


def _place(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # joiners and soft hyphens are no part of a word, and do not end one
        return ""
    if category[0] not in "LMN":
        return " "
    return f" {character} " if script_of(character) else character


_PLACES = Translation(_place)


def tokenization_of(texts: Iterable[str]) -> Tokenization:
    """How BLEU parts texts like these: by what most of their words are.

    "zh" where most are Chinese characters, "char" where most are Japanese (with kana among them) or Thai, Lao, Burmese
    or Khmer, else "13a". sacrebleu's Japanese words need MeCab, so characters stand in for them.
    """
    scripts = Counter(script_of(word[0]) for text in texts for word in words_of(text))
    unspaced = scripts.total() - scripts[None]
    if 2 * unspaced <= scripts.total():
        return "13a"
    # A Chinese text may quote a kana, and half of a Japanese one is kana.
    return "zh" if scripts["han"] > 0.9 * unspaced else "char"
