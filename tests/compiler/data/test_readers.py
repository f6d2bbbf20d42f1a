"""Rows come out of every format alike, and a row that can't be read is named by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.data.readers import DataError, Row, columns_of, format_of, read_rows

ROWS = [{"text": "good, really", "label": "pos"}, {"text": 'a "bad"\nfilm', "label": "neg"}]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def write_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    return folder / "rows.parquet"


def files(folder: Path) -> list[Path]:
    """The same two rows in every format."""
    return [
        write(folder, "rows.jsonl", "\n".join(json.dumps(row) for row in ROWS)),
        write(folder, "rows.json", json.dumps(ROWS, indent=2)),
        write(folder, "rows.csv", 'text,label\r\n"good, really",pos\r\n"a ""bad""\nfilm",neg\r\n'),
        write(folder, "rows.tsv", 'text\tlabel\ngood, really\tpos\n"a ""bad""\nfilm"\tneg\n'),
        write_parquet(folder),
    ]


def read(path: Path) -> list[Row]:
    form = format_of(path)
    assert form is not None
    return list(read_rows(path, form))


def fault(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path)
    return caught.value


def test_every_format_gives_the_same_rows(tmp_path):
    for path in files(tmp_path):
        rows = read(path)
        assert [dict(row.values) for row in rows] == ROWS, path.name
        assert [row.number for row in rows] == [0, 1]


def test_every_format_gives_the_same_columns(tmp_path):
    for path in files(tmp_path):
        form = format_of(path)
        assert form is not None
        assert columns_of(path, form) == ("text", "label"), path.name


def test_rows_know_the_line_they_start_at(tmp_path):
    lines = {path.suffix: [row.line for row in read(path)] for path in files(tmp_path)}
    assert lines == {".jsonl": [1, 2], ".json": [2, 6], ".csv": [2, 3], ".tsv": [2, 3], ".parquet": [0, 0]}


def test_a_suffix_in_capitals_counts_and_an_unknown_one_does_not():
    assert format_of("ROWS.CSV") == "csv"
    assert format_of("rows.ndjson") == "jsonl"
    assert format_of("rows.xlsx") is None


def test_empty_lines_of_jsonl_are_skipped_but_counted(tmp_path):
    path = write(tmp_path, "rows.jsonl", '\n{"a": 1}\r\n\n  \n{"a": 2}\n')
    assert [(row.number, row.line) for row in read(path)] == [(0, 2), (1, 5)]


def test_a_byte_order_mark_is_not_part_of_the_first_row(tmp_path):
    for name, text in [("a.jsonl", '{"t": 1}'), ("a.json", '[{"t": 1}]'), ("a.csv", "t\n1\n")]:
        [row] = read(write(tmp_path, name, "\ufeff" + text))
        assert set(row.values) == {"t"}, name


def test_a_line_separator_inside_a_string_does_not_end_a_jsonl_row(tmp_path):
    path = write(tmp_path, "rows.jsonl", '{"t": "a\u2028b"}\n')
    assert [dict(row.values) for row in read(path)] == [{"t": "a\u2028b"}]


def test_the_one_list_in_an_object_has_the_rows(tmp_path):
    path = write(tmp_path, "rows.json", '{"version": 1,\n "data": [\n{"t": "x"},\n{"t": "y"}], "end": true}')
    assert [(row.line, dict(row.values)) for row in read(path)] == [(3, {"t": "x"}), (4, {"t": "y"})]


def test_an_object_with_two_lists_is_ambiguous(tmp_path):
    error = fault(write(tmp_path, "rows.json", '{"a": [], "b": []}'))
    assert '"a", "b"' in error.message


def test_broken_jsonl_is_named_by_its_line(tmp_path):
    error = fault(write(tmp_path, "rows.jsonl", '{"a": 1}\n\n{"a": 1,}\n'))
    assert error.line == 3
    assert "not valid JSON" in error.message


@pytest.mark.parametrize(("value", "reason"), [("[" * 100_000, "nested too deeply"), ("1" * 5000, "too many digits")])
def test_json_that_python_can_not_hold_is_named_by_its_line(tmp_path, value, reason):
    row = f'{{"a": {value}}}'
    for path in (
        write(tmp_path, "rows.jsonl", f"\n\n{row}"),
        write(tmp_path, "rows.json", f'[{{"a": 1}},\n\n{row}]'),
        write(tmp_path, "other.json", f'{{"version":\n\n{row}}}'),
    ):
        error = fault(path)
        assert (error.line, reason in error.message) == (3, True), path.name


def test_one_json_value_over_several_lines_is_told_from_jsonl(tmp_path):
    error = fault(write(tmp_path, "rows.jsonl", '[\n {"a": 1}\n]\n'))
    assert "name it .json" in error.hint


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"a": 1},\n{"a": }]', 2),
        ('[{"a": 1}\n{"a": 2}]', 2),
        ('[{"a": 1},\n]', 2),
        ('[{"a": 1}', 1),
        ('[{"a": 1}]\nmore', 2),
        ('{"a": [{"b": 1}]', 1),
        ("", 1),
        ("3", 1),
    ],
)
def test_broken_json_is_named_by_its_line(tmp_path, text, line):
    assert fault(write(tmp_path, "rows.json", text)).line == line


@pytest.mark.parametrize(("text", "found"), [("[1]", "a number"), ('["a"]', "a string"), ("[null]", "null")])
def test_a_row_that_is_no_object_is_named(tmp_path, text, found):
    assert found in fault(write(tmp_path, "rows.json", text)).message


def test_a_ragged_csv_line_is_named_by_its_line(tmp_path):
    error = fault(write(tmp_path, "rows.csv", 'text,label\n"two\nlines",pos\na, b,neg\n'))
    assert (error.line, error.message) == (4, "3 fields, but the header names 2 columns")


def test_an_unclosed_quote_is_named_by_the_line_it_opens_at(tmp_path):
    assert fault(write(tmp_path, "rows.csv", 'text,label\na,b\n"open,neg\nc,d\n')).line == 3


def test_a_header_with_a_repeated_name_is_refused(tmp_path):
    assert '"text" stands twice' in fault(write(tmp_path, "rows.csv", "text,text\na,b\n")).message


def test_an_empty_csv_is_refused_and_an_empty_jsonl_has_no_rows(tmp_path):
    assert "empty" in fault(write(tmp_path, "rows.csv", "")).message
    assert read(write(tmp_path, "rows.jsonl", "")) == []


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv"])
def test_text_that_is_not_utf_8_is_named_by_its_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'{"a": "b"}\n{"a": "\xff"}\n')
    assert fault(path).line == 2


def test_a_missing_file_and_a_false_parquet_file_are_data_errors(tmp_path):
    assert "can't be read" in fault(tmp_path / "none.jsonl").message
    assert "not a parquet file" in fault(write(tmp_path, "rows.parquet", "PAR1 no")).message


def test_a_field_of_a_million_characters_is_read(tmp_path):
    [row] = read(write(tmp_path, "rows.csv", f"text\n{'x' * 1_000_000}\n"))
    assert len(str(row.values["text"])) == 1_000_000


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none() | st.booleans(), max_size=3))
)
def test_any_rows_written_as_json_and_jsonl_are_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    array = write(folder, "rows.json", json.dumps(rows, indent=1))
    lines = write(folder, "rows.jsonl", "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))
    assert [dict(row.values) for row in read(array)] == rows
    assert [dict(row.values) for row in read(lines)] == rows
