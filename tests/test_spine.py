"""A task is one module in each half: nothing else in the tree names one."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = re.compile(
    r"(text|token).(classification|regression)|(Text|(?<!For)Token)Classification|TextRegression"
    r"|image.classification|(?<!For)ImageClassification"
    r"|text.generation|TextGeneration|continued.pretraining|ContinuedPretraining"
    r"|tasks.translation|[Ss]ummarization|text.to.text|TextToText|SequenceToSequence|sequence_to_sequence"
    r"|question.answering|(?<!For)QuestionAnswering"
)
# The registries say which module a task is; an error shows one as an example.
ALLOWED = {"compiler/tasks/__init__.py", "runtimes/tasks/__init__.py", "compiler/validate.py"}
SOURCES = sorted(
    path
    for half in ("compiler", "runtimes")
    for path in (ROOT / half).rglob("*.py")
    if path.relative_to(ROOT).as_posix() not in ALLOWED and path.parent.name != "tasks"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_of_the_spine_names_no_task(path: Path) -> None:
    assert not NAMES.search(path.read_text(encoding="utf-8"))


def test_every_task_has_a_module_in_both_halves() -> None:
    from compiler import tasks as compiler_tasks
    from compiler.typed import members, tag
    from runtimes import tasks as runtime_tasks

    named = {word for owner in members(compiler_tasks.Task) if (found := tag(owner)) for word in [found[1]]}
    assert named == set(runtime_tasks.MODULES)
    for owner in members(compiler_tasks.Task):
        module = runtime_tasks.module_of(owner())
        for half, interface in (
            (compiler_tasks.module_of(owner()), compiler_tasks.TaskModule),
            (module, runtime_tasks.TaskModule),
        ):
            wanted = {*vars(interface), *interface.__annotations__}
            assert [name for name in wanted if not name.startswith("_") and not hasattr(half, name)] == []


def test_every_method_has_a_whole_module_in_both_halves() -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    from compiler import methods as compiler_methods
    from compiler.typed import members, tag
    from runtimes.pytorch import methods

    owners = {found[1]: owner for owner in members(compiler_methods.Method) if (found := tag(owner))}
    assert owners.keys() == methods.MODULES.keys()
    for name, owner in owners.items():
        for half, interface in (
            (importlib.import_module(owner.__module__), compiler_methods.MethodModule),
            (methods.module_of(name), methods.MethodModule),
        ):
            wanted = {*vars(interface), *interface.__annotations__}
            assert [name for name in wanted if not name.startswith("_") and not hasattr(half, name)] == []
