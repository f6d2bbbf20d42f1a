"""Document -> a document for each of its stages: a stage is a recipe, merged on what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from compiler import methods
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic, RecipeError, in_order
from compiler.document import Document, Node
from compiler.loading import merge
from compiler.recipe import Recipe, Stage
from compiler.typed import fields

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
    assert isinstance(item.value, Mapping), "its shape was checked"
    left_out = {"stages", *_ONLY_IN_STAGES, *(() if last else _OF_THE_LAST)}
    own = _without(item, {"name"})
    whole = merge(_without(document.root, left_out), own)
    root = Node(whole.value, item.at, document.root.folder, whole.keys)  # paths start where the recipe's do
    name = str(item.value["name"].value)
    return StageText(name=name, pointer=f"/stages/{number}", own=own, document=Document(root, document.file))


def _without(node: Node, left_out: set[str]) -> Node:
    assert isinstance(node.value, Mapping), "a recipe and a stage are objects"
    return replace(node, value={key: value for key, value in node.value.items() if key not in left_out})


def check_stages(document: Document) -> Iterator[Diagnostic]:
    """Stages have names of their own, and what each of them has stands in no other place."""
    written = document.find("/stages")
    if written is None or not isinstance(written.value, tuple):
        return
    for key in _ONLY_IN_STAGES:
        if document.find(f"/{key}") is not None:
            message, hint = f'nothing reads "{key}" beside "stages"', "put it into the stages that it is for"
            yield Diagnostic(code="R202", at=document.key_at(f"/{key}"), pointer=f"/{key}", message=message, hint=hint)
    seen: dict[object, int] = {}
    for number, item in enumerate(written.value):
        name = item.get("name")
        if name is not None and seen.setdefault(name.value, number) != number:
            message = f'the stage "{name.value}" stands twice, first as item {seen[name.value]}'
            pointer = f"/stages/{number}/name"
            yield Diagnostic(code="R203", at=name.at, pointer=pointer, message=message, hint="give it another name")


def check_order(stages: Sequence[StageText], recipes: Sequence[Recipe]) -> Iterator[Diagnostic]:
    """Each stage but the last leaves a whole model, which the next one starts from."""
    for stage, recipe in zip(stages[:-1], recipes[:-1], strict=True):
        module = methods.module_of(recipe.method)
        if module.SAVES == "adapter" and not module.MERGES:
            message = f'what the method "{recipe.method.type}" trains is not merged: no stage can start from it'
            yield stage.located(recipe.finding("R230", "/method", message, "make it the last stage"))


def read_by_some(found: Sequence[tuple[StageText, tuple[Diagnostic, ...]]]) -> tuple[Diagnostic, ...]:
    """The findings of all stages. What is common to them is unread only where none of them reads it."""
    unread = [
        {(each.code, each.pointer) for each in own if each.code == "R202" and _is_common(stage, each)}
        for stage, own in found
    ]
    by_none = set.intersection(*unread)
    told: list[Diagnostic] = []
    for stage, own in found:
        for each in own:
            if each.code == "R202" and _is_common(stage, each):
                told += [each] if stage is found[0][0] and (each.code, each.pointer) in by_none else []
            else:
                told.append(stage.located(each))
    return in_order(told)


def _is_common(stage: StageText, found: Diagnostic) -> bool:
    return stage.own is not None and stage.located(found).pointer == found.pointer


T = TypeVar("T")


def of_each(stages: Sequence[StageText], action: Callable[[StageText], T]) -> tuple[T, ...]:
    """What an action gives for each stage. Raises RecipeError with the findings about all of them."""
    done: list[T] = []
    found: list[Diagnostic] = []
    for stage in stages:
        try:
            done.append(action(stage))
        except RecipeError as error:
            found += map(stage.located, error.diagnostics)
    if found:
        raise RecipeError(in_order(found))
    return tuple(done)
