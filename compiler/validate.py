"""Document -> Recipe: its shape by the JSON Schema, then the typed reader."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from compiler.diagnostics import Diagnostic, did_you_mean, nearest, stop_on_error
from compiler.document import Document, Node, escape
from compiler.recipe import Recipe
from compiler.schema import recipe_schema
from compiler.typed import fields, members, read_record, records, tag

_ARTICLES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def validate(document: Document) -> Recipe:
    """The recipe in a document. Raises RecipeError with every fault of shape at once."""
    root = _without_extends(document.root)
    if not isinstance(root.value, Mapping):
        message = f"a recipe is an object, found {_found(root.plain())}"
        raise_at = Diagnostic(code="R102", at=root.at, message=message, hint="see `recipe init --help`")
        stop_on_error([raise_at])
    shaped = Document(root, document.file)
    plain = root.plain()
    assert isinstance(plain, dict)
    validator = Draft202012Validator(recipe_schema())
    stop_on_error(d for error in validator.iter_errors(plain) for d in _diagnostics(error, shaped))
    plain.pop("$schema", None)
    return read_record(Recipe, plain, document=shaped)


def _without_extends(root: Node) -> Node:
    if not isinstance(root.value, Mapping) or "extends" not in root.value:
        return root
    return Node({k: v for k, v in root.value.items() if k != "extends"}, root.at, root.folder, root.keys)


def _diagnostics(error: ValidationError, document: Document) -> Iterator[Diagnostic]:
    pointer = "".join(f"/{escape(str(token))}" for token in error.absolute_path)
    match error.validator:
        case "additionalProperties":
            for key in sorted(set(error.instance) - set(error.schema["properties"])):
                yield _unknown_key(key, pointer, error, document)
        case "required":
            [missing] = [key for key in error.validator_value if f"'{key}' is" in error.message][:1]
            yield _missing_key(missing, pointer, error, document)
        case "type":
            yield _at(document, "R102", pointer, f"expected {_expected(error)}, found {_found(error.instance)}")
        case "enum" | "const":
            yield _not_among(pointer, error, document)
        case _:
            yield _at(document, "R104", pointer, f"{_shown(error.instance)} {_limit(error)}")


def _at(document: Document, code: str, pointer: str, message: str, hint: str = "") -> Diagnostic:
    return Diagnostic(code=code, at=document.at(pointer), pointer=pointer, message=message, hint=hint)


def _unknown_key(key: str, parent: str, error: ValidationError, document: Document) -> Diagnostic:
    pointer = f"{parent}/{escape(key)}"
    kind = error.instance.get("type") or error.instance.get("format")
    siblings = [word for owner, word in _kinds(parent) if key in (f.name for f in fields(owner)) and word != kind]
    if siblings and nearest(key, error.schema["properties"]) is None:
        message = f'nothing reads "{key}" with "{kind}"'
        hint = f"it belongs to {', '.join(siblings)}: remove it, or change the kind"
        return Diagnostic(code="R202", at=document.key_at(pointer), pointer=pointer, message=message, hint=hint)
    where = f' in "{parent[1:]}"' if parent else ""
    hint = _belongs(key, parent) or did_you_mean(key, error.schema["properties"], noun="known keys")
    return Diagnostic(
        code="R101", at=document.key_at(pointer), pointer=pointer, message=f'unknown key "{key}"{where}', hint=hint
    )


def _belongs(key: str, parent: str) -> str:
    """A hint for a key that stands one level too high or too low, with no typo in it."""
    if parent and key in (f.name for f in fields(Recipe)):
        return f'"{key}" stands at the top level'
    inside = [f.name for f in fields(Recipe) for owner in records(f.shape) if key in (g.name for g in fields(owner))]
    return f'"{key}" stands in "{inside[0]}"' if inside and f"/{inside[0]}" != parent else ""


def _kinds(pointer: str) -> list[tuple[type, str]]:
    """The tagged dataclasses that may stand under a pointer, with their words."""
    shape: Any = Recipe
    for token in pointer.split("/")[1:]:
        shape = _below(shape, token)
    return [(owner, named[1]) for owner in records(shape) if (named := tag(owner))]


def _below(shape: Any, token: str) -> Any:
    for member in members(shape):
        if get_origin(member) is tuple:
            return get_args(member)[0]
    found = [f.shape for owner in records(shape) for f in fields(owner) if f.name == token]
    return found[0] if found else None


def _missing_key(key: str, parent: str, error: ValidationError, document: Document) -> Diagnostic:
    where = f'"{parent[1:]}"' if parent else "the recipe"
    hint = "for instance " + _EXAMPLES[key] if key in _EXAMPLES else "add it"
    return _at(document, "R105", parent, f'{where} needs the key "{key}"', hint)


_EXAMPLES = {
    "recipe": '"recipe": 1, the version of the language',
    "name": '"name": "movie-sentiment"',
    "task": '"task": "text-classification"',
    "dataset": '"dataset": {"train": "rows.jsonl"}',
    "train": '"train": "rows.jsonl"',
    "model": '"model": "sentence-transformers/all-MiniLM-L6-v2"',
    "layers": '"layers": 3',
}


def _not_among(pointer: str, error: ValidationError, document: Document) -> Diagnostic:
    words = [error.validator_value] if error.validator == "const" else list(error.validator_value)
    expected = _expected(error)
    message = f"{_shown(error.instance)} is not {expected}" if expected else f"{_shown(error.instance)} is not known here"
    strings = [word for word in words if isinstance(word, str)]
    if isinstance(error.instance, str) and strings:
        return _at(document, "R103", pointer, message, did_you_mean(error.instance, strings, noun="choose from"))
    return _at(document, "R103", pointer, message, f"write {' or '.join(map(str, words))}")


def _expected(error: ValidationError) -> str:
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    return str(schema.get("$comment") or _json_type(schema.get("type")))


def _json_type(kind: object) -> str:
    names = {"object": "an object", "array": "a list", "string": "a string", "integer": "an integer"}
    names |= {"number": "a number", "boolean": "true or false", "null": "null"}
    kinds = kind if isinstance(kind, list) else [kind] if kind else []
    return " or ".join(names[k] for k in kinds)


def _found(value: object) -> str:
    name = _ARTICLES.get(type(value), "something else")
    return f"{name}, {_shown(value)}" if isinstance(value, (str, int, float)) else name


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    return str(value) if isinstance(value, (int, float)) else _ARTICLES.get(type(value), "this")


def _limit(error: ValidationError) -> str:
    bound = error.validator_value
    texts = {
        "minimum": f"is too small: at least {bound}",
        "maximum": f"is too large: at most {bound}",
        "exclusiveMinimum": f"is too small: above {bound}",
        "exclusiveMaximum": f"is too large: below {bound}",
        "minItems": "is empty: at least one item is expected",
        "minLength": "is empty",
        "pattern": f"does not match {bound}",
    }
    return texts.get(str(error.validator), re.sub(r"\s+", " ", error.message))
