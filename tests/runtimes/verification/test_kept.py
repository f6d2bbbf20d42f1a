"""What gates share is found out once; what is of another model, other rows or another question is found out anew."""

from __future__ import annotations

from pathlib import Path

from runtimes.verification.kept import Kept


def test_a_finding_is_made_once_for_its_rows_and_files() -> None:
    kept, made = Kept(), list[str]()

    def find(name: str) -> str:
        made.append(name)
        return name

    files = (Path("a/model.safetensors"),)
    first = kept.of("rows", 3)
    assert first.once("trained", files, lambda: find("one")) == "one"
    assert kept.of("rows", 3).once("trained", files, lambda: find("two")) == "one"
    assert kept.of("rows", 4).once("trained", files, lambda: find("other rows")) == "other rows"
    assert first.once("merged", files, lambda: find("another stage")) == "another stage"
    assert first.once("trained", (Path("b/model.safetensors"),), lambda: find("another model")) == "another model"
    assert made == ["one", "other rows", "another stage", "another model"]


def test_what_raises_is_asked_again() -> None:
    kept = Kept()
    asked = list[int]()

    def find() -> int:
        asked.append(1)
        if len(asked) == 1:
            raise InterruptedError
        return 7

    for _ in range(2):
        try:
            found = kept.once("trained", (), find)
        except InterruptedError:
            continue
    assert (found, len(asked)) == (7, 2)
