"""Each fault of the catalogue is caught by what the export answers, decides or measures; no healthy one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from tests.mutations.catalogue import MUTATIONS, NOT_CAUGHT
from tests.mutations.judges import gate, receiver
from tests.mutations.mutation import Mutation, mutated
from tests.mutations.subjects import SUBJECTS, Built, Subject, build

pytestmark = pytest.mark.slow

IN_GRAPHS = [mutation for mutation in MUTATIONS if mutation.place == "graph"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Subject], Built]:
    """The subjects, each run when it is first asked for."""
    found: dict[str, Built] = {}

    def run(subject: Subject) -> Built:
        if subject.name not in found:
            found[subject.name] = build(subject, tmp_path_factory.mktemp("mutations") / subject.name)
        return found[subject.name]

    return run


def test_the_catalogue_has_each_fault_once() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len({*names}) == len(names) >= 25
    assert {*NOT_CAUGHT} <= {*names}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_healthy_export_raises_no_alarm(built: Callable[[Subject], Built], subject: Subject, tmp_path: Path) -> None:
    found = built(subject)
    assert receiver(found.bundle) == ()
    assert gate(found, found.bundle, tmp_path / "gate") == ()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_receiver_catches_it(built: Callable[[Subject], Built], mutation: Mutation, tmp_path: Path) -> None:
    subject = built(mutation.subject)
    found = receiver(mutated(mutation, subject.bundle, tmp_path / "bundle", subject))
    assert "hashes" not in found
    if mutation.name in NOT_CAUGHT:
        assert found == ()
    else:
        assert mutation.check in found


@pytest.mark.parametrize("mutation", IN_GRAPHS, ids=lambda mutation: mutation.name)
def test_the_gate_catches_it_at_export(built: Callable[[Subject], Built], mutation: Mutation, tmp_path: Path) -> None:
    subject = built(mutation.subject)
    broken = mutated(mutation, subject.bundle, tmp_path / "bundle", subject)
    assert gate(subject, broken, tmp_path / "gate")
