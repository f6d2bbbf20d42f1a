"""JSON texts of others: a value, or a ValueError."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.json_text import object_in, value_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert value_of(json.dumps(value)) == value


@given(st.text(alphabet='[]{}",:0123456789eE.+-NaIfinty \\u'))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        value_of(text)
    except ValueError:
        return
    json.loads(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "-Infinity", "1e999", "", "9" * 5000])
def test_what_json_or_python_has_no_value_for_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        value_of(text)


def test_a_model_s_file_is_its_object_and_none_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"limits": [0.0, Infinity]}')
    assert object_in(tmp_path / "config.json") == {"limits": [0.0, float("inf")]}
    assert object_in(tmp_path / "generation_config.json") == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "is not a JSON object"),
        (b"{", "is not JSON: Expecting"),
        (b"\xff", "is not JSON: 'utf-8' codec"),
        (b"[" * 100_000, "is not JSON: it is nested too deeply"),
    ],
)
def test_a_model_s_file_that_holds_no_object_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"config.json {said}"):
        object_in(tmp_path / "config.json")
