"""The JSON Schema of the recipe language, generated from its dataclasses.

Unions dispatch by JSON type and by tag (if/then), never by oneOf, so that an error names what is wrong.
`python -m compiler.schema` writes the committed file that editors read.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from compiler.document import MAX_INTEGER
from compiler.recipe import Recipe, Stage
from compiler.tasks.multi_task import MULTI_TASK, MultiRecipe
from compiler.typed import About, Field, describe, fields, members, records, tag, to_json

SCHEMA_FILE = Path(__file__).with_name("recipe.schema.json")
Schema = dict[str, Any]
LISTED = 12  # words in a message
_SCHEMA: Schema = {"description": "For editors; the compiler ignores it.", "type": "string", "$comment": "a string"}
_EXTENDS: Schema = {
    "description": "Recipes that this one builds on, in order: objects merge, arrays replace.",
    "type": ["string", "array"],
    "allOf": [{"if": {"type": "array"}, "then": {"items": {"type": "string"}}}],
    "$comment": "a path or a list of paths",
}
_SEVERAL: Schema = {
    "type": "object",
    "required": ["task"],
    "properties": {"task": {"type": "object", "required": ["type"], "properties": {"type": {"const": MULTI_TASK}}}},
}


@dataclass(frozen=True, slots=True)
class Definitions:
    """The schemas of dataclasses by name: whole objects, or parts that leave out what a base recipe has."""

    found: dict[str, Schema]
    part: bool

    def name(self, owner: type) -> str:
        """The name under which a dataclass is defined."""
        return f"{owner.__name__}Part" if self.part else owner.__name__

    def ref(self, owner: type) -> Schema:
        """A reference to the schema of a dataclass, which is defined when it is not yet."""
        name = self.name(owner)
        if name not in self.found:
            self.found[name] = {}
            self.found[name] = _record(owner, self)
        return {"$ref": f"#/$defs/{name}"}

    def union(self, tags: Sequence[tuple[type, str]], name: str) -> Schema:
        """A reference to the schema of an object that is one of several dataclasses, as its key `name` says."""
        words = [word for _, word in tags]
        union = f"{self.name(tags[0][0])}Or{len(tags) - 1}Others"
        if union not in self.found:
            self.found[union] = {
                **self.required([name]),
                "properties": {name: {"enum": words}},
                "allOf": [
                    {"if": {"properties": {name: {"const": word}}, "required": [name]}, "then": self.ref(owner)}
                    for owner, word in tags
                ],
            }
        assert self.found[union]["properties"][name]["enum"] == words, "two unions would have one name"
        return {"$ref": f"#/$defs/{union}"}

    def required(self, names: list[str]) -> Schema:
        """That an object has these keys, where it has to be whole."""
        return {"required": names} if names and not self.part else {}


@functools.cache
def recipe_schema() -> Schema:
    """The schema of a recipe file (draft 2020-12).

    A file that extends another may leave out keys that the other has, at any depth: they are asked for after merging.
    So may one with stages, whose stages are merged on what stands beside them.
    """
    definitions: dict[str, Schema] = {}
    whole, part = Definitions(definitions, part=False), Definitions(definitions, part=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "recipec recipe, version 1",
        "if": {"type": "object", "required": ["extends"]},
        "then": _root(part),
        "else": {
            "if": {"type": "object", "required": ["stages"]},
            "then": {**_root(part), "required": _common()},
            "else": _root(whole),
        },
        "$defs": dict(sorted(definitions.items())),
    }


def _root(definitions: Definitions) -> Schema:
    """A recipe of several tasks where its task says so, else of one."""
    return {"if": _SEVERAL, "then": _file(MultiRecipe, definitions), "else": _file(Recipe, definitions)}


def _file(owner: type, definitions: Definitions) -> Schema:
    root = definitions.ref(owner)
    record = definitions.found[definitions.name(owner)]
    record["properties"] = {"$schema": _SCHEMA, "extends": _EXTENDS, **record["properties"]}
    return root


def _common() -> list[str]:
    """The keys that a recipe needs whose stages have the others."""
    of_stages = {f.name for f in fields(Stage)} - {"name"}
    return [f.name for f in fields(Recipe) if f.required and f.name not in of_stages]


def schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def _record(owner: type, definitions: Definitions) -> Schema:
    properties = {f.name: _field(f, definitions) for f in fields(owner)}
    required = [f.name for f in fields(owner) if f.required]
    named = tag(owner)
    if named is not None:
        required = [named[0], *required]
    return {
        "type": "object",
        "description": (owner.__doc__ or "").strip().splitlines()[0],
        "properties": properties,
        **definitions.required(required),
        "additionalProperties": False,
        "$comment": "an object",
    }


def _field(f: Field, definitions: Definitions) -> Schema:
    schema = _shape(f.shape, f.about, definitions)
    if f.about.text:
        schema = {"description": f.about.text, **schema}
    unsaid = f.default is None or (f.about.nonempty and not f.default)  # what may not be written is no default
    return schema if f.required or unsaid else {**schema, "default": to_json(f.default)}


def _shape(shape: Any, about: About, definitions: Definitions) -> Schema:
    """One JSON type gives its schema; several give a list of types and a branch for each that has more to say."""
    branches = _branches(shape, about, definitions)
    expected = _expected(shape)
    if len(branches) == 1:
        [(_, only)] = branches.items()
        return {**only, "$comment": expected}
    details = [
        {"if": {"type": kind}, "then": {**branch, "$comment": expected}}
        for kind, branch in branches.items()
        if set(branch) - {"type"}
    ]
    return {"type": list(branches), **({"allOf": details} if details else {}), "$comment": expected}


def _expected(shape: Any) -> str:
    owners = records(shape)
    if not owners:
        return describe(shape)
    words = _shortened([f'"{named[1]}"' for owner in owners if (named := tag(owner))])
    plain = [m for m in members(shape) if m not in owners and m is not types.NoneType]
    null = " or null" if types.NoneType in members(shape) else ""
    kinds = f"an object with a {_tag_name(owners)} of {', '.join(words)}" if words else "an object"
    short = f"{', '.join(words)}, or " if words else "a string or " if _shorthand(owners) else ""
    return short + kinds + "".join(f" or {describe(m)}" for m in plain) + null


def _shortened(words: list[str]) -> list[str]:
    """The words, or the first few and how many there are, so that a message stays readable."""
    return words if len(words) <= LISTED else [*words[:2], f"{words[2]} and {len(words) - 3} more"]


def _tag_name(owners: tuple[type, ...]) -> str:
    named = tag(owners[0])
    return named[0] if named else ""


def _shorthand(owners: tuple[type, ...]) -> str | None:
    return getattr(owners[0], "SHORTHAND", None) if len(owners) == 1 else None


def _branches(shape: Any, about: About, definitions: Definitions) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    owners = records(shape)
    if owners:
        found["object"] = _objects(owners, definitions)
        words = [named[1] for owner in owners if (named := tag(owner))]
        if words:
            found["string"] = {"type": "string", "enum": words}
        elif (short := _shorthand(owners)) is not None:
            found["string"] = next(_field(f, definitions) for f in fields(owners[0]) if f.name == short)
            found["string"]["type"] = "string"
    for member in members(shape):
        if member not in owners:
            kind, branch = _plain(member, about, definitions)
            found[kind] = branch
    return found


def _objects(owners: tuple[type, ...], definitions: Definitions) -> Schema:
    tags = [(owner, named[1]) for owner in owners if (named := tag(owner))]
    if not tags:
        [owner] = owners
        return {"type": "object", **definitions.ref(owner)}
    return {"type": "object", **definitions.union(tags, _tag_name(owners))}


def _plain(shape: Any, about: About, definitions: Definitions) -> tuple[str, Schema]:
    origin = get_origin(shape)
    if origin is Literal:
        words = list(get_args(shape))
        return ("string" if isinstance(words[0], str) else "integer"), {"enum": words}
    if origin is tuple:
        item = get_args(shape)[0]
        inside = Definitions(definitions.found, part=about.parts)  # arrays replace, so their items are no parts
        items = _shape(item, replace(about, text="", nonempty=False), inside)
        if about.parts:
            items = {**items, "required": [f.name for owner in records(item) for f in fields(owner) if f.required]}
        return "array", {"type": "array", "items": items, **({"minItems": 1} if about.nonempty else {})}
    if origin in (Mapping, dict):
        values = _shape(get_args(shape)[1], about, definitions)
        if about.keys:
            properties = {key: {"description": about.text, **values} for key in about.keys}
            return "object", {"type": "object", "properties": properties, "additionalProperties": False}
        return "object", {"type": "object", "additionalProperties": values}
    if shape is types.NoneType:
        return "null", {"type": "null"}
    if shape is str:
        limits = {"pattern": about.pattern, "minLength": 1 if about.nonempty else None}
        return "string", {"type": "string", **_present(limits)}
    if shape is bool:
        return "boolean", {"type": "boolean"}
    if shape is int:
        return "integer", {"type": "integer", "maximum": MAX_INTEGER, **_range(about)}
    return "number", {"type": "number", **_range(about)}


def _range(about: About) -> Schema:
    return _present(
        {
            "minimum": about.minimum,
            "maximum": about.maximum,
            "exclusiveMinimum": about.above,
            "exclusiveMaximum": about.below,
        }
    )


def _present(limits: Mapping[str, Any]) -> Schema:
    return {name: value for name, value in limits.items() if value is not None}


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
