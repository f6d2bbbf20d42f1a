"""Document -> a document for each of its stages: a stage is a recipe, merged on what all of them have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from compiler import methods
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic, RecipeError, in_order, stop_on_error
from compiler.document import Document, Node, escape, walk
from compiler.loading import merge
from compiler.recipe import Recipe, Stage
from compiler.typed import fields

ONE_FOLDER = "on disks of macOS and Windows they would share a folder"
_OF_STAGES = tuple(f.name for f in fields(Stage) if f.name != "name")
_ONLY_IN_STAGES = ("task", "dataset")
_OF_THE_LAST = ("export", "verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageText:
    """A stage as its author wrote it, and the document of the recipe that it is by itself.

    A recipe without stages is one of no name, whose document is its own.
    """

    name: str = ""
    pointer: str = ""  # in the recipe's document
    own: Node | None = None  # what stands in the stage
    document: Document

    def located(self, found: Diagnostic) -> Diagnostic:
        """A finding about the stage's document as one about the recipe's."""
        if self.own is None:
            return found
        if not found.pointer:
            return replace(found, pointer=self.pointer) if found.at == self.document.root.at else found
        if self._wrote(found.pointer):
            return replace(found, pointer=f"{self.pointer}{found.pointer}")
        return replace(found, message=f'stage "{self.name}": {found.message}')

    def is_common(self, found: Diagnostic) -> bool:
        """Whether a finding about the stage's document is about what stands beside the stages."""
        return self.own is not None and self.located(found).pointer == found.pointer

    def is_unread(self, found: Diagnostic) -> bool:
        """Whether a finding is that nothing in the stage reads what stands beside the stages; another one may."""
        return found.code == "R202" and self.is_common(found)

    def has_common(self, pointer: str) -> bool:
        """Whether the stage has what stands beside the stages under a pointer, and does not say all of it otherwise."""
        node, own = self.document.find(pointer), Document(self.own or self.document.root, self.document.file)
        inside = walk(node, pointer) if node is not None else ()
        return any(own.find(place) is None for place, value in inside if not value.members)

    def without(self, unread: Iterable[Diagnostic]) -> Document:
        """Its document without the keys that findings say nothing reads."""
        return functools.reduce(Document.without, (each.pointer for each in unread), self.document)

    def _wrote(self, pointer: str) -> bool:
        """Whether the stage, and not what is common to all, says what stands under a pointer or nearest above it."""
        own = Document(self.own, self.document.file) if self.own is not None else self.document
        while pointer:
            if own.find(pointer) is not None:
                return True
            if self.document.find(pointer) is not None:
                return False
            pointer = pointer.rpartition("/")[0]
        return True

    def said(self, choices: Iterable[Choice]) -> tuple[Choice, ...]:
        """What was chosen for the stage, as said of the recipe."""
        return tuple(
            choice if choice.pointer.split("/")[1] in _OF_THE_LAST else self._of_the_stage(choice) for choice in choices
        )

    def _of_the_stage(self, choice: Choice) -> Choice:
        return replace(choice, pointer=f"{self.pointer}{choice.pointer}")


def stages_of(document: Document) -> tuple[StageText, ...]:
    """The stages of a document that has its shape, in order; the whole where it has none."""
    written = document.find("/stages")
    if written is None or not isinstance(written.value, tuple):
        return (StageText(document=document),)
    last = len(written.value) - 1
    return tuple(_stage(document, number, item, last=number == last) for number, item in enumerate(written.value))


def _stage(document: Document, number: int, item: Node, *, last: bool) -> StageText:
    left_out = ("stages", *_ONLY_IN_STAGES, *(() if last else _OF_THE_LAST))
    own = item.without("name")
    whole = merge(document.root.without(*left_out), own)
    root = Node(whole.value, item.at, document.root.folder, whole.keys)  # paths start where the recipe's do
    name = str(item.members["name"].value)
    return StageText(name=name, pointer=f"/stages/{number}", own=own, document=Document(root, document.file))


def check_stages(document: Document) -> Iterator[Diagnostic]:
    """Stages have names of their own, and what each of them has stands in no other place."""
    written = document.find("/stages")
    if written is None or not isinstance(written.value, tuple):
        return
    for key in _ONLY_IN_STAGES:
        if document.find(f"/{key}") is not None:
            message, hint = f'nothing reads "{key}" beside "stages"', "put it into the stages that it is for"
            yield Diagnostic(code="R202", at=document.key_at(f"/{key}"), pointer=f"/{key}", message=message, hint=hint)
    names = [item.members["name"] for item in written.value]
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        first = seen.setdefault(str(name.value).casefold(), number)
        if first == number:
            continue
        message = f'the stage "{name.value}" stands twice, first as item {first}'
        if name.value != names[first].value:
            message = f'the stages "{names[first].value}" and "{name.value}" differ only in case: {ONE_FOLDER}'
        pointer = f"/stages/{number}/name"
        yield Diagnostic(code="R203", at=name.at, pointer=pointer, message=message, hint="give it another name")


def check_common(document: Document, stages: Sequence[StageText]) -> Iterator[Diagnostic]:
    """What stands beside the stages stands in one of them: not every one says it otherwise."""
    read = frozenset(id(node) for stage in stages for _, node in walk(stage.document.root))
    for key in _OF_STAGES if document.find("/stages") is not None else ():
        node = document.find(f"/{key}")
        for pointer in _unread(node, f"/{key}", read) if node is not None and key not in _ONLY_IN_STAGES else ():
            name = pointer.rpartition("/")[2]
            message, hint = f'nothing reads "{name}": each of the stages has its own', "remove it"
            yield Diagnostic(code="R202", at=document.key_at(pointer), pointer=pointer, message=message, hint=hint)


def _unread(node: Node, pointer: str, read: frozenset[int]) -> Iterator[str]:
    """The pointers of values that are not among those that are read; of an object, where it has no other."""
    inside = [below for _, below in walk(node) if not isinstance(below.value, Mapping)]
    if not any(id(below) in read for below in inside):
        yield from [pointer] if inside else []
    elif isinstance(node.value, Mapping):
        for key, child in node.value.items():
            yield from _unread(child, f"{pointer}/{escape(key)}", read)


def check_order(stages: Sequence[StageText], recipes: Sequence[Recipe]) -> Iterator[Diagnostic]:
    """Each stage but the last leaves a whole model, and the next one starts from it."""
    for stage, recipe in zip(stages[:-1], recipes[:-1], strict=True):
        module = methods.module_of(recipe.method)
        if module.SAVES == "adapter" and not module.MERGES:
            message = f'what the method "{recipe.method.type}" trains is not merged: no stage can start from it'
            yield stage.located(recipe.finding("R240", "/method", message, "make it the last stage"))
    for stage, recipe in zip(stages[1:], recipes[1:], strict=True):
        if not methods.reads_weights(recipe.method):
            message = (
                f'the method "{recipe.method.type}" draws new weights: what the stage before it learnt would be lost'
            )
            yield stage.located(recipe.finding("R240", "/method", message, "make it the first stage"))


Found = Sequence[tuple[StageText, tuple[Diagnostic, ...]]]
"""What was found about the document of each stage."""


def read_by_none(found: Found) -> tuple[Diagnostic, ...]:
    """Of the findings that nothing reads a common key, those about what no stage that has it reads; each once."""
    unread = [(stage, {each.pointer: each for each in reversed(own) if stage.is_unread(each)}) for stage, own in found]
    first = {pointer: each for _, own in reversed(unread) for pointer, each in own.items()}
    return tuple(
        each
        for pointer, each in first.items()
        if all(own.keys() & {*_with_parents(pointer)} for stage, own in unread if stage.has_common(pointer))
    )


def _with_parents(pointer: str) -> Iterator[str]:
    while pointer:
        yield pointer
        pointer = pointer.rpartition("/")[0]


def told(found: Found) -> tuple[Diagnostic, ...]:
    """The findings about all stages; what is wrong with all of them in the same way is said once."""
    with_all = set.intersection(*({*own} for _, own in found)) if found else set()
    once = {each for each in with_all if all(stage.is_common(each) for stage, _ in found)}
    others = [stage.located(each) for stage, own in found for each in own if each not in once]
    return in_order([*once, *others])


T = TypeVar("T")


def of_each(stages: Sequence[StageText], action: Callable[[StageText], T]) -> tuple[T, ...]:
    """What an action gives for each stage. Raises RecipeError with the findings about all of them."""
    done: list[T] = []
    found: list[tuple[StageText, tuple[Diagnostic, ...]]] = []
    for stage in stages:
        try:
            done.append(action(stage))
            found.append((stage, ()))
        except RecipeError as error:
            found.append((stage, error.diagnostics))
    stop_on_error(told(found))
    return tuple(done)
