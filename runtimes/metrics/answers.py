"""Whether a text is the answer that was asked for: 1 or 0 for a row, or a share of it."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from typing import Any

from compiler.scripts import Translation, script_of
from runtimes.metrics.errors import plain

ARTICLES = frozenset({"a", "an", "the"})
_MARKS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")  # ASCII's, also those that Unicode calls symbols


def exact_match(reference: str, answer: str) -> float:
    """1 where both are the same, but for spaces around and between words; case and punctuation count."""
    return float(plain(reference) == plain(answer))


def answer_exact(reference: str, answer: str) -> float:
    """1 where both have the same words in order, as `answer_words` reads them."""
    return float(answer_words(reference) == answer_words(answer))


def answer_f1(reference: str, answer: str) -> float:
    """F1 of the words that both have, each as often as both have it; without words, 1 where both have none."""
    there, given = answer_words(reference), answer_words(answer)
    if not there or not given:
        return float(there == given)
    return 2 * (Counter(there) & Counter(given)).total() / (len(there) + len(given))


def answer_words(text: str) -> list[str]:
    """Words in lower case, without punctuation and the articles a, an, the (SQuAD 1.1's evaluate-v1.1.py).

    Where a script has no spaces between words, its characters are the words (as CMRC 2018's cmrc2018_evaluate.py).
    """
    bare = unicodedata.normalize("NFC", text).lower().translate(_BARE)
    return [word for word in bare.split() if word not in ARTICLES]


def _bare(character: str) -> str:
    if character in _MARKS or unicodedata.category(character)[0] == "P":
        return ""
    return f" {character} " if script_of(character) else character


_BARE = Translation(_bare)


def valid_json(reference: str, answer: str, keys: tuple[str, ...] = ()) -> float:
    """1 where the answer is one JSON value (RFC 8259), and has the keys with the reference's values.

    A key that the reference does not have need only be there. A fence of backticks around the value is not JSON.
    """
    found = parse_json(answer)
    if found is None:
        return 0.0
    if not keys:
        return 1.0
    [value], expected = found, parse_json(reference)
    wanted = expected[0] if expected and isinstance(expected[0], dict) else {}
    has_keys = isinstance(value, dict) and all(
        key in value and (key not in wanted or same_json(value[key], wanted[key])) for key in keys
    )
    return float(has_keys)


def parse_json(text: str) -> tuple[Any] | None:
    """The value of a JSON text, alone in a tuple; None where it is not JSON."""
    try:
        return (json.loads(text, parse_constant=_refuse, parse_int=_integer),)
    except (ValueError, RecursionError):
        return None


def same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: 1 is 1.0, and true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")  # Python's own reader takes NaN and Infinity


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 1000 else float(digits)  # Python refuses to read integers of 4,300 digits
