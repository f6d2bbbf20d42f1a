"""recipe verify of bundles, by their receiver: each of a run's, and what its sender says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.bundle_together import refuse_data
from compiler.cli.rows import file_rows, refused
from compiler.data.images import placed
from compiler.data.texts import BadValueError
from compiler.diagnostics import printable

if TYPE_CHECKING:
    from runtimes.bundles.manifest import Manifest
    from runtimes.bundles.provenance import Provenance
    from runtimes.errors import RunError
    from runtimes.export.facts import Provider
    from runtimes.verification.gate import Verification

_HINT = "the bundle is not what was proven: ask its sender for a whole one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a receiver finds of a bundle, and what the bundle says of where it is from."""

    verification: Verification
    told_by: Provenance

    def lines(self) -> list[str]:
        """For a terminal; the sender's word before the verdict."""
        from runtimes.bundles.provenance import told_lines
        from runtimes.verification.gate import report_lines

        *checks, verdict = report_lines(self.verification)
        return [*checks, *(printable(f"told  {line}") for line in told_lines(self.told_by)), verdict]

    def to_json(self) -> dict[str, Any]:
        """What was found, as verification.json has it, and the sender's word."""
        from compiler.typed import to_json

        return {**self.verification.to_json(), "senders_word": to_json(self.told_by)}

    def require_passed(self) -> None:
        """Raises GateError where the bundle is not what was proven."""
        from runtimes.verification.gate import require_passed

        require_passed(self.verification, code="E603", hint=_HINT)


def verify_received(
    folders: Sequence[Path], data: Path | None, threads: int, provider: Provider, *, as_json: bool
) -> None:
    """Proves that the one bundle is what was proven where it was made; raises GateError where it is not."""
    [folder] = folders
    found = receive(folder, data, threads, provider)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(found.lines()))
    found.require_passed()


def verify_each(folders: Sequence[Path], data: Path | None, threads: int, provider: Provider, *, as_json: bool) -> None:
    """Proves each bundle of a run, and tells it under its name.

    Raises one error at the end: GateError where a bundle is not what was proven, else RunError where one is unusable.
    """
    from compiler.cli.main import explain_failure
    from runtimes.errors import RunError

    failed: dict[str, RunError] = {}
    values: dict[str, Any] = {}
    for folder in folders:
        try:
            found = receive(folder, data, threads, provider)
            values[folder.name], lines = found.to_json(), found.lines()
        except RunError as error:
            values[folder.name], (_, lines) = _unusable(error), explain_failure(error)
            failed[folder.name] = error
        else:
            failed |= _failure(folder.name, found)
        if not as_json:
            click.echo("\n".join([str(folder), *(f"  {line}" for line in lines)]))
    if as_json:
        click.echo(json.dumps({"passed": not failed, "bundles": values}, indent=2))
    if failed:
        raise _of_all(failed, len(folders))


def _unusable(error: RunError) -> dict[str, Any]:
    return {"passed": False, "error": {"code": error.code, "message": error.message}}


def _failure(name: str, found: Received) -> dict[str, RunError]:
    """The error of a bundle that is not what was proven, by its name; nothing of one that is."""
    from runtimes.errors import GateError

    try:
        found.require_passed()
    except GateError as error:
        return {name: error}
    return {}


def _of_all(failed: Mapping[str, RunError], count: int) -> RunError:
    """One error for the bundles that failed: that of a gate where there is one."""
    from runtimes.errors import GateError

    worst = max(failed.values(), key=lambda error: isinstance(error, GateError))  # the first of those
    each = "; ".join(f"{name}: {error.message}" for name, error in failed.items())
    return type(worst)(worst.code, f"{len(failed)} of {count} bundles failed: {each}", worst.hint)


def receive(folder: Path, data: Path | None, threads: int, provider: Provider) -> Received:
    """What its receiver finds of a bundle, also on rows of his own, and what it says of where it is from."""
    from runtimes.bundles.manifest import is_together, read_manifest, read_together
    from runtimes.bundles.provenance import NOTHING_TOLD
    from runtimes.errors import RunError
    from runtimes.verification.receiver import verify_bundle, verify_together

    if is_together(folder):
        parts = read_together(folder).parts
        if data is not None:
            refuse_data(folder, parts)
        verification = verify_together(folder, threads=threads, provider=provider)
        try:
            told_by = read_manifest(folder / parts[0]).provenance
        except RunError:  # the first part's manifest is damaged, which is among what was found
            told_by = NOTHING_TOLD
        return Received(verification=verification, told_by=told_by)
    manifest = read_manifest(folder)
    rows = answered_rows(data, manifest) if data is not None else None
    verification = verify_bundle(folder, rows, threads=threads, provider=provider)
    return Received(verification=verification, told_by=manifest.provenance)


def answered_rows(data: Path, manifest: Manifest) -> list[Mapping[str, Any]]:
    """The rows of a file by role, their true answers among them, read as the rows that were trained on."""
    from compiler import tasks

    reader = tasks.module_of(manifest.task).reader(manifest.task, manifest.columns)
    image = tasks.image_column(manifest.task, manifest.columns)
    found: list[Mapping[str, Any]] = []
    for row in file_rows(data):
        try:
            found.append(reader.read(placed(row.values, image, row.folder)).row)
        except BadValueError as error:
            raise refused(row, error, f'rename it to "{error.column}"') from None
    return found
