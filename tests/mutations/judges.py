"""Who may catch a fault: the receiver of a bundle, and the gate at the time of export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compiler.plan import VerifyExport
from runtimes.errors import GateError, RunError
from runtimes.steps import verify
from runtimes.verification.edges import read_report
from runtimes.verification.gate import Verification
from runtimes.verification.receiver import verify_bundle
from tests.mutations.subjects import Built


def receiver(bundle: Path) -> tuple[str, ...]:
    """The checks that fail at a receiver, or the code of the error that it ends in."""
    try:
        return tuple(_failed(verify_bundle(bundle)))
    except RunError as error:
        return (error.code,)


def gate(built: Built, exported: Path, out: Path) -> tuple[str, ...]:
    """The checks that fail over an export of the subject's model, against the untouched model, as in a run."""
    step: VerifyExport = built.run.step(VerifyExport)
    out.mkdir(parents=True)
    try:
        list(verify.execute(step, built.run.context(step, out, **{step.inputs[-1]: exported})))
    except GateError:
        pass
    except RunError as error:
        return (error.code,)
    return tuple(_failed(read_report(out).verification))


def _failed(verification: Verification) -> Iterator[str]:
    return (check.name for _, check in verification.failures())
