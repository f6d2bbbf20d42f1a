"""Frozen dataclasses <-> JSON values, by their annotations.

The shapes understood: bool, int, float, str, None, Literal, X | Y, tuple[X, ...], Mapping[str, X], dataclasses.
A union of dataclasses is told apart by its tag: the field named in TAGS whose annotation is a Literal of one word.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from compiler.diagnostics import short
from compiler.document import MAX_INTEGER

TAGS = ("type", "format", "step")


@dataclass(frozen=True, slots=True)
class About:
    """What a field means to its author, and the range that its values have."""

    text: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    pattern: str | None = None
    nonempty: bool = False
    keys: tuple[str, ...] = ()  # of a mapping, where only these may stand
    parts: bool = False  # of a list, where its items are merged on what stands around it

    def has(self, number: float) -> bool:
        """Whether a number is in the range."""
        enough = self.minimum is None or number >= self.minimum, self.above is None or number > self.above
        not_too_much = self.maximum is None or number <= self.maximum, self.below is None or number < self.below
        return all((*enough, *not_too_much))

    def range(self) -> str:
        """The range in an author's words; "" where there is none."""
        bounds = {"at least": self.minimum, "at most": self.maximum, "above": self.above, "below": self.below}
        return ", ".join(f"{word} {_bound(bound)}" for word, bound in bounds.items() if bound is not None)


def _bound(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


@dataclass(frozen=True, slots=True)
class Field:
    """A dataclass field as JSON sees it."""

    name: str  # in JSON: without the underscore at its end that keeps it apart from a word of Python (from_)
    shape: Any
    about: About
    required: bool
    default: Any
    attribute: str  # in Python
    later: bool = False  # left out of JSON where it has its default: it was not there when the first plans were written


def fields(owner: type) -> tuple[Field, ...]:
    """The JSON fields of a dataclass in order; those with metadata {"hidden": True} are left out."""
    return _fields(owner)


@functools.cache
def _fields(owner: type) -> tuple[Field, ...]:
    hints = get_type_hints(owner, include_extras=True)
    shown = (f for f in dataclasses.fields(owner) if not f.metadata.get("hidden"))
    return tuple(_field(f, hints[f.name]) for f in shown)


def _field(f: dataclasses.Field[Any], hint: Any) -> Field:
    about = About("")
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        about = next((extra for extra in extras if isinstance(extra, About)), about)
    name = f.name.removesuffix("_")
    if f.default is not dataclasses.MISSING:
        return Field(name, hint, about, False, f.default, f.name, later=bool(f.metadata.get("later")))
    if f.default_factory is not dataclasses.MISSING:
        return Field(name, hint, about, False, f.default_factory(), f.name)
    return Field(name, hint, about, True, None, f.name)


def members(shape: Any) -> tuple[Any, ...]:
    """The members of a union, or the shape alone."""
    return get_args(shape) if get_origin(shape) in (Union, types.UnionType) else (shape,)


def tag(owner: type) -> tuple[str, str] | None:
    """The name and word of the field by which a dataclass is told from its siblings."""
    for f in fields(owner):
        if f.name in TAGS and get_origin(f.shape) is Literal and len(get_args(f.shape)) == 1:
            return f.name, get_args(f.shape)[0]
    return None


def records(shape: Any) -> tuple[type, ...]:
    """The dataclasses among the members of a shape."""
    return tuple(m for m in members(shape) if isinstance(m, type) and dataclasses.is_dataclass(m))


def below(shape: Any, token: str) -> Any:
    """The shape under a key or an index of a shape; None where there is none."""
    for member in members(shape):
        if get_origin(member) is tuple:
            return get_args(member)[0]
        if get_origin(member) in (Mapping, dict):
            return get_args(member)[1]
    found = dict.fromkeys(f.shape for owner in records(shape) for f in fields(owner) if f.name == token)
    return functools.reduce(operator.or_, found) if found else None


def written_fields(value: Any) -> tuple[Field, ...]:
    """The fields of a dataclass that its JSON has: all but those that came later and have their default."""
    return tuple(f for f in fields(type(value)) if not (f.later and getattr(value, f.attribute) == f.default))


def to_json(value: Any) -> Any:
    """A JSON value: dataclasses become objects, tuples arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.attribute)) for f in written_fields(value)}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return value


T = TypeVar("T")
_ANY = About("")


class ShapeError(ValueError):
    """A JSON value does not fit its shape: the JSON Pointer of what does not fit, and a verb with what is wrong."""

    def __init__(self, pointer: str, wrong: str) -> None:
        super().__init__(f"{pointer or 'it'} {wrong}")
        self.pointer = pointer
        self.wrong = wrong


def read(shape: type[T], value: Any) -> T:
    """A value of the shape, from JSON. Raises ShapeError naming the place inside the value where it does not fit."""
    return cast(T, _read(shape, value, ""))


def read_record(owner: type[T], value: Mapping[str, Any], **hidden: Any) -> T:
    """As `read`, for a dataclass that has fields which JSON does not show."""
    known = {f.name: f for f in fields(owner)}
    unknown = set(value) - set(known)
    if unknown:
        raise ShapeError("", _keys(unknown, set()))
    found = {known[name].attribute: _read(known[name].shape, item, f"/{name}") for name, item in value.items()}
    return owner(**found, **hidden)


def _read(shape: Any, value: Any, where: str) -> Any:
    if get_origin(shape) is Annotated:
        shape = get_args(shape)[0]
    owners = records(shape)
    if owners and isinstance(value, Mapping):
        return _record(_owner(owners, value, where), value, where)
    for member in sorted(members(shape), key=lambda kind: kind is not type(value)):  # 2.0 stays a float if it may
        if _fits(member, value):
            return _plain(member, value, where)
    raise ShapeError(where, f"is {_shown(value)}, expected {describe(shape)}")


def _owner(owners: tuple[type, ...], value: Mapping[str, Any], where: str) -> type:
    if len(owners) == 1:
        return owners[0]
    kinds = {named: owner for owner in owners if (named := tag(owner)) is not None}
    for (key, word), owner in kinds.items():
        if value.get(key) == word:
            return owner
    key, words = next(iter(kinds))[0], ", ".join(word for _, word in kinds)
    found = f"has the {key} {_shown(value[key])}" if key in value else f'needs the key "{key}"'
    raise ShapeError(where, f"{found}, expected one of {words}")


def _record(owner: type, value: Mapping[str, Any], where: str) -> Any:
    known = fields(owner)
    unknown = set(value) - {f.name for f in known}
    missing = {f.name for f in known if f.required} - set(value)
    if unknown or missing:
        raise ShapeError(where, _keys(unknown, missing))
    return owner(**{f.attribute: _read(f.shape, value[f.name], f"{where}/{f.name}") for f in known if f.name in value})


def _keys(unknown: set[str], missing: set[str]) -> str:
    """What is wrong with an object's keys."""
    wrong = [
        f"{verb} {', '.join(json.dumps(name, ensure_ascii=False) for name in sorted(names))}"
        for verb, names in (("has no key", unknown), ("needs", missing))
        if names
    ]
    return ", and ".join(wrong)


def _shown(value: Any) -> str:
    """A JSON value in a message: short ones as they are written, others by their kind."""
    if isinstance(value, (Mapping, list, tuple)):
        return "an object" if isinstance(value, Mapping) else "a list"
    return short(json.dumps(value, ensure_ascii=False))


def _fits(shape: Any, value: Any) -> bool:
    origin = get_origin(shape)
    if shape is Any:
        return True
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in get_args(shape))
    if origin is tuple:
        return isinstance(value, (list, tuple))
    if origin in (Mapping, dict):
        return isinstance(value, Mapping)
    if shape is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if shape is int:
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    if shape in (None, types.NoneType):
        return value is None
    return isinstance(shape, type) and type(value) is shape


def _plain(shape: Any, value: Any, where: str) -> Any:
    origin = get_origin(shape)
    if origin is tuple:
        return tuple(_read(get_args(shape)[0], item, f"{where}/{index}") for index, item in enumerate(value))
    if origin in (Mapping, dict):
        return {key: _read(get_args(shape)[1], item, f"{where}/{key}") for key, item in value.items()}
    if shape is int:
        return int(value)
    try:
        return float(value) if shape is float else value
    except OverflowError:
        raise ShapeError(where, "is too large a number") from None


_PLURALS = {"an object": "objects", "a string": "strings", "a number": "numbers", "an integer": "integers"}


def out_of_range(value: Any, about: About = _ANY, where: str = "") -> Iterator[str]:
    """What is wrong with numbers that are not in the ranges of their fields, each by its JSON Pointer."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in fields(type(value)):
            yield from out_of_range(getattr(value, f.attribute), f.about, f"{where}/{f.name}")
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from out_of_range(item, about, f"{where}/{index}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from out_of_range(item, about, f"{where}/{key}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not about.has(value):
            yield f"{where} is {_shown(value)}, expected a number {about.range()}"
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            yield f"{where} is {_shown(value)}, expected one of at most {MAX_INTEGER} in size"


def describe(shape: Any) -> str:
    """The shape in an author's words."""
    return " or ".join(dict.fromkeys(_word(member) for member in members(shape)))


def _word(shape: Any) -> str:
    origin = get_origin(shape)
    if origin is Literal:
        return " or ".join(f'"{word}"' if isinstance(word, str) else str(word) for word in get_args(shape))
    if origin is tuple:
        item = describe(get_args(shape)[0])
        return f"a list of {_PLURALS.get(item, item)}"
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false", types.NoneType: "null"}
    return names.get(shape, "an object")
