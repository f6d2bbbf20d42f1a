"""How findings are written: for a person, a script, GitHub and SARIF viewers."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, get_args
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.codes import CODES
from compiler.diagnostics import (
    Diagnostic,
    Format,
    Place,
    RecipeError,
    counted,
    did_you_mean,
    errors,
    in_order,
    nearest,
    printable,
    render,
    short,
    stop_on_error,
)

TYPO = Diagnostic(
    code="R101",
    at=Place(file="recipes/a.json", line=3, column=5),
    pointer="/method/rnak",
    message='unknown key "rnak" in "method"',
    hint='did you mean "rank"?',
)
WARNING = Diagnostic(code="R204", at=Place(file="b.json"), message="careful", severity="warning")
NOTE = Diagnostic(code="R204", at=Place(file="b.json"), message="by the way", severity="note")
ODD = Diagnostic(
    code="R102", at=Place(file="50%,a:b c.json", line=1, column=2), message="50% :: a,b\nc\r\x1b[31m", hint="d\ne"
)

FINDINGS = st.lists(
    st.builds(
        Diagnostic,
        code=st.sampled_from(sorted(CODES)),
        message=st.text(),
        at=st.builds(Place, file=st.text(), line=st.integers(1, 99), column=st.integers(1, 99)),
        pointer=st.text(),
        hint=st.text(),
        severity=st.sampled_from(["error", "warning", "note"]),
    ),
    max_size=3,
)


def test_text_has_place_severity_code_pointer_message_and_hint() -> None:
    assert render([TYPO, WARNING], "text") == (
        'recipes/a.json:3:5: error[R101] /method/rnak: unknown key "rnak" in "method"\n'
        '    hint: did you mean "rank"?\n'
        "b.json:1:1: warning[R204] careful"
    )


def test_text_shows_what_a_terminal_would_obey_as_escapes() -> None:
    assert render([ODD], "text") == ("50%,a:b c.json:1:2: error[R102] 50% :: a,b\\nc\\r\\x1b[31m\n    hint: d\\ne")


@given(FINDINGS)
def test_text_has_one_line_for_a_finding_and_one_for_its_hint(found: list[Diagnostic]) -> None:
    lines = render(found, "text").splitlines()
    assert len(lines) == len(found) + sum(bool(d.hint) for d in found)
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for line in lines for c in line)


def test_json_has_every_field() -> None:
    assert json.loads(render([TYPO], "json")) == [
        {
            "code": "R101",
            "severity": "error",
            "file": "recipes/a.json",
            "line": 3,
            "column": 5,
            "pointer": "/method/rnak",
            "message": 'unknown key "rnak" in "method"',
            "hint": 'did you mean "rank"?',
        }
    ]


def test_no_findings_are_an_empty_list_in_json() -> None:
    assert json.loads(render([], "json")) == []


@given(FINDINGS)
def test_json_gives_the_findings_back(found: list[Diagnostic]) -> None:
    assert json.loads(render(found, "json")) == [d.to_json() for d in found]


def test_github_has_a_workflow_command_for_each_finding() -> None:
    assert render([TYPO, WARNING, NOTE], "github").splitlines() == [
        '::error file=recipes/a.json,line=3,col=5,title=R101::unknown key "rnak" in "method"%0Adid you mean "rank"?',
        "::warning file=b.json,line=1,col=1,title=R204::careful",
        "::notice file=b.json,line=1,col=1,title=R204::by the way",
    ]


def test_github_s_escapes_keep_data_from_becoming_syntax() -> None:
    """Properties escape %, CR, LF, colon and comma; the message %, CR and LF (actions/toolkit, core/src/command.ts)."""
    assert render([ODD], "github") == (
        "::error file=50%25%2Ca%3Ab c.json,line=1,col=2,title=R102::50%25 :: a,b\\nc\\r\\x1b[31m%0Ad\\ne"
    )


@given(FINDINGS)
def test_github_has_one_line_for_a_finding_and_it_reads_back(found: list[Diagnostic]) -> None:
    text = render(found, "github")
    lines = text.split("\n") if found else []
    assert len(lines) == len(found)
    for line, d in zip(lines, found, strict=True):
        parts = re.fullmatch(
            r"::(error|warning|notice) file=([^,:\r\n]*),line=(\d+),col=(\d+),title=(R|E)\d+::(.*)", line, re.DOTALL
        )
        assert parts is not None
        assert "\r" not in parts[6]
        back = (
            parts[2]
            .replace("%3A", ":")
            .replace("%2C", ",")
            .replace("%0D", "\r")
            .replace("%0A", "\n")
            .replace("%25", "%")
        )
        assert (back, int(parts[3]), int(parts[4])) == (d.at.file, d.at.line, d.at.column)


@given(FINDINGS)
def test_sarif_has_the_structure_that_viewers_need(found: list[Diagnostic]) -> None:
    """The parts of SARIF 2.1.0 that are required: sections 3.13, 3.14, 3.27, 3.29, 3.30, 3.49."""
    log: dict[str, Any] = json.loads(render(found, "sarif"))
    assert log["version"] == "2.1.0"
    [run] = log["runs"]
    assert run["columnKind"] == "unicodeCodePoints"
    rules = run["tool"]["driver"]["rules"]
    ids = [rule["id"] for rule in rules]
    assert ids == sorted(set(ids))
    assert all(rule["shortDescription"]["text"] and rule["fullDescription"]["text"] for rule in rules)
    assert len(run["results"]) == len(found)
    for result, d in zip(run["results"], found, strict=True):
        assert result["ruleId"] in ids
        assert result["level"] == d.severity
        assert d.message in result["message"]["text"]
        assert d.hint in result["message"]["text"]
        [location] = result["locations"]
        region = location["physicalLocation"]["region"]
        assert (region["startLine"], region["startColumn"]) == (d.at.line, d.at.column)
        uri = location["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9%/._~-]*", uri)
        assert unquote(uri) == d.at.file


@pytest.mark.parametrize("form", get_args(Format))
def test_every_format_can_be_written_to_any_terminal(form: Any) -> None:
    odd = Diagnostic(code="R006", at=Place(file="caf\udce9.json"), message="caf\udce9", hint="\ud800")
    text = render([odd], form)
    if form != "github":  # there, the file's name has to be the one on the disk
        text.encode("utf-8")


def test_errors_are_the_findings_that_stop() -> None:
    assert errors([WARNING, TYPO, NOTE]) == (TYPO,)
    assert stop_on_error([WARNING, NOTE]) == in_order([WARNING, NOTE])
    with pytest.raises(RecipeError) as caught:
        stop_on_error([TYPO, WARNING])
    assert caught.value.diagnostics == in_order([TYPO, WARNING])


def test_findings_are_ordered_by_place_without_repeats() -> None:
    late = Diagnostic(code="R001", at=Place(file="recipes/a.json", line=10), message="late")
    assert in_order([late, TYPO, WARNING, TYPO]) == (WARNING, TYPO, late)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("rnak", "rank"), ("RANK", "rank"), ("ranks", "rank"), ("alhpa", "alpha"), ("zzz", None), ("", None)],
)
def test_the_nearest_word_is_found(word: str, expected: str | None) -> None:
    assert nearest(word, ["rank", "alpha", "dropout"]) == expected


def test_a_hint_lists_what_there_is_when_nothing_is_near() -> None:
    assert did_you_mean("zzz", ["b", "a"], noun="keys") == "keys: a, b"
    assert did_you_mean("zzz", [f"w{i:02}" for i in range(14)]).endswith("w11, and 2 more")
    assert did_you_mean("zzz", []) == "remove it"


def test_a_terminal_obeys_nothing_of_a_text_and_wide_spaces_stay() -> None:
    assert printable("a\x1b[31m\nb\u202e\u3000c\xa0d") == "a\\x1b[31m\\nb\\u202e\u3000c\xa0d"


def test_things_are_counted_in_singular_and_plural() -> None:
    assert [counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_a_long_text_is_cut() -> None:
    assert (short("a" * 40), short("a" * 41)) == ("a" * 40, "a" * 40 + "…")
