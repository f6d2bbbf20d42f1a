"""Rows that a user gives to `recipe predict`, `verify` and `init`: a wrong one is one finding, and exit code 1."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from compiler.cli import main

GOOD = '{"snippet": "a great movie", "sentiment": "positive"}\n'
NO_COLUMN = 'error[R304] the row has no column "snippet"\n    hint: did you mean "snipet"? (rename it to "snippet"'
NO_TEXT = 'error[R313] the column "snippet": expected text, found '
# File name, its content, the line that is spoken of, and what is said of it.
CASES = {
    "missing-column": ("rows.jsonl", GOOD + '{"snipet": "a", "sentiment": "positive"}\n', 2, NO_COLUMN),
    "number": ("rows.jsonl", GOOD + '\n{"snippet": 3, "sentiment": "positive"}\n', 3, f"{NO_TEXT}the number 3"),
    "null": ("rows.json", '[\n{"snippet": null, "sentiment": "positive"}]', 2, f"{NO_TEXT}null"),
    "no-values": ("rows.jsonl", "{}\n", 1, f"{NO_TEXT}no value"),
    "surrogate": ("rows.jsonl", '{"snippet": "\\ud800"}\n', 1, f"{NO_TEXT}a lone surrogate"),
    "empty": ("rows.jsonl", "", 1, "error[R306] there are no rows\n    hint: give at least one"),
    "empty-csv": ("rows.csv", "", 1, "error[R305] the file is empty"),
    "header-alone": ("rows.csv", "snippet,sentiment\n", 1, "error[R306] there are no rows"),
    "broken-line": ("rows.jsonl", GOOD + "{oops\n", 2, "error[R305] not valid JSON: "),
    "list-as-row": ("rows.jsonl", GOOD + "[1]\n", 2, "error[R305] a row is an object, found a list"),
    "broken-csv": ("rows.csv", "snippet,sentiment\na,b,c\n", 2, "error[R305] 3 fields, but the header names 2 columns"),
    "unknown-format": ("rows.txt", GOOD, 1, 'error[R303] the suffix of "rows.txt" is no known data format'),
    "no-parquet": ("rows.parquet", "PAR1 no", 1, "error[R305] not a parquet file: "),
}
NO_LABEL = (
    'error[R304] the row has no column "sentiment"\n'
    '    hint: did you mean "sentimnt"? (rename it to "sentiment")'
)  # fmt: skip
UNKNOWN_LABEL = (
    'error[R312] the column "sentiment": "postive" is none of the labels\n'
    '    hint: did you mean "positive"?'
)  # fmt: skip
BAD_LABEL = (
    'error[R313] the column "sentiment": expected a label, found the number 0.5\n    hint: remove the row or fill it in'
)
LABEL_CASES = {
    "missing-column": ("rows.jsonl", '{"snippet": "a", "sentimnt": "positive"}\n', 1, NO_LABEL),
    "unknown-label": ("rows.jsonl", GOOD + '{"snippet": "a", "sentiment": "postive"}\n', 2, UNKNOWN_LABEL),
    "half": ("rows.jsonl", '{"snippet": "a", "sentiment": 0.5}\n', 1, BAD_LABEL),
}


@pytest.fixture
def bundle(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle; the working folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    return finished / "runs" / "tiny" / "bundle"


@pytest.mark.parametrize("arguments", [("predict", "--input"), ("verify", "--data")], ids=lambda names: names[0])
@pytest.mark.parametrize(("name", "content", "line", "said"), CASES.values(), ids=CASES)
def test_a_bad_row_is_said_by_file_and_line_with_exit_code_1(
    bundle: Path, recipe, arguments: tuple[str, str], name: str, content: str, line: int, said: str
) -> None:
    Path(name).write_text(content, encoding="utf-8")
    done = recipe(arguments[0], bundle, arguments[1], name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{name}:{line}:1: {said}")
    assert done.stderr.count("error[") == 1


@pytest.mark.parametrize(("name", "content", "line", "said"), LABEL_CASES.values(), ids=LABEL_CASES)
def test_a_bad_label_is_said_by_file_and_line_with_exit_code_1(
    bundle: Path, recipe, name: str, content: str, line: int, said: str
) -> None:
    Path(name).write_text(content, encoding="utf-8")
    done = recipe("verify", bundle, "--data", name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{name}:{line}:1: {said}")


@pytest.mark.parametrize("arguments", [("predict", "--input"), ("verify", "--data")], ids=lambda names: names[0])
def test_a_file_that_is_not_there_is_answered_with_the_nearest(bundle: Path, recipe, arguments) -> None:
    Path("rows.jsonl").write_text(GOOD, encoding="utf-8")
    done = recipe(arguments[0], bundle, arguments[1], "row.jsonl")
    assert done.exit_code == 1
    assert done.output == (
        'row.jsonl:1:1: error[R301] there is no file "row.jsonl"\n    hint: did you mean "rows.jsonl"?\n'
    )


@pytest.mark.parametrize("arguments", [("predict", "--input"), ("verify", "--data")], ids=lambda names: names[0])
def test_a_row_of_a_file_without_lines_is_named_by_number(bundle: Path, recipe, arguments) -> None:
    pq.write_table(pa.table({"snippet": ["a", None], "sentiment": ["positive"] * 2}), "rows.parquet")
    done = recipe(arguments[0], bundle, arguments[1], "rows.parquet")
    assert done.exit_code == 1
    assert done.output.startswith(f"rows.parquet:1:1: {NO_TEXT}null in row 1\n")


INPUT_CASES = {
    "broken": (GOOD.encode() + b"{oops\n", "standard input:2:1: error[R305] not valid JSON: "),
    "empty": (b"", "standard input:1:1: error[R306] there are no rows"),
    "latin-1": (GOOD.encode() + b'{"snippet": "\xff"}\n', "standard input:2:1: error[R305] the text is not UTF-8"),
    "number": (b'\n{"snippet": 3}\n', f"standard input:2:1: {NO_TEXT}the number 3"),
}


@pytest.mark.parametrize(("content", "said"), INPUT_CASES.values(), ids=INPUT_CASES)
def test_bad_rows_on_standard_input_are_said_alike(bundle: Path, content: bytes, said: str) -> None:
    done = CliRunner().invoke(main, ["predict", str(bundle), "--input", "-"], input=content)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(said)


def test_rows_on_standard_input_are_answered(bundle: Path) -> None:
    done = CliRunner().invoke(main, ["predict", str(bundle), "--input", "-"], input=GOOD * 3)
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["sentiment"] for line in done.output.splitlines()] == ["positive"] * 3


def test_a_typed_text_that_is_none_is_said_by_its_number(bundle: Path, recipe) -> None:
    done = recipe("predict", bundle, "--text", "a", "--text", "\udcff")
    assert done.exit_code == 1
    assert done.output.startswith(f"--text:2:1: {NO_TEXT}a lone surrogate")


def test_values_that_json_lacks_are_answered_as_text(bundle: Path, recipe) -> None:
    day = dt.date(2024, 2, 29)
    pq.write_table(pa.table({"snippet": ["a great movie"], "day": [day]}), "rows.parquet")
    done = recipe("predict", bundle, "--input", "rows.parquet")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["day"] == "2024-02-29"


@pytest.mark.parametrize("output", [(), ("-o", "answers.jsonl")], ids=["printed", "written"])
def test_half_a_surrogate_pair_in_another_column_comes_back_as_it_was(bundle: Path, recipe, output) -> None:
    Path("rows.jsonl").write_text('{"snippet": "a", "id": "\\ud800"}\n', encoding="utf-8")
    done = recipe("predict", bundle, "--input", "rows.jsonl", *output)
    assert done.exit_code == 0, done.output
    answered = Path("answers.jsonl").read_text(encoding="utf-8") if output else done.stdout
    assert json.loads(answered)["id"] == "\ud800"


@pytest.mark.parametrize("name", ["empty", "empty-csv", "header-alone", "broken-line", "unknown-format", "no-parquet"])
def test_init_says_them_alike(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file, content, line, said = CASES[name]
    Path(file).write_text(content, encoding="utf-8")
    done = recipe("init", file, "--yes")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{file}:{line}:1: {said}")
