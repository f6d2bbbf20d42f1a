"""Diagnostic codes: each that is used is explained, each that is explained is used, and each has a case."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler.codes import CODES

PROJECT = Path(__file__).parents[2]
REPORTS = sorted((PROJECT / "tests" / "recipes" / "invalid").glob("*.txt"))
ABOUT_CODES = {
    Path(__file__),
    Path(__file__).with_name("test_diagnostics.py"),
}  # they name codes without producing them
# A code that a test can't produce, with the reason.
WITHOUT_A_CASE: dict[str, str] = {}


def codes_in(paths: list[Path]) -> set[str]:
    """The codes that stand in files as words of their own: R101, E401."""
    return {code for path in paths for code in re.findall(r"\b[RE][0-9]{3}\b", path.read_text(encoding="utf-8"))}


def sources() -> list[Path]:
    found = [path for half in ("compiler", "runtimes") for path in (PROJECT / half).rglob("*.py")]
    return [path for path in found if path.name != "codes.py"]


def test_every_code_in_the_sources_is_explained() -> None:
    assert codes_in(sources()) - set(CODES) == set()


def test_every_code_that_is_explained_is_in_the_sources() -> None:
    assert set(CODES) - codes_in(sources()) == set()


def test_every_code_has_a_report_or_a_test_that_names_it() -> None:
    """A report among the invalid recipes shows the code; what needs data, a model or a run is asserted by a test."""
    tests = [path for path in (PROJECT / "tests").rglob("test_*.py") if path not in ABOUT_CODES]
    assert set(CODES) - codes_in([*REPORTS, *tests]) == set(WITHOUT_A_CASE)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_s_explanation_reads_well(code: str) -> None:
    title, text = CODES[code].title, CODES[code].text
    assert title
    assert not title.endswith(".")
    assert text.endswith(".")
    assert "  " not in text
