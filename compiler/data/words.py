"""Words of a text, tags of words, and spans of characters. Both halves read tagged rows through here."""

from __future__ import annotations

import string
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from compiler.data.texts import label_names

OUTSIDE = "O"
"""The tag of a word in no entity."""
_PREFIXES = "BIESLU"  # of tags: BIO (IOB2), BIOES and BILOU (Ramshaw and Marcus 1995; Ratinov and Roth 2009)
_IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))


class Range(NamedTuple):
    """Characters of a text: the first, and the one after the last."""

    start: int
    end: int


class Tagged(NamedTuple):
    """A row as it is tokenized: its text, where its words are, and their tags; no tags where nothing is answered."""

    text: str
    words: tuple[Range, ...]
    tags: tuple[str, ...]


def tagged(row: Mapping[str, Any]) -> Tagged:
    """The text, words and tags of a row by role: of tokens with tags, or of a text with spans.

    Tokens are put together with spaces: so every tokenizer sees them as it sees words of a text.
    """
    if "tokens" in row:
        text, words = joined(row["tokens"])
        return Tagged(text, words, tuple(row.get("tags", ())))
    words = words_of(row["text"])
    tags = tags_of_spans(words, row["spans"]) if "spans" in row else ()
    return Tagged(row["text"], words, tags)


def text_of_row(row: Mapping[str, Any]) -> str:
    """The text that is tokenized."""
    return joined(row["tokens"])[0] if "tokens" in row else str(row["text"])


def joined(tokens: Sequence[str]) -> tuple[str, tuple[Range, ...]]:
    """The tokens with a space between each two, and where they are in that."""
    ends = list(accumulate(len(token) + 1 for token in tokens))
    words = tuple(Range(end - 1 - len(token), end - 1) for token, end in zip(tokens, ends, strict=True))
    return " ".join(tokens), words


def words_of(text: str) -> tuple[Range, ...]:
    """The words of a text, as BERT splits one: at spaces, each punctuation mark and ideograph by itself."""
    return tuple(_words(text))


def _words(text: str) -> Iterator[Range]:
    start = -1
    for place, char in enumerate(text):
        alone = not char.isspace() and _stands_alone(char)
        if start >= 0 and (alone or char.isspace()):
            yield Range(start, place)
            start = -1
        if alone:
            yield Range(place, place + 1)
        elif start < 0 and not char.isspace():
            start = place
    if start >= 0:
        yield Range(start, len(text))


def _stands_alone(char: str) -> bool:
    if char < "\x80":
        return char in string.punctuation
    return unicodedata.category(char).startswith("P") or any(low <= ord(char) <= high for low, high in _IDEOGRAPHS)


def covered(words: Sequence[Range], start: int, end: int) -> range:
    """The numbers of the words that have a character of a span."""
    first = bisect_right(words, start, key=lambda word: word.end)
    return range(first, max(first, bisect_left(words, end, key=lambda word: word.start)))


def tags_of_spans(words: Sequence[Range], spans: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """For each word B- or I- and the label of its span, or O. A span that ends inside a word has the whole word."""
    tags = [OUTSIDE] * len(words)
    for span in spans:
        inside = covered(words, span["start"], span["end"])
        for number in inside:
            tags[number] = f"{'B' if number == inside.start else 'I'}-{span['label']}"
    return tuple(tags)


def shared_word(words: Sequence[Range], spans: Sequence[Mapping[str, Any]]) -> Range | None:
    """The first word of which two spans, in order, have a part; None where each has its own words."""
    taken = [covered(words, span["start"], span["end"]) for span in spans]
    return next((words[after.start] for before, after in pairwise(taken) if after.start < before.stop), None)


# --- tags


def is_prefixed(tag: str) -> bool:
    """Whether a tag is a prefix, a dash and a kind of entity."""
    return len(tag) > 2 and tag[0] in _PREFIXES and tag[1] == "-"


def are_prefixed(tags: Iterable[str]) -> bool:
    """Whether tags are of entities: O, or prefix and kind, each. Others are plain: parts of speech, say."""
    return all(tag == OUTSIDE or is_prefixed(tag) for tag in tags)


def kind_of(tag: str) -> str:
    """The kind of entity that a tag names; a plain tag is its own."""
    return tag[2:] if is_prefixed(tag) else tag


def bio_tags(kinds: Iterable[str]) -> tuple[str, ...]:
    """O, then B- and I- of each kind."""
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in dict.fromkeys(kinds) for prefix in "BI"))


def in_order(tags: Iterable[str]) -> tuple[str, ...]:
    """The distinct tags: O first, then by kind, B- before I-."""
    distinct = set(tags)
    places = {kind: place for place, kind in enumerate(label_names(map(kind_of, distinct)))}
    return tuple(sorted(distinct, key=lambda tag: (tag != OUTSIDE, places[kind_of(tag)], _PREFIXES.find(tag[:1]), tag)))
