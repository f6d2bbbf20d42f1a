"""Row lengths are counted once for the same rows, the same tokenizer and the same columns."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from compiler.data.locate import DataFile
from compiler.data.remembered import RowLengths
from compiler.diagnostics import RecipeError
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.plan import File
from compiler.recipe import Recipe
from compiler.validate import validate
from tests.small import write_without_framework

TEXTS = ["a", "a a", "", "a a a a"]
ROWS = [(text,) for text in TEXTS]
LENGTHS = [1, 2, 0, 4]


class Case:
    """Rows, a tokenizer, and a cache folder; `loaded` counts how often the tokenizer was needed."""

    def __init__(self, folder: Path) -> None:
        self.cache: Path | None = folder / "cache"
        self.rows = folder / "rows.jsonl"
        self.tokenizer_file = folder / "tokenizer.json"
        self.loaded = 0
        self.write_rows("whatever")
        self.write_tokenizer(Whitespace())

    def write_rows(self, text: str) -> None:
        self.rows.write_text(text, encoding="utf-8")

    def write_tokenizer(self, splits: Whitespace | None) -> None:
        tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
        if splits is not None:
            tokenizer.pre_tokenizer = splits
        tokenizer.save(str(self.tokenizer_file))

    def load(self) -> Tokenizer:
        self.loaded += 1
        return Tokenizer.from_file(str(self.tokenizer_file))

    def data(self, form: str = "jsonl") -> DataFile:
        sha256 = hashlib.sha256(self.rows.read_bytes()).hexdigest()
        return DataFile(self.rows, File(path="rows.jsonl", format=form, sha256=sha256))  # type: ignore[arg-type]

    def open(self) -> RowLengths:
        return RowLengths(self.load, self.tokenizer_file, self.cache)

    def count(self, form: str = "jsonl", columns: tuple[str, ...] = ("text",)) -> list[int]:
        """The lengths, counted two rows at a time and remembered."""
        lengths = self.open()
        lengths.begin(self.data(form), columns)
        found = [*lengths.count(ROWS[:2]), *lengths.count(ROWS[2:]), *lengths.count([])]
        lengths.remember()
        return found

    def entries(self) -> list[Path]:
        assert self.cache is not None
        return sorted((self.cache / "lengths").iterdir())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_the_same_rows_are_counted_once(case: Case) -> None:
    assert case.count() == case.count() == case.count() == LENGTHS
    assert case.loaded == 1


@pytest.mark.parametrize("size", [1, 3, 4])
def test_rows_that_come_in_other_portions_are_known_too(case: Case, size: int) -> None:
    case.count()
    lengths = case.open()
    lengths.begin(case.data(), ("text",))
    assert [n for start in range(0, 4, size) for n in lengths.count(ROWS[start : start + size])] == LENGTHS
    assert case.loaded == 1


def change_rows(case: Case) -> None:
    case.write_rows("other")


def change_tokenizer(case: Case) -> None:
    case.write_tokenizer(None)


@pytest.mark.parametrize("change", [change_rows, change_tokenizer])
def test_what_has_changed_is_counted_anew(case: Case, change: Callable[[Case], None]) -> None:
    case.count()
    change(case)
    assert case.count() == (LENGTHS if change is change_rows else [1, 1, 0, 1])
    assert case.loaded == 2


@pytest.mark.parametrize(
    "changed", [{"form": "json"}, {"columns": ("title",)}, {"columns": ("text", "title")}], ids=str
)
def test_rows_that_are_read_otherwise_are_counted_anew(case: Case, changed) -> None:
    case.count()
    assert case.count(**changed) == LENGTHS
    assert case.loaded == 2


def test_files_are_told_apart_in_one_survey(case: Case) -> None:
    for _ in range(2):
        lengths = case.open()
        lengths.begin(case.data(), ("text",))
        first = lengths.count(ROWS)
        lengths.begin(case.data("csv"), ("text",))
        assert (first, lengths.count(ROWS[::-1])) == (LENGTHS, LENGTHS[::-1])
        lengths.remember()
    assert case.loaded == 1
    assert len(case.entries()) == 2


def cut(content: bytes) -> bytes:
    return content[:-1]


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def empty(content: bytes) -> bytes:
    return b""


def more(content: bytes) -> bytes:
    return content + b"\0" * 4


@pytest.mark.parametrize("damage", [cut, flip, empty, more])
def test_a_damaged_entry_is_as_good_as_none_and_is_mended(case: Case, damage: Callable[[bytes], bytes]) -> None:
    case.count()
    [entry] = case.entries()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert case.count() == LENGTHS
    assert entry.read_bytes() == whole
    assert case.loaded == 2


def test_an_entry_of_fewer_rows_is_counted_on(case: Case) -> None:
    lengths = case.open()
    lengths.begin(case.data(), ("text",))
    lengths.count(ROWS[:2])
    lengths.remember()
    assert case.count() == LENGTHS
    assert case.count() == LENGTHS
    assert case.loaded == 2


@pytest.mark.parametrize("change", [change_rows, change_tokenizer, lambda case: case.rows.unlink()])
def test_nothing_is_kept_of_a_file_that_changes_while_it_is_read(case: Case, change: Callable[[Case], None]) -> None:
    lengths = case.open()
    lengths.begin(case.data(), ("text",))
    lengths.count(ROWS)
    change(case)
    lengths.remember()
    assert not (Path(str(case.cache)) / "lengths").exists()


@pytest.mark.parametrize("blocked", ["no cache", "a file where the folder should be"])
def test_without_a_cache_every_call_counts(case: Case, blocked: str) -> None:
    assert case.cache is not None
    case.cache.write_text("")
    case.cache = None if blocked == "no cache" else case.cache
    assert case.count() == case.count() == LENGTHS
    assert case.loaded == 2


def test_what_was_not_used_for_longest_is_forgotten_first(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = 32 + 4 * len(TEXTS)  # bytes: a digest, and four for each row
    monkeypatch.setattr("compiler.data.remembered._MOST", 2 * entry)
    for age, column in ((200, "a"), (100, "b")):
        before = set(case.entries()) if age == 100 else set()
        case.count(columns=(column,))
        [new] = set(case.entries()) - before
        os.utime(new, (1_000_000_000 - age, 1_000_000_000 - age))
    case.count(columns=("a",))  # now "b" was not used for longest
    case.count(columns=("c",))
    assert len(case.entries()) == 2
    case.count(columns=("a",))
    assert case.loaded == 3
    case.count(columns=("b",))
    assert case.loaded == 4


def test_a_file_that_would_drive_out_all_others_is_not_kept(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compiler.data.remembered._MOST", 2 * 4 * len(TEXTS) - 1)
    case.count()
    assert not (Path(str(case.cache)) / "lengths").exists()


# --- in a recipe's facts


def read_recipe_in(folder: Path, **columns: str) -> Recipe:
    value = {
        "recipe": 1,
        "name": "r",
        "task": "text-classification",
        "model": "./model",
        "dataset": {"train": "rows.jsonl", "columns": columns},
    }
    (folder / "recipe.json").write_text(json.dumps(value), encoding="utf-8")
    return validate(load(folder / "recipe.json"))


def write_project(folder: Path) -> None:
    write_without_framework(folder)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    wider = [{**row, "long": f"{row['text']} {row['text']}"} for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wider), encoding="utf-8")


def settle(path: Path, content: bytes | None = None) -> None:
    """Writes a file as if long ago, so that its hash is remembered by its size and time."""
    if content is not None:
        path.write_bytes(content)
    os.utime(path, (1_000_000_000, 1_000_000_000))


def test_a_second_check_tokenizes_nothing_and_gives_the_same_facts(tmp_path: Path) -> None:
    write_project(tmp_path)
    tokenizer = tmp_path / "model" / "tokenizer.json"
    for path in (tokenizer, tmp_path / "rows.jsonl"):
        settle(path)
    source = LocalFacts(cache=tmp_path / "cache", offline=True)
    first = source.gather(read_recipe_in(tmp_path))
    settle(tokenizer, b" " * tokenizer.stat().st_size)  # taken for the same file, but no tokenizer: it isn't read
    assert source.gather(read_recipe_in(tmp_path)) == first
    assert first.data.splits[0].lengths is not None


def test_other_facts_follow_when_the_column_or_the_rows_change(tmp_path: Path) -> None:
    write_project(tmp_path)
    for change in ("nothing", "column", "rows"):
        columns = {"text": "long"} if change == "column" else {}
        if change == "rows":
            rows = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
            (tmp_path / "rows.jsonl").write_text(rows.replace("good", "good good"), encoding="utf-8")
        recipe = read_recipe_in(tmp_path, **columns)
        remembered = LocalFacts(cache=tmp_path / "cache", offline=True).gather(recipe)
        assert remembered == LocalFacts(cache=None, offline=True).gather(recipe)


def test_bad_rows_are_not_remembered(tmp_path: Path) -> None:
    write_project(tmp_path)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": 3, "label": "good"}\n')
    for _ in range(2):
        with pytest.raises(RecipeError):
            LocalFacts(cache=tmp_path / "cache", offline=True).gather(read_recipe_in(tmp_path))
    assert not (tmp_path / "cache" / "lengths").exists()
