"""The same broken exports judged by our gate and by the checks that optimum and Olive make, side by side.

Each fault of tests/mutations is put into a finished bundle, which is sealed again. `receiver`: our verification of a
bundle. `gate`: the check at the time of export, of faults that are in the graph. `optimum` and `Olive`: their checks as
they are described (peer_checks.py says how), against the untouched model. optimum makes none of a rounded graph; Olive
makes its own of language models alone, and logs a failure, which ends nothing. The first row of each subject is a
healthy export, over which nobody should raise an alarm.

Without --bundle the subjects are tiny models that are trained first, which takes some minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peer_checks import Source, by_olive, by_optimum, open_source
from compiler.plan import VerifyExport
from runtimes.bundles.manifest import read_manifest
from runtimes.saved import SavedModel
from tests.mutations.catalogue import MUTATIONS, NOT_CAUGHT
from tests.mutations.judges import gate, receiver
from tests.mutations.mutation import Mutation, mutated
from tests.mutations.subjects import SUBJECTS, Built, Subject, build

EXAMPLE = """\
example, from the project's folder:
  python -m benchmarks.gates
  python -m benchmarks.gates --bundle runs/quickstart/bundle --source runs/quickstart/model
"""
HEADER = ("fault", "put into", "receiver", "gate", "optimum", "Olive")
NOT_THERE, HEALTHY = "-", "(healthy)"
NAMED = {subject.name: subject for subject in SUBJECTS}


@dataclass(frozen=True, slots=True)
class Judged:
    """A bundle with a fault, or a healthy one, and what each check said of it. None: nothing; NOT_THERE: not asked."""

    name: str
    subject: str
    receiver: str | None
    gate: str | None
    optimum: str | None
    olive: str | None

    @property
    def line(self) -> str:
        """Its row of the table."""
        said = (self.receiver, self.gate, self.optimum, self.olive)
        nothing = "passes" if self.name == HEALTHY else "missed"
        return _row([self.name, self.subject, *(nothing if word is None else word for word in said)])


@dataclass(frozen=True, slots=True)
class Judge:
    """A subject, its source, and the scratch folder for broken copies."""

    name: str
    bundle: Path
    source: Source
    scratch: Path
    built: Built | None

    def of(self, mutation: Mutation) -> Judged:
        """What is said of a fault. Raises LookupError, OSError or KeyError where it does not apply."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            broken = mutated(mutation, self.bundle, Path(folder) / "bundle", self.built)
            return self._judged(mutation.name, broken, Path(folder), in_graph=mutation.place == "graph")

    def healthy(self) -> Judged:
        """What is said of the bundle as it is."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            return self._judged(HEALTHY, self.bundle, Path(folder), in_graph=True)

    def _judged(self, name: str, bundle: Path, scratch: Path, *, in_graph: bool) -> Judged:
        at_export: str | None = NOT_THERE
        if in_graph and self.built is not None:
            at_export = _first(gate(self.built, bundle, scratch / "gate"))
        return Judged(
            name=name,
            subject=self.name,
            receiver=_first(receiver(bundle)),
            gate=at_export,
            optimum=by_optimum(bundle, self.source) if read_manifest(bundle).precision == "fp32" else NOT_THERE,
            olive=by_olive(bundle, self.source) if self.source.writes else NOT_THERE,
        )


def main() -> None:
    """Prints the table and the scores; exits 1 when a healthy bundle raises an alarm of ours, or a fault none."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="a bundle, instead of tiny ones")
    parser.add_argument("--source", type=Path, help="the folder of the model that it was exported from")
    parser.add_argument("--subjects", nargs="+", choices=[*NAMED], default=[*NAMED], help="only these tiny ones")
    parser.add_argument("--work", type=Path, help="where tiny subjects are kept for a second start")
    options = parser.parse_args()
    if (options.bundle is None) != (options.source is None):
        parser.error("--bundle and --source go together")
    print(_row(HEADER), _row(["---"] * len(HEADER)), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch) / "subjects"
        judges = [_given(options, Path(scratch))] if options.bundle else _tiny(options.subjects, work, Path(scratch))
        judged = [*_all(judges)]
    print(*_scores(judged), sep="\n")
    sys.exit(any(_is_surprise(found) for found in judged))


def _tiny(names: Sequence[str], work: Path, scratch: Path) -> Iterator[Judge]:
    for name in names:
        built = _built(NAMED[name], work)
        source = open_source(built.run.step(VerifyExport).task, built.run.saved())
        yield Judge(name, built.bundle, source, scratch, built)


def _built(subject: Subject, work: Path) -> Built:
    work.mkdir(parents=True, exist_ok=True)
    return build(subject, work / subject.name)


def _given(options: argparse.Namespace, scratch: Path) -> Judge:
    task = read_manifest(options.bundle).task
    return Judge(options.bundle.name, options.bundle, open_source(task, SavedModel(options.source)), scratch, None)


def _all(judges: Iterable[Judge]) -> Iterator[Judged]:
    """Each healthy subject and each fault, printed as soon as it is judged."""
    for judge in judges:
        for mutation in (None, *_faults_of(judge)):
            try:
                found = judge.healthy() if mutation is None else judge.of(mutation)
            except (LookupError, OSError, AttributeError, ValueError) as error:
                if mutation is None or judge.built is not None:
                    raise
                print(f"<!-- {mutation.name} does not apply: {error} -->", flush=True)
                continue
            print(found.line, flush=True)
            yield found


def _faults_of(judge: Judge) -> Sequence[Mutation]:
    """Those that are for the subject; of a bundle that was given, all that its task knows: others say why not."""
    if judge.built is None:
        columns = read_manifest(judge.bundle).columns
        unknown = {"segments ignored"} if "text_pair" not in columns else set()
        return [
            each for each in MUTATIONS if each.name not in unknown and (judge.source.writes or not _of_writers(each))
        ]
    return [mutation for mutation in MUTATIONS if mutation.subject.name == judge.name]


def _of_writers(mutation: Mutation) -> bool:
    """Whether a fault is in what other programs read of a bundle that writes."""
    return mutation.check == "settings"


def _first(checks: Sequence[str]) -> str | None:
    return next(iter(checks), None)


def _is_surprise(found: Judged) -> bool:
    healthy = found.name == HEALTHY
    return (found.receiver is None) != (healthy or found.name in NOT_CAUGHT)


def _scores(judged: Sequence[Judged]) -> Iterator[str]:
    """Faults that each found, of those that it is asked about, and alarms over healthy exports."""
    faults = [found for found in judged if found.name != HEALTHY]
    healthy = [found for found in judged if found.name == HEALTHY]
    yield ""
    for name in ("receiver", "gate", "optimum", "olive"):
        asked = [word for found in faults if (word := getattr(found, name)) != NOT_THERE]
        alarms = sum(getattr(found, name) not in (None, NOT_THERE) for found in healthy)
        yield (
            f"- {name}: {sum(word is not None for word in asked)} of {len(faults)} faults, asked about {len(asked)}; "
            f"{alarms} of {len(healthy)} healthy exports called broken"
        )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
