"""JSON texts of others: a value, or a ValueError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.json_text import value_of

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
