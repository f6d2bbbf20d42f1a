"""The reference page."""

from __future__ import annotations

import re

from compiler.codes import CODES
from compiler.recipe import Recipe
from compiler.reference import REFERENCE_FILE, reference_text
from compiler.typed import fields, members, records, tag


def test_the_committed_page_is_the_generated_one() -> None:
    assert REFERENCE_FILE.read_text(encoding="utf-8") == reference_text(), "run `make schema`"


def test_every_key_has_a_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", reference_text(), re.MULTILINE))
    assert rows >= {f.name for f in fields(Recipe)}
    assert rows >= {g.name for f in fields(Recipe) for owner in records(f.shape) for g in fields(owner)} - {"type"}


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", reference_text(), re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_every_method_and_every_code_is_named() -> None:
    methods = [named[1] for f in fields(Recipe) if f.name == "method" for m in members(f.shape) if (named := tag(m))]
    assert len(methods) >= 4
    for word in (*methods, *CODES):
        assert word in reference_text()
