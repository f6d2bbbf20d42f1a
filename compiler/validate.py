"""Document -> Recipe: its shape by the JSON Schema, then the typed reader."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from compiler.diagnostics import Diagnostic, RecipeError, did_you_mean, nearest, stop_on_error
from compiler.document import Document, escape, tokens
from compiler.recipe import Recipe, Stage
from compiler.schema import recipe_schema
from compiler.tasks import TASKS, Task, module_of
from compiler.tasks.multi_task import MULTI_TASK, ROOT, MultiRecipe, OneTask, is_multi_task
from compiler.typed import TAGS, below, fields, read_record, records, tag

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false")
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
    """The recipe of one task in a document without stages. Raises RecipeError with every fault of shape at once."""
    shaped = check_shape(document)
    return read_record(Recipe, _plain(shaped), document=shaped)


def validate_several(document: Document) -> MultiRecipe:
    """The recipe of several tasks in a document. Raises RecipeError with every fault of shape at once."""
    shaped = check_shape(document)
    return read_record(MultiRecipe, _plain(shaped), document=shaped)


def _plain(document: Document) -> dict[str, Any]:
    plain = document.root.plain()
    assert isinstance(plain, dict), "as its shape says"
    plain.pop("$schema", None)
    return plain


def check_shape(document: Document) -> Document:
    """The document, which has extended others. Raises RecipeError with every fault of its shape at once."""
    root = document.root.without("extends")
    if not isinstance(root.value, Mapping):
        message = f"a recipe is an object, found {_found(root.plain())}"
        raise RecipeError([Diagnostic(code="R102", at=root.at, message=message, hint="see `recipe init --help`")])
    shaped = Document(root, document.file)
    validator = Draft202012Validator(recipe_schema())
    stop_on_error(d for error in validator.iter_errors(root.plain()) for d in _diagnostics(_fault(error), shaped))
    return shaped


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a value does not fit the schema: the rule that it breaks, the rule's bound, and the schema around it."""

    pointer: str
    value: Any
    rule: str
    bound: Any
    schema: Mapping[str, Any]
    message: str


def _fault(error: ValidationError) -> Fault:
    pointer = "".join(f"/{escape(str(token))}" for token in error.absolute_path)
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    return Fault(pointer, error.instance, str(error.validator), error.validator_value, schema, error.message)


def _diagnostics(error: Fault, document: Document) -> Iterator[Diagnostic]:
    pointer = error.pointer
    match error.rule:
        case "additionalProperties":
            for key in sorted(set(error.value) - set(error.schema["properties"])):
                yield _unknown_key(key, pointer, error, document)
        case "required":
            [missing] = [key for key in error.bound if f"'{key}' is" in error.message][:1]
            yield from _missing_key(missing, pointer, error, document)
        case "type":
            message = f"expected {_expected(error)}, found {_found(error.value)}"
            yield _at(document, "R102", pointer, message, _as_expected(error) or _as_targets(error, document))
        case "enum" | "const":
            yield _not_among(pointer, error, document)
        case _:
            hint = str(error.schema.get("description", "")) if error.rule == "pattern" else ""
            yield _at(document, "R104", pointer, f"{_shown(error.value)} {_limit(error)}", hint)


def _at(document: Document, code: str, pointer: str, message: str, hint: str = "") -> Diagnostic:
    return Diagnostic(code=code, at=document.at(pointer), pointer=pointer, message=message, hint=hint)


def _unknown_key(key: str, parent: str, error: Fault, document: Document) -> Diagnostic:
    pointer = f"{parent}/{escape(key)}"
    kind = error.value.get("type") or error.value.get("format")
    siblings = [word for owner, word in _kinds(parent) if key in (f.name for f in fields(owner)) and word != kind]
    if siblings and nearest(key, error.schema["properties"]) is None:
        message = f'nothing reads {_shown(key)} with "{kind}"'
        listed = ", ".join(_of_the_task(siblings, parent, document) or siblings)
        hint = f"it belongs to {listed}: remove it, or change the kind"
        return Diagnostic(code="R202", at=document.key_at(pointer), pointer=pointer, message=message, hint=hint)
    where = f' in "{parent[1:]}"' if parent else ""
    of_each = not parent and _root_shape(document) is MultiRecipe and key in (f.name for f in fields(OneTask))
    hint = f'"{key}" stands in each task' if of_each else _belongs(key, parent)
    hint = hint or did_you_mean(key, error.schema["properties"], noun="known keys")
    message = f"unknown key {_shown(key)}{where}"
    return Diagnostic(code="R101", at=document.key_at(pointer), pointer=pointer, message=message, hint=hint)


def _root_shape(document: Document) -> type[Recipe | MultiRecipe]:
    return MultiRecipe if is_multi_task(document.root) else Recipe


def _belongs(key: str, parent: str) -> str:
    """A hint for a key that stands one level too high or too low, with no typo in it."""
    stage = _stage(parent)
    if stage and parent != stage and key in (f.name for f in fields(Stage)):
        return f'"{key}" belongs in the stage'
    if parent and key in (f.name for f in fields(Recipe)) and not parent.startswith("/task/tasks/"):
        return f'"{key}" belongs at the top level'
    inside = [f.name for f in fields(Recipe) for owner in records(f.shape) if key in (g.name for g in fields(owner))]
    return f'"{key}" belongs in "{inside[0]}"' if inside and f"{stage}/{inside[0]}" != parent else ""


def _kinds(pointer: str) -> list[tuple[type, str]]:
    """The tagged dataclasses that may stand under a pointer, with their words."""
    return [(owner, named[1]) for owner in records(_shape_at(pointer)) if (named := tag(owner))]


def _shape_at(pointer: str) -> Any:
    return functools.reduce(below, tokens(pointer), ROOT)


def _of_the_task(words: Iterable[str], pointer: str, document: Document) -> list[str]:
    """Of the words for a metric or a loss, those that the recipe's task has, where it names one; else all of them."""
    task = _task(document, pointer)
    if task is None:
        return list(words)
    module = module_of(task)
    of_task = {"/metrics": module.METRICS, "/training": module.LOSSES}
    parent, _, name = pointer.removeprefix(_stage(pointer)).rpartition("/")
    known = of_task.get(parent) if parent == "/metrics" or name == "loss" else None
    return [word for word in words if known is None or word in known]


def _stage(pointer: str) -> str:
    """The pointer of the stage that something stands in; empty where it stands in none."""
    path = pointer.split("/")
    return "/".join(path[:3]) if path[1:2] == ["stages"] and len(path) > 2 else ""


def _task(document: Document, pointer: str) -> Task | None:
    """The task that a recipe names, or the stage that a pointer goes into, with its defaults."""
    written = document.find(f"{_stage(pointer)}/task/type")
    return TASKS.get(written.value) if written is not None and isinstance(written.value, str) else None


def _missing_key(key: str, parent: str, error: Fault, document: Document) -> Iterator[Diagnostic]:
    known = {f.name for owner in records(_shape_at(parent)) for f in fields(owner)}
    misspelt = [written for written in sorted(set(error.value) - known) if nearest(written, known) == key]
    if misspelt and key not in TAGS:
        return  # reported as an unknown key; a union without its tag knows no keys
    if misspelt:
        yield _unknown_key(misspelt[0], parent, error, document)
        return
    where = f'"{parent[1:]}"' if parent else "the recipe"
    hint = "for instance " + _EXAMPLES[key] if key in _EXAMPLES else "add it"
    if key in TAGS:
        hint = f"choose from: {', '.join(word for _, word in _kinds(parent))}"
    yield _at(document, "R105", parent, f'{where} needs the key "{key}"', hint)


_EXAMPLES = {
    "recipe": '"recipe": 1, the version of the language',
    "name": '"name": "movie-sentiment"',
    "task": '"task": "text-classification"',
    "dataset": '"dataset": {"train": "rows.jsonl"}',
    "train": '"train": "rows.jsonl"',
    "model": '"model": "sentence-transformers/all-MiniLM-L6-v2"',
    "id": '"id": "sentence-transformers/all-MiniLM-L6-v2"',
    "layers": '"layers": 3',
}


def _as_expected(error: Fault) -> str:
    """A hint for a value that is right but for its quotes or the list around it."""
    kinds = error.schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "array" in kinds and isinstance(error.value, (str, dict)):
        return f"write [{_shown(error.value)}]" if isinstance(error.value, str) else "put it in a list: [...]"
    if {"integer", "number", "boolean"} & set(kinds) and isinstance(error.value, str):
        return _without_quotes(error.value)
    return ""


def _as_targets(error: Fault, document: Document) -> str:
    """A hint for a list of columns under one role, where the task names several targets by themselves."""
    task, inside = _task(document, error.pointer), error.pointer.removeprefix(_stage(error.pointer))
    if not inside.startswith("/dataset/columns/") or not isinstance(error.value, list) or task is None:
        return ""
    named = "targets" in (f.name for f in fields(type(task)))
    return f'several targets are named in /task: "targets": {json.dumps(error.value)}' if named else ""


def _without_quotes(value: str) -> str:
    return f"write {value}, without quotes" if _NUMBER.fullmatch(value) else ""


def _not_among(pointer: str, error: Fault, document: Document) -> Diagnostic:
    words = [error.bound] if error.rule == "const" else list(error.bound)
    expected = _expected(error)
    message = f"{_shown(error.value)} is not {expected or 'known here'}"
    strings = [word for word in words if isinstance(word, str)]
    if isinstance(error.value, str) and strings:
        numeric = "a number" in expected or "an integer" in expected
        better = _without_quotes(error.value) if numeric else ""
        if "a list of strings" in expected and nearest(error.value, strings) is None:
            better = f"write [{_shown(error.value)}]"
        known = _of_the_task(strings, pointer.removesuffix("/type"), document)
        known += [MULTI_TASK] if pointer == "/task/type" else []
        hint = better or did_you_mean(error.value, known or strings, noun="choose from")
        return _at(document, "R103", pointer, message, hint)
    return _at(document, "R103", pointer, message, f"write {' or '.join(map(str, words))}")


def _expected(error: Fault) -> str:
    return str(error.schema.get("$comment") or _json_type(error.schema.get("type")))


def _json_type(kind: Any) -> str:
    names = {"object": "an object", "array": "a list", "string": "a string", "integer": "an integer"}
    names |= {"number": "a number", "boolean": "true or false", "null": "null"}
    kinds = kind if isinstance(kind, list) else [kind] if kind else []
    return " or ".join(names[k] for k in kinds)


def _found(value: object) -> str:
    if isinstance(value, bool):
        return _shown(value)
    name = _ARTICLES.get(type(value), "something else")
    return f"{name}, {_shown(value)}" if isinstance(value, (str, int, float)) else name


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    return str(value) if isinstance(value, (int, float)) else _ARTICLES.get(type(value), "this")


def _limit(error: Fault) -> str:
    bound = error.bound
    texts = {
        "minimum": f"is too small: at least {bound}",
        "maximum": f"is too large: at most {bound}",
        "exclusiveMinimum": f"is too small: above {bound}",
        "exclusiveMaximum": f"is too large: below {bound}",
        "minItems": "is empty: at least one item is expected",
        "minLength": "is empty",
        "pattern": "does not have the right form",
    }
    return texts.get(error.rule, re.sub(r"\s+", " ", error.message))
