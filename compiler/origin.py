"""Where a tuned model is from, as far as a recipe and its base model's own files say it. Nothing is guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.weights import ADAPTER_CONFIG

if TYPE_CHECKING:
    from compiler.hub import Files

CARD = "README.md"
UNKNOWN = "unknown"
"""The hub's word for a licence that nothing names."""
_LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt")
_FRONT = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_MOST = 1 << 20  # characters of a card that are looked at
_HEAD = 400  # characters of a licence's text that its title stands in
_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_TITLES: Mapping[str, str] = {
    r"apache license\s+version 2\.0": "apache-2.0",
    r"(the )?mit license": "mit",
    r"bsd 3-clause license": "bsd-3-clause",
    r"bsd 2-clause license": "bsd-2-clause",
    r"gnu general public license\s+version 3": "gpl-3.0",
    r"gnu general public license\s+version 2": "gpl-2.0",
    r"gnu affero general public license\s+version 3": "agpl-3.0",
    r"gnu lesser general public license\s+version 3": "lgpl-3.0",
    r"mozilla public license version 2\.0": "mpl-2.0",
    r"creative commons legal code\s+cc0 1\.0 universal": "cc0-1.0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """A licence by the hub's word for it; one that the hub has no word for has a name, and a page where it stands."""

    id: str = UNKNOWN
    name: str = ""
    link: str = ""


NO_LICENCE = Licence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the card of a tuned model says of what was there before."""

    description: str = ""  # the recipe's
    base_model: str = ""  # a hub id, or the name of a folder
    on_hub: bool = False  # whether it is a hub id
    licence: Licence = field(default=NO_LICENCE, metadata={"key": False})
    """The base model's. Not in a key: whether its card is there differs from one machine's cache to another's."""
    datasets: tuple[str, ...] = ()  # of the hub
    tuned: bool = field(default=False, metadata={"later": True})  # the model was tuned from it before a recipe saw it


NO_ORIGIN = Origin()


def licence_of(files: Files) -> Licence:
    """The licence that a model's card names, or the title of its licence's text; unknown where both are silent."""
    named = _named(_text(files, CARD)) if CARD in files.names else None
    if named is not None:
        return named
    texts = [_text(files, name) for name in _LICENCE_FILES if name in files.names]
    return next((Licence(id=found) for text in texts if (found := _titled(text))), NO_LICENCE)


def base_named(files: Files) -> str | None:
    """The base model that a model's card names, or the configuration of its adapter; None where both are silent."""
    named = _metadata(_text(files, CARD)).get("base_model") if CARD in files.names else None
    if isinstance(named, list) and len(named) == 1:
        [named] = named
    if not named and ADAPTER_CONFIG in files.names:
        named = _object(_text(files, ADAPTER_CONFIG)).get("base_model_name_or_path")
    return _line(named) or None


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(files: Files, name: str) -> str:
    with files.local(name).open(encoding="utf-8", errors="replace") as file:
        return file.read(_MOST)


def _named(card: str) -> Licence | None:
    """What the metadata of a card says; None where it says nothing that can be understood."""
    found = _metadata(card)
    value = found.get("license")
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    word = value.strip().lower() if isinstance(value, str) else ""
    if not _ID.fullmatch(word):
        return None
    if word != "other":
        return Licence(id=word)
    link = _line(found.get("license_link"))
    return Licence(id=word, name=_line(found.get("license_name")), link=link if link.startswith("https://") else "")


def _metadata(card: str) -> Mapping[str, Any]:
    import yaml

    front = _FRONT.match(card)
    try:
        found = yaml.safe_load(front.group(1)) if front else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: of a date that is none
        return {}
    return found if isinstance(found, dict) else {}


def _line(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _titled(text: str) -> str | None:
    """The licence whose title stands at the top of a text."""
    head = " ".join(text[:_HEAD].split()).lower().lstrip("# ")
    return next((found for title, found in _TITLES.items() if re.match(title, head)), None)
