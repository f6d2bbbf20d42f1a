"""Text -> Document: values, places, and what is not JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compiler.diagnostics import Diagnostic, Place, RecipeError
from compiler.document import MAX_DEPTH, MAX_INTEGER, Document, Node, decode, escape, parse, tokens, walk

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def findings(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.json")
    return caught.value.diagnostics


def at(line: int, column: int) -> Place:
    return Place(file="r.json", line=line, column=column)


@given(JSON_VALUES)
def test_a_json_text_gives_the_value_that_the_standard_reader_gives(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        assert parse(text, "r.json").root.plain() == json.loads(text)


@given(st.text(alphabet=st.characters(codec="utf-8")))
@example("[1,]")
@example('{"a": 1, "a": 2}')
@example('"\x7f"')
@example("\ufeff{}")
def test_any_text_gives_a_document_or_a_recipe_error_with_places_inside_it(text: str) -> None:
    lines = text.split("\n")
    try:
        document = parse(text, "r.json")
    except RecipeError as error:
        places = [finding.at for finding in error.diagnostics]
        assert places
    else:
        assert document.root.plain() == json.loads(text)
        places = [node.at for _, node in walk(document.root)]
    for place in places:
        assert 1 <= place.line <= len(lines)
        assert 1 <= place.column <= len(lines[place.line - 1]) + 1


@given(JSON_VALUES)
def test_every_node_is_found_under_its_own_pointer(value: Any) -> None:
    document = parse(json.dumps(value), "r.json")
    for pointer, node in walk(document.root):
        assert document.find(pointer) is node
        assert document.at(pointer) == node.at


@given(st.text())
def test_a_key_survives_being_a_token_of_a_pointer(key: str) -> None:
    assert tokens(f"/{escape(key)}") == [key]


def test_places_count_lines_and_characters_from_one() -> None:
    document = parse('{\n  "é😀": 1, "b": [\n    true]}', "r.json")
    assert document.at("") == at(1, 1)
    assert document.key_at("/é😀") == at(2, 3)
    assert document.at("/é😀") == at(2, 9)
    assert document.at("/b/0") == at(3, 5)


def test_the_place_of_what_is_not_written_is_its_nearest_ancestor() -> None:
    document = parse('{"a": {"b": 1}, "c": [1]}', "r.json")
    assert document.at("/a/x/y") == document.at("/a")
    assert document.at("/c/1") == document.at("/c")
    assert document.key_at("/a/x") == document.at("/a")
    assert document.at("/x") == document.at("")


@pytest.mark.parametrize(
    "token", ["-1", "01", "1", "-", "", "x", "\u0660", "9" * 5000], ids=lambda token: ascii(token)[:9]
)
def test_a_token_that_is_no_index_of_a_list_finds_nothing(token: str) -> None:
    assert parse("[0]", "r.json").find(f"/{token}") is None


def test_nodes_keep_the_folder_of_their_file() -> None:
    document = parse('{"a": ["b"]}', "r.json", folder="/data")
    assert {node.folder for _, node in walk(document.root)} == {"/data"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8.0", 8),
        ("3e2", 300),
        ("-0.0", 0),
        ("-0", 0),
        ("0.5", 0.5),
        ("1e300", 1e300),
        (str(2**53), 2**53),
        ("1E-2", 0.01),
    ],
)
def test_a_whole_number_is_an_integer_however_it_is_written(text: str, value: float) -> None:
    found = parse(text, "r.json").root.value
    assert found == value
    assert type(found) is type(value)
    assert isinstance(found, (int, float))
    assert math.copysign(1, found) == math.copysign(1, value)


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "nan", "inf", "-inf", "1e999", "-1e999", str(2**53 + 1), "9" * 5000]
)
def test_a_number_that_is_not_finite_or_too_large_is_named(text: str) -> None:
    [found] = findings(f'{{"a": {text}}}')
    assert (found.code, found.at) == ("R003", at(1, 7))


def test_every_duplicate_key_is_reported_in_one_go() -> None:
    found = findings('{"a": 1,\n"a": {"b": 1, "b": 2},\n"c": NaN}')
    assert [(d.code, d.at) for d in found] == [("R002", at(2, 1)), ("R002", at(2, 15)), ("R003", at(3, 6))]


def test_equal_keys_of_different_spelling_are_duplicates() -> None:
    [found] = findings('{"a": 1, "\\u0061": 2}')
    assert found.code == "R002"


def test_the_deepest_allowed_nesting_is_read() -> None:
    assert parse("[" * MAX_DEPTH + "0" + "]" * MAX_DEPTH, "r.json").at("/0/0").column == 3


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_deeper_nesting_is_a_finding_and_no_crash(depth: int) -> None:
    [found] = findings("[" * depth + "0" + "]" * depth)
    assert (found.code, found.at) == ("R001", at(1, MAX_DEPTH + 2))


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse('"\\ud83d\\ude00"', "r.json").root.value == "😀"


def test_a_surrogate_that_the_text_itself_has_is_named() -> None:
    [found] = findings('{"a": "\ud800"}')
    assert (found.code, found.at) == ("R001", at(1, 7))


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    assert decode(b"\xef\xbb\xbf{}", "r.json") == "{}"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_first_bad_byte_has_its_place_in_characters(mark: bytes) -> None:
    with pytest.raises(RecipeError) as caught:
        decode(mark + "{\n  é".encode() + b"\xff}", "r.json")
    [found] = caught.value.diagnostics
    assert (found.code, found.at) == ("R001", at(2, 4))


def test_a_document_knows_its_file() -> None:
    assert parse("1", "r.json") == Document(Node(1, at(1, 1)), "r.json")
