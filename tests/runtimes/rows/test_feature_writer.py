"""What an interrupted writer left is kept up to its last mark, and the files end in the same bytes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.tasks import Example
from runtimes.rows.feature_writer import MARK, FeatureWriter, feature_writer
from runtimes.rows.features import Features, Portion
from runtimes.rows.tokens import open_encoder
from runtimes.tasks import text_classification
from tests.runtimes.tiny import LABELS, TASK, rows, tokenizer_file

COLUMNS = text_classification.columns(TASK, pad_token_id=0)
SIZE = 20  # rows of a portion
LINES = "lines.txt"


@pytest.fixture
def portions(tmp_path: Path) -> list[Portion]:
    """45 portions: four marks, and some portions after the last."""
    encoder = open_encoder(tokenizer_file(tmp_path), max_length=16)
    examples = [Example(row={"text": text, "label": LABELS[label]}, target=label) for text, label in rows(45 * SIZE)]
    return [
        text_classification.encode(TASK, examples[start : start + SIZE], encoder)
        for start in range(0, len(examples), SIZE)
    ]


def write(folder: Path, portions: list[Portion], *, stop: int | None = None) -> int:
    """Writes what is left of some portions, up to a number of them; how many there were when it began."""
    with feature_writer(folder, COLUMNS, lines=(LINES,)) as writer:
        begun = writer.portions
        for number, portion in list(enumerate(portions))[begun:stop]:
            writer.append(portion, {LINES: [f"portion {number}"]})
        if stop is None:
            writer.finish(max_length=16, pad_token_id=0)
    return begun


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("stop", [0, 1, 9, 10, 11, 29, 30, 44, 45])
def test_an_interrupted_folder_ends_in_the_bytes_of_one_written_at_once(
    tmp_path: Path, portions: list[Portion], stop: int
) -> None:
    write(tmp_path / "whole", portions)
    write(tmp_path / "cut", portions, stop=stop)
    for path in (tmp_path / "cut").glob("*.bin"):
        with path.open("ab") as file:
            file.write(b"half of a portion")
    assert write(tmp_path / "cut", portions) == stop // 10 * 10
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert len(Features(tmp_path / "cut")) == 45 * SIZE


def test_a_folder_may_be_interrupted_more_than_once(tmp_path: Path, portions: list[Portion]) -> None:
    write(tmp_path / "whole", portions)
    begun = [write(tmp_path / "cut", portions, stop=stop) for stop in (13, 25, 27, None)]
    assert begun == [0, 10, 20, 20]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_finished_folder_has_no_mark(tmp_path: Path, portions: list[Portion]) -> None:
    write(tmp_path / "whole", portions)
    assert [name for name in files(tmp_path / "whole") if name.startswith(".") or name.endswith(".lengths")] == []


def spoilt(mark: Path) -> Iterator[str]:
    """Ways in which a mark does not fit, each by its name."""
    value = json.loads(mark.read_text())
    mark.write_text(json.dumps({**value, "sizes": {"input_ids.bin": 1}}))
    yield "other files"
    mark.write_text(json.dumps({**value, "sizes": {name: size + 10**9 for name, size in value["sizes"].items()}}))
    yield "files that are shorter than it says"
    mark.write_text("{")
    yield "no JSON"


def test_a_mark_that_does_not_fit_is_not_gone_on_from(tmp_path: Path, portions: list[Portion]) -> None:
    write(tmp_path / "cut", portions, stop=12)
    for why in spoilt(tmp_path / "cut" / MARK):
        with feature_writer(tmp_path / "cut", COLUMNS, lines=(LINES,)) as writer:
            assert isinstance(writer, FeatureWriter)
            assert writer.portions == 0, why
        write(tmp_path / "cut", portions, stop=12)
