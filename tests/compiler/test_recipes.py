"""Committed recipes: each of recipes/invalid has exactly the report beside it, each of recipes/valid has no finding.

`RECIPEC_REGENERATE=1 pytest tests/compiler/test_recipes.py` writes the reports anew; read what changed before you
commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compiler.diagnostics import RecipeError, render
from compiler.loading import load
from compiler.reading import read_any
from compiler.recipe import Recipe
from compiler.tasks.multi_task import MultiRecipe

PROJECT = Path(__file__).parents[2]
CASES = PROJECT / "tests" / "recipes"
INVALID = sorted((CASES / "invalid").glob("*.json"))
VALID = sorted((CASES / "valid").glob("*.json"))
GALLERY = sorted((PROJECT / "recipes").glob("*.json"))


def read(path: Path) -> Recipe | MultiRecipe:
    return read_any(load(path))


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_recipe_has_exactly_the_committed_report(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises(RecipeError) as caught:
        read(Path(path.name))
    report = render(caught.value.diagnostics, "text") + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("RECIPEC_REGENERATE"):
        expected.write_text(report, encoding="utf-8")
    assert report == expected.read_text(encoding="utf-8")


def test_every_report_belongs_to_a_recipe() -> None:
    assert {path.stem for path in (CASES / "invalid").glob("*.txt")} == {path.stem for path in INVALID}


@pytest.mark.parametrize("path", [*VALID, *GALLERY], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_valid_recipe_has_no_finding(path: Path) -> None:
    read(path)


def test_shorthand_means_what_it_stands_for() -> None:
    assert read(CASES / "valid" / "shorthand-everywhere.json") == read(CASES / "valid" / "written-out.json")


def test_a_byte_order_mark_and_carriage_returns_change_nothing() -> None:
    assert read(CASES / "valid" / "byte-order-mark.json") == read(CASES / "valid" / "minimal.json")
