"""Files -> Document: a recipe, what it extends, and what the command line sets."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from compiler.diagnostics import Diagnostic, Place, RecipeError, stop_on_error
from compiler.document import MAX_DEPTH, Document, Node, decode, escape, index_in, parse, tokens
from compiler.files import is_file, real_path
from compiler.project import Project
from compiler.recipe import Split, Training
from compiler.shorthand import expand
from compiler.tasks import TASKS, module_of
from compiler.tasks.multi_task import ROOT
from compiler.typed import below, members, records, tag

_KINDS = frozenset({"path", "name", "fraction"})  # a split is one of these
_LENGTHS = frozenset({"epochs", "max_steps"})  # a training has one of these


def load(path: Path, overrides: Sequence[str] = (), *, allowed: tuple[Path, ...] = ()) -> Document:
    """The document of a recipe file, with what it extends merged below it and `/pointer=value` overrides on top.

    `allowed`: folders outside of the project that it may extend recipes of. Raises RecipeError.
    """
    document = _load(path, (), Project.of(path.parent.absolute(), allowed))
    for override in overrides:
        document = set_value(document, override)
    return document


def load_text(text: str, file: str) -> Document:
    """The document of a recipe's text, for recipes that are not in a file. It can't extend another."""
    root = expand(parse(text, file).root)
    if (bases := root.get("extends")) is not None:
        message = "a recipe that is not in a file can't extend another"
        raise RecipeError([Diagnostic(code="R006", at=bases.at, pointer="/extends", message=message, hint="save it")])
    return Document(root, file)


def _load(path: Path, children: tuple[Path, ...], project: Project) -> Document:
    shown = shown_path(path)
    try:
        text = decode(path.read_bytes(), shown)
    except OSError as error:
        raise RecipeError([_unreadable(shown, error)]) from None
    document = parse(text, shown, folder=str(path.parent.absolute()))
    root = expand(document.root)
    return Document(_extended(root, path, (*children, path.resolve()), project), shown)


def _unreadable(shown: str, error: OSError) -> Diagnostic:
    reason = (error.strerror or "unknown error").lower()
    message = f"the file can't be read: {reason}"
    return Diagnostic(code="R006", at=Place(file=shown), message=message, hint="check the path")


def shown_path(path: Path) -> str:
    """A path as a person reads it: relative to the working folder where it is inside."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def _extended(root: Node, path: Path, chain: tuple[Path, ...], project: Project) -> Node:
    bases = root.get("extends")
    if bases is None:
        return root
    listed = bases.value if isinstance(bases.value, tuple) else (bases,)
    layers: list[Node] = []
    found: list[Diagnostic] = []
    for index, base in enumerate(listed):
        pointer = f"/extends/{index}" if isinstance(bases.value, tuple) else "/extends"
        try:
            layers.append(_base(path.parent, base, pointer, chain, project))
        except RecipeError as error:
            found += error.diagnostics
    stop_on_error(found)
    return functools.reduce(merge, [*layers, root.without("extends")])


def _base(folder: Path, written: Node, pointer: str, chain: tuple[Path, ...], project: Project) -> Node:
    def wrong(code: str, message: str, hint: str) -> RecipeError:
        return RecipeError([Diagnostic(code=code, at=written.at, pointer=pointer, message=message, hint=hint)])

    if not isinstance(written.value, str):
        raise wrong("R102", "extends takes a path or a list of paths", 'for instance "extends": "base.json"')
    target = folder / written.value
    real = real_path(target)
    if real is None:
        raise wrong("R006", f'"{written.value}" is not a path here', "write the path of a recipe")
    stop_on_error(project.check_path(folder, written.value, written.at, pointer))
    if real in chain:
        circle = " -> ".join(p.name for p in (*chain[chain.index(real) :], target))
        raise wrong("R007", f"recipes extend each other in a circle: {circle}", "remove one")
    if not is_file(target):
        raise wrong("R006", f"no file {shown_path(target)}", "paths are relative to the file that writes them")
    return _load(target, chain, project).root


def merge(base: Node, over: Node, shape: Any = ROOT) -> Node:
    """`over` on `base`: objects merge, all else replaces; so does an object whose tag or kind changes."""
    if not isinstance(base.value, Mapping) or not isinstance(over.value, Mapping):
        return over
    owners = records(shape)
    if _changes_kind(owners, base.value, over.value):
        return over
    merged = dict(base.value)
    if Training in owners and _LENGTHS & set(over.value):
        merged = {key: value for key, value in merged.items() if key not in _LENGTHS}
    for key, value in over.value.items():
        merged[key] = merge(merged[key], value, below(shape, key)) if key in merged else value
    return Node(merged, over.at, over.folder, {**base.keys, **over.keys})


def _changes_kind(owners: tuple[type, ...], base: Mapping[str, Node], over: Mapping[str, Node]) -> bool:
    if Split in owners:
        return bool(_KINDS & set(base) and _KINDS & set(over)) and _KINDS & set(base) != _KINDS & set(over)
    named = tag(owners[0]) if owners else None
    return named is not None and {named[0]} <= set(base) & set(over) and base[named[0]].value != over[named[0]].value


def set_value(document: Document, override: str) -> Document:
    """The document with `/pointer=value` set, as if a recipe that says only this extended it: objects merge.

    The value is JSON, or else taken as a string. An item is appended to a list, or to its default, by the token "-".
    """
    file = f"--set {override}"
    pointer, equals, text = override.partition("=")
    place = Place(file=file, column=len("--set ") + len(pointer) + 2)
    path = tokens(pointer)
    if not (equals and pointer.startswith("/") and pointer.isprintable() and len(path) <= MAX_DEPTH):
        message = "an override is a JSON Pointer, =, and a value"
        raise _not_settable(Place(file=file), "", message, "for instance --set /training/epochs=1")
    if path[0] == "extends":
        message, hint = (
            "a recipe extends others when it is read, before values are set",
            "write a recipe that extends both",
        )
        raise _not_settable(place, pointer, message, hint)
    value = _override_value(text, place)
    there = document.find(pointer)
    if value.value == {} and there is not None and there.members:
        hint = f"set what is in it: --set {pointer}/{next(iter(there.members))}=..."
        raise _not_settable(place, pointer, "an object merges into what is there: an empty one changes nothing", hint)
    root = _with_default(document, path, place)
    return Document(merge(root, expand(_overlay(root, path, value, ""))), document.file)


def _with_default(document: Document, path: list[str], place: Place) -> Node:
    """The recipe, with the default of a list that a path goes into and that is not written: items stand beside it."""
    for length in range(1, len(path)):
        walked = path[:length]
        shape = functools.reduce(below, walked, ROOT)
        written = document.find("".join(f"/{escape(token)}" for token in walked))
        if written is None and any(get_origin(member) is tuple for member in members(shape)):
            items = _default_items(document, walked, place)
            return merge(document.root, expand(_overlay(document.root, walked, Node(items, place), "")))
    return document.root


def _default_items(document: Document, path: list[str], place: Place) -> tuple[Node, ...]:
    """The items that a list has when it is not written: of metrics, the task's; of a stage's, the recipe's first."""
    stage = "".join(f"/{token}" for token in path[:-1])
    task = document.find(f"{stage}/task/type")
    known = TASKS.get(task.value) if task is not None and isinstance(task.value, str) else None
    common = document.find("/metrics")
    if path[-1:] != ["metrics"]:
        return ()
    if common is not None and isinstance(common.value, tuple):
        return common.value
    return tuple(Node(metric.type, place) for metric in module_of(known).DEFAULT_METRICS) if known else ()


def _not_settable(at: Place, pointer: str, message: str, hint: str) -> RecipeError:
    return RecipeError([Diagnostic(code="R008", at=at, pointer=pointer, message=message, hint=hint)])


def _override_value(text: str, place: Place) -> Node:
    folder = str(Path.cwd())
    try:
        node = parse(text, place.file, folder=folder).root
    except RecipeError as error:
        if text.startswith(("{", "[", '"')) or not text.isprintable():
            first = error.diagnostics[0]
            message = f"the value is neither JSON nor a word: {first.message}"
            raise _not_settable(place, "", message, first.hint or "write JSON") from None
        return Node(text, place, folder)
    return _moved(node, place)


def _moved(node: Node, place: Place) -> Node:
    if isinstance(node.value, tuple):
        return Node(tuple(_moved(item, place) for item in node.value), place, node.folder)
    if isinstance(node.value, Mapping):
        moved = {key: _moved(item, place) for key, item in node.value.items()}
        return Node(moved, place, node.folder, dict.fromkeys(moved, place))
    return Node(node.value, place, node.folder)


def _overlay(node: Node | None, path: list[str], value: Node, walked: str) -> Node:
    """What has to be merged on a node, so that the value stands at the path below it."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    here = f"{walked}/{escape(head)}"
    if node is None or node.value is None:
        return Node({head: _overlay(None, rest, value, here)}, value.at, value.folder, {head: value.at})
    if isinstance(node.value, tuple):
        return _with_item(node, node.value, head, rest, value, here)
    if not isinstance(node.value, Mapping):
        message = f"{walked or 'the recipe'} is neither an object nor a list: nothing can be set inside it"
        raise _not_settable(value.at, here, message, "shorten the pointer")
    below_it = _overlay(node.get(head), rest, value, here)
    return Node({head: below_it}, node.at, node.folder, {head: node.keys.get(head, value.at) if rest else value.at})


def _with_item(node: Node, items: tuple[Node, ...], head: str, rest: list[str], value: Node, here: str) -> Node:
    if head == "-":
        return Node((*items, _overlay(None, rest, value, here)), node.at, node.folder)
    index = index_in(items, head)
    if index is None:
        message = f"the list has {len(items)} items, and no item {head}"
        raise _not_settable(value.at, here, message, '"-" appends')
    changed = _overlay(items[index], rest, value, here)
    if rest:
        shape = functools.reduce(below, tokens(here), ROOT)
        changed = merge(items[index], changed, shape)
    return Node((*items[:index], changed, *items[index + 1 :]), node.at, node.folder)
