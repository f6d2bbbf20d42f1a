"""Diagnostics: what is wrong, where, and what to do about it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
Format = Literal["text", "json", "github", "sarif"]
_SHOWN = 40  # characters of a value in a message


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """A position in a text that the author wrote: line and column count from 1, in characters."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding. `pointer` is the JSON Pointer (RFC 6901) of the value it speaks of."""

    code: str
    message: str
    at: Place
    pointer: str = ""
    hint: str = ""
    severity: Severity = "error"

    def to_json(self) -> dict[str, object]:
        """A JSON object with the diagnostic's fields."""
        return {
            "code": self.code,
            "severity": self.severity,
            "file": self.at.file,
            "line": self.at.line,
            "column": self.at.column,
            "pointer": self.pointer,
            "message": self.message,
            "hint": self.hint,
        }


class RecipeError(Exception):
    """The recipe is wrong: carries every finding of the pass that failed."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.at}: {d.code}: {d.message}" for d in self.diagnostics))


def errors(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """The findings that stop a compilation."""
    return tuple(d for d in diagnostics if d.severity == "error")


def stop_on_error(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """The findings, when none is an error; raises RecipeError with all of them otherwise."""
    found = in_order(diagnostics)
    if errors(found):
        raise RecipeError(found)
    return found


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """The findings by place, without repeats."""
    return tuple(sorted(dict.fromkeys(diagnostics), key=lambda d: (d.at, d.code, d.message)))


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, or None when nothing is alike."""
    import difflib

    known = list(choices)
    folded = {choice.casefold(): choice for choice in known}
    found = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def did_you_mean(word: str, choices: Iterable[str], *, noun: str = "") -> str:
    """A hint: the nearest choice if one is near, else what there is to choose from."""
    known = sorted(choices)
    best = nearest(word, known)
    if best is not None:
        return f'did you mean "{best}"?'
    if not known:
        return "remove it"
    listed = ", ".join(known[:12]) + (f", and {len(known) - 12} more" if len(known) > 12 else "")
    return f"{noun or 'known'}: {listed}"


def render(diagnostics: Sequence[Diagnostic], form: Format) -> str:
    """The findings as text for a person, JSON, GitHub workflow commands, or SARIF 2.1.0."""
    match form:
        case "text":
            return "\n".join(_text(d) for d in diagnostics)
        case "json":
            return json.dumps([d.to_json() for d in diagnostics], indent=2)
        case "github":
            return "\n".join(_github(d) for d in diagnostics)
        case "sarif":
            return json.dumps(_sarif(diagnostics), indent=2)


def _text(d: Diagnostic) -> str:
    about = f" {d.pointer}:" if d.pointer else ""
    lines = [f"{d.at}: {d.severity}[{d.code}]{about} {d.message}", *([f"    hint: {d.hint}"] if d.hint else [])]
    return "\n".join(printable(line) for line in lines)


def printable(text: str) -> str:
    """The text on one line, with what a terminal would obey (control characters, line breaks) as escapes.

    Spaces of every width stay: texts in Chinese and Japanese have them.
    """
    shown = (c if c.isprintable() or unicodedata.category(c) == "Zs" else _as_escape(c) for c in text)
    return "".join(shown)


def _as_escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def counted(count: int, noun: str) -> str:
    """A number of things: 1 row, 2,000 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short(text: str) -> str:
    """The text, cut at 40 characters."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _github(d: Diagnostic) -> str:
    level = {"error": "error", "warning": "warning", "note": "notice"}[d.severity]
    body = printable(d.message) + (f"\n{printable(d.hint)}" if d.hint else "")
    where = f"file={_property(d.at.file)},line={d.at.line},col={d.at.column},title={_property(d.code)}"
    return f"::{level} {where}::{_escaped(body)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(diagnostics: Sequence[Diagnostic]) -> dict[str, object]:
    from compiler.codes import CODES

    rules = [
        {"id": code, "shortDescription": {"text": CODES[code].title}, "fullDescription": {"text": CODES[code].text}}
        for code in sorted({d.code for d in diagnostics})
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "recipec", "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": [_sarif_result(d) for d in diagnostics],
            }
        ],
    }


def _sarif_result(d: Diagnostic) -> dict[str, object]:
    from urllib.parse import quote

    region = {"startLine": d.at.line, "startColumn": d.at.column}
    file = {"uri": quote(d.at.file, errors="backslashreplace")}
    return {
        "ruleId": d.code,
        "level": d.severity,
        "message": {"text": d.message + (f" ({d.hint})" if d.hint else "")},
        "locations": [{"physicalLocation": {"artifactLocation": file, "region": region}}],
    }
