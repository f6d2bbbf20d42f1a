"""The JSON Schema: committed, valid, without oneOf, and of one mind with the compiler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from compiler.diagnostics import RecipeError
from compiler.document import parse
from compiler.loading import load
from compiler.schema import SCHEMA_FILE, recipe_schema, schema_text
from compiler.validate import check_shape

PROJECT = Path(__file__).parents[2]
GALLERY = sorted((PROJECT / "recipes").glob("*.json"))
VALID = sorted((PROJECT / "tests" / "recipes" / "valid").glob("*.json"))
INVALID = sorted((PROJECT / "tests" / "recipes" / "invalid").glob("*.json"))


def test_the_committed_schema_is_the_generated_one() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run `make schema`"


def test_the_schema_is_valid_itself() -> None:
    Draft202012Validator.check_schema(recipe_schema())


def objects(value: Any, pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        yield pointer, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from objects(child, f"{pointer}/{key}")


def test_no_union_is_a_oneof() -> None:
    assert [pointer for pointer, schema in objects(recipe_schema()) if {"oneOf", "anyOf"} & set(schema)] == []


def test_every_key_has_a_description_for_the_editor_to_show() -> None:
    silent = [
        f"{pointer}/properties/{key}"
        for pointer, schema in objects(recipe_schema())
        if "additionalProperties" in schema
        for key, described in schema.get("properties", {}).items()
        if not described.get("description")
    ]
    assert silent == []


def test_every_object_of_the_language_is_closed() -> None:
    definitions = recipe_schema()["$defs"]
    unions = {name: schema for name, schema in definitions.items() if "allOf" in schema and "type" not in schema}
    for name, schema in definitions.items():
        assert name in unions or schema["additionalProperties"] is False, name
    for name, schema in unions.items():  # closed where each word leads to an object that is
        [(tag, described)] = schema["properties"].items()
        assert [branch["if"]["properties"][tag]["const"] for branch in schema["allOf"]] == described["enum"], name
        for branch in schema["allOf"]:
            assert definitions[branch["then"]["$ref"].rpartition("/")[2]]["additionalProperties"] is False, name


def test_every_default_fits_its_own_schema() -> None:
    for _, schema in objects(recipe_schema()):
        for key, described in schema.get("properties", {}).items():
            if "default" in described:
                rooted = {**described, "$defs": recipe_schema()["$defs"]}
                assert list(Draft202012Validator(rooted).iter_errors(described["default"])) == [], key


@pytest.mark.parametrize("path", [*VALID, *GALLERY], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_plain_validator_accepts_a_recipe_that_we_accept(path: Path) -> None:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    assert list(Draft202012Validator(recipe_schema()).iter_errors(value)) == []


def fault_of_shape(path: Path) -> Any:
    """The value of a recipe whose own text has a fault of shape, as the compiler sees it; None for other faults."""
    try:
        value = parse(path.read_text(encoding="utf-8"), path.name).root.plain()
        check_shape(load(path))
    except UnicodeDecodeError:
        return None
    except RecipeError as error:
        codes = {found.code for found in error.diagnostics}
        return value if not any(code.startswith("R0") for code in codes) else None
    return None


SHAPE = [path for path in INVALID if "extends" not in path.stem and fault_of_shape(path) is not None]


def test_there_are_faults_of_shape_to_look_at() -> None:
    assert len(SHAPE) > 15


@pytest.mark.parametrize("path", SHAPE, ids=lambda path: path.stem)
def test_a_plain_validator_rejects_a_recipe_whose_fault_is_of_shape(path: Path) -> None:
    assert list(Draft202012Validator(recipe_schema()).iter_errors(fault_of_shape(path))) != []


def test_a_recipe_with_stages_has_what_they_need_in_them_or_beside_them() -> None:
    validator = Draft202012Validator(recipe_schema())
    common = {"recipe": 1, "name": "staged", "model": "org/model"}
    stage = {"name": "chat", "task": "text-generation", "dataset": {"train": "rows.jsonl"}}
    assert validator.is_valid({**common, "stages": [{**stage, "method": {"rank": 4}}]})
    assert not validator.is_valid({**common, "stages": []})
    assert not validator.is_valid({**common, "stages": [{**stage, "name": "a/b"}]})
    assert not validator.is_valid({**common, "stages": [{**stage, "training": {"epoch": 1}}]})
    for key in stage:
        assert not validator.is_valid({**common, "stages": [{k: v for k, v in stage.items() if k != key}]})
    for key in common:
        assert not validator.is_valid({**{k: v for k, v in common.items() if k != key}, "stages": [stage]})


def test_a_recipe_that_extends_another_may_leave_out_keys_but_not_invent_some() -> None:
    validator = Draft202012Validator(recipe_schema())
    assert validator.is_valid({"extends": "base.json"})
    assert validator.is_valid({"extends": "base.json", "method": {"rank": 4}, "dataset": {"columns": {}}})
    assert not validator.is_valid({"extends": "base.json", "metrics": [{"average": "macro"}]})
    assert not validator.is_valid({"extends": "base.json", "training": {"epoch": 3}})
    assert not validator.is_valid({"extends": "base.json", "nmae": "case"})
    assert not validator.is_valid({})
