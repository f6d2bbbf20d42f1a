"""prepare goes on where it was interrupted, and leaves the bytes of a step that was left alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.driver import compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.placement import parse_target
from runtimes import steps
from runtimes.errors import Interrupted
from runtimes.events import Progress, Said
from runtimes.steps.prepare import VERSIONS
from tests.tiny import COMMON, write_language_project, write_project

FACTS = LocalFacts(offline=True)
NUM_ROWS = 30_000  # 21,000 to train on: two marks, then a thousand rows


def project_of(folder: Path, kind: str) -> Path:
    """A project with many short rows, whose train rows share sequences or do not."""
    if kind == "classification":
        write_project(folder)
        rows = [{"snippet": f"a film {number}", "sentiment": ("bad", "good")[number % 2]} for number in range(NUM_ROWS)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder / "recipe.json"
    texts = [{"text": " ".join(COMMON[: 2 + number % 9])} for number in range(NUM_ROWS)]
    changes: dict[str, Any] = {"task": "continued-pretraining", "metrics": ["perplexity"]}
    changes["dataset"] = {"train": "rows.jsonl", "validation": {"fraction": 0.1}, "test": {"fraction": 0.2}}
    changes["training"] = {"max_steps": 1, "packing": True, "max_length": 64}
    return write_language_project(folder, texts, **changes) / "recipe.json"


def prepared(recipe: Path, folder: Path, stop: Iterator[bool]) -> Iterator[Any]:
    """The events of the plan's first step."""
    compiled = compile_recipe(load(recipe), FACTS, parse_target("cpu"))
    context = steps.Context(
        plan=compiled.plan,
        key="",
        folder=folder,
        inputs={},
        root=recipe.parent,
        sources=FACTS.sources,
        placement=compiled.placement,
        stop=lambda: next(stop),
    )
    folder.mkdir(exist_ok=True)
    return steps.execute(compiled.plan.step("prepare"), context)


def never() -> Iterator[bool]:
    while True:
        yield False


def at(number: int) -> Iterator[bool]:
    """True when it is asked for this time."""
    yield from [False] * number
    yield True


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("kind", ["classification", "packed texts"])
def test_an_interrupted_step_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, kind: str) -> None:
    recipe = project_of(tmp_path / "project", kind)
    list(prepared(recipe, tmp_path / "whole", never()))
    begun = []
    for moment in (14, 2, 9):  # asked after each thousand rows: in the train rows twice, and then in those to test on
        with pytest.raises(Interrupted, match="stopped after"):
            list(prepared(recipe, tmp_path / "cut", at(moment)))
        events = prepared(recipe, tmp_path / "cut", never())
        begun.append(next(event.done for event in events if isinstance(event, Progress)))
        events.close()  # type: ignore[attr-defined]  # a generator, left in the middle as a killed process leaves it
    assert begun[0] == 16_000, "what was stopped is kept to the last thousand rows"
    said = [event.message for event in prepared(recipe, tmp_path / "cut", never()) if isinstance(event, Said)]
    assert said[0].endswith("rows were done before")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_nothing_is_kept_of_what_another_version_wrote(tmp_path: Path) -> None:
    recipe, folder = project_of(tmp_path / "project", "classification"), tmp_path / "cut"
    with pytest.raises(Interrupted):
        list(prepared(recipe, folder, at(22)))  # the train rows are done
    written = json.loads((folder / VERSIONS).read_text())
    (folder / VERSIONS).write_text(json.dumps({**written, "tokenizers": "0.0.1"}))
    said = [event.message for event in prepared(recipe, folder, never()) if isinstance(event, Said)]
    assert not any("done before" in message for message in said)
    assert json.loads((folder / VERSIONS).read_text()) == written
