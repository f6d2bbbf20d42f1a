"""Document -> Recipe: whatever stands in the text, a Recipe or a RecipeError with places inside it."""

from __future__ import annotations

import copy
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from compiler.codes import CODES
from compiler.diagnostics import Diagnostic, RecipeError, errors
from compiler.document import MAX_INTEGER
from compiler.loading import load_text
from compiler.reading import read_recipe
from compiler.recipe import Recipe
from compiler.schema import recipe_schema
from compiler.typed import to_json
from compiler.validate import check_shape, validate
from tests.handmade import RECIPE, read

VALID = Path(__file__).parents[1] / "recipes" / "valid"
TEXTS = [(VALID / name).read_text(encoding="utf-8") for name in ("every-key.json", "shorthand-everywhere.json")]
STAGED = (VALID / "stages.json").read_text(encoding="utf-8")
KEYS = sorted(
    {key for text in (*TEXTS, STAGED) for key in json.loads(text)}
    | {"type", "path", "fraction", "rank", "nmae", "a/b~c"}
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["auto", "lora", "full", "onnx", "accuracy", "epoch", "rows.jsonl", "text-classification"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


def outcome(text: str) -> Recipe | tuple[Diagnostic, ...]:
    """The recipe in a text, or its findings, which are errors with known codes and places inside the text."""
    try:
        return read_recipe(load_text(text, "r.json"))
    except RecipeError as error:
        found = error.diagnostics
    assert errors(found)
    lines = text.split("\n")
    for finding in found:
        assert finding.code in CODES
        assert finding.message
        assert finding.at.file == "r.json"
        assert 1 <= finding.at.line <= len(lines)
        assert 1 <= finding.at.column <= len(lines[finding.at.line - 1]) + 1
    return found


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value with each of its keys."""
    for key in range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def mutated_recipes(draw: st.DrawFn) -> Any:
    """A valid recipe of which up to three nodes were dropped, renamed or replaced."""
    value = json.loads(draw(st.sampled_from([*TEXTS, STAGED])))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(value)))) if list(places(value)) else (None, None)
        if container is None:
            break
        match draw(st.sampled_from(["drop", "rename", "replace", "steal"])):
            case "drop":
                del container[key]
            case "rename" if isinstance(container, dict):
                container[draw(st.sampled_from(KEYS) | st.text(max_size=5))] = container.pop(key)
            case "steal":
                other, from_key = draw(st.sampled_from(list(places(value))))
                container[key] = copy.deepcopy(other[from_key])
            case _:
                container[key] = draw(JSON_VALUES)
    return value


@st.composite
def edited_texts(draw: st.DrawFn) -> str:
    """The text of a valid recipe of which up to three stretches were replaced."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 5)))
        text = text[:start] + draw(st.text(string.printable, max_size=4) | st.text(max_size=2)) + text[end:]
    return text


@given(JSON_VALUES)
def test_any_json_value_is_a_recipe_or_a_recipe_error(value: Any) -> None:
    outcome(json.dumps(value))


@given(st.dictionaries(st.sampled_from(KEYS), JSON_VALUES))
def test_any_values_of_known_keys_are_a_recipe_or_a_recipe_error(changes: dict[str, Any]) -> None:
    outcome(json.dumps({**RECIPE, **changes}))


@given(mutated_recipes())
def test_a_mutated_recipe_is_a_recipe_or_a_recipe_error(value: Any) -> None:
    outcome(json.dumps(value, indent=1))


@given(edited_texts())
def test_an_edited_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    outcome(text)


@given(mutated_recipes())
def test_a_plain_validator_and_the_compiler_agree_about_shape(value: Any) -> None:
    if isinstance(value, dict) and "extends" in value:
        return
    try:
        document = load_text(json.dumps(value), "r.json")
    except RecipeError:
        return  # not a fault of shape
    staged = isinstance(value, dict) and "stages" in value  # its stages are whole once they are merged
    try:
        (check_shape if staged else validate)(document)
    except RecipeError:
        accepted = False
    else:
        accepted = True
    assert Draft202012Validator(recipe_schema()).is_valid(value) is accepted


@pytest.mark.parametrize("text", TEXTS)
def test_a_recipe_written_out_in_full_is_the_same_recipe(text: str) -> None:
    recipe = validate(load_text(text, "r.json"))
    assert validate(load_text(json.dumps(to_json(recipe)), "r.json")) == recipe


def test_the_order_of_keys_is_irrelevant() -> None:
    value = json.loads(TEXTS[0])
    backwards = dict(reversed(value.items()))
    assert outcome(json.dumps(backwards)) == outcome(json.dumps(value))


def test_a_recipe_knows_where_each_value_was_written() -> None:
    recipe = read_recipe(load_text(TEXTS[0], "r.json"))
    assert str(recipe.at("/training/early_stopping/patience")) == "r.json:35:36"
    assert recipe.wrote("/training/epochs") is None


def test_the_language_s_defaults_are_those_of_the_dataclasses() -> None:
    assert read() == read(method="full", training={}, metrics=[], export=[])


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"nmae": "x", "name": None}, "R101", "/nmae"),
        ({"task": {"tpye": "text-classification"}}, "R101", "/task/tpye"),
        ({"dataset": {"trian": "rows.jsonl"}}, "R101", "/dataset/trian"),
        ({"model": {"idd": "org/model"}}, "R101", "/model/idd"),
    ],
)
def test_a_misspelt_key_that_is_needed_gives_one_finding_and_not_two(
    change: dict[str, Any], code: str, pointer: str
) -> None:
    value = {key: item for key, item in {**RECIPE, **change}.items() if item is not None}
    found = outcome(json.dumps(value))
    assert isinstance(found, tuple)
    assert [(finding.code, finding.pointer) for finding in found] == [(code, pointer)]


def test_an_unknown_kind_hides_what_is_inside_it() -> None:
    found = outcome(json.dumps({**RECIPE, "method": {"type": "rola", "bits": 4, "rnak": 2}}))
    assert isinstance(found, tuple)
    assert [finding.pointer for finding in found] == ["/method/type"]
