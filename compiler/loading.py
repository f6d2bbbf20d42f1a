"""Files -> Document: a recipe, what it extends, and what the command line sets. The compiler's only reader of recipes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from compiler.diagnostics import Diagnostic, Place, RecipeError
from compiler.document import Document, Node, decode, escape, parse, tokens
from compiler.shorthand import expand
from compiler.typed import TAGS

_KINDS = frozenset({"path", "name", "fraction"})  # a split is one of these
_LENGTHS = frozenset({"epochs", "max_steps"})  # a training has one of these


def load(path: Path, overrides: Sequence[str] = ()) -> Document:
    """The document of a recipe file, with what it extends merged below it and `/pointer=value` overrides on top."""
    document = _load(path, ())
    for override in overrides:
        document = set_value(document, override)
    return document


def load_text(text: str, file: str) -> Document:
    """The document of a recipe's text, for recipes that are not in a file. It can't extend another."""
    document = parse(text, file)
    return Document(expand(document.root), file)


def _load(path: Path, children: tuple[Path, ...]) -> Document:
    shown = shown_path(path)
    try:
        text = decode(path.read_bytes(), shown)
    except OSError as error:
        raise RecipeError([_unreadable(shown, error)]) from None
    document = parse(text, shown, folder=str(path.parent.absolute()))
    root = expand(document.root)
    return Document(_extended(root, path, (*children, path.resolve())), shown)


def _unreadable(shown: str, error: OSError) -> Diagnostic:
    reason = (error.strerror or "unknown error").lower()
    return Diagnostic(code="R006", at=Place(file=shown), message=f"the file can't be read: {reason}", hint="check the path")


def shown_path(path: Path) -> str:
    """A path as a person reads it: relative to the working folder where it is inside."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def _extended(root: Node, path: Path, chain: tuple[Path, ...]) -> Node:
    bases = root.get("extends")
    if bases is None or not isinstance(root.value, Mapping):
        return root
    own = _without(root, "extends")
    listed = bases.value if isinstance(bases.value, tuple) else (bases,)
    merged: Node | None = None
    for base in listed:
        if not isinstance(base.value, str):
            message = "extends takes a path or a list of paths"
            raise RecipeError([Diagnostic(code="R102", at=base.at, pointer="/extends", message=message)])
        below = _base(path.parent / base.value, base, chain)
        merged = below if merged is None else merge(merged, below)
    return own if merged is None else merge(merged, own)


def _base(target: Path, written: Node, chain: tuple[Path, ...]) -> Node:
    if target.resolve() in chain:
        circle = " -> ".join(p.name for p in (*chain[chain.index(target.resolve()) :], target))
        message = f"recipes extend each other in a circle: {circle}"
        raise RecipeError([Diagnostic(code="R007", at=written.at, pointer="/extends", message=message, hint="remove one")])
    if not target.is_file():
        message = f"no file {shown_path(target)}"
        hint = "paths are relative to the file that writes them"
        raise RecipeError([Diagnostic(code="R006", at=written.at, pointer="/extends", message=message, hint=hint)])
    return _load(target, chain).root


def _without(node: Node, key: str) -> Node:
    assert isinstance(node.value, Mapping)
    return Node({k: v for k, v in node.value.items() if k != key}, node.at, node.folder, node.keys)


def merge(base: Node, over: Node) -> Node:
    """`over` on `base`: objects merge, all else replaces; so does an object whose tag or kind changes."""
    if not isinstance(base.value, Mapping) or not isinstance(over.value, Mapping) or _changes_kind(base.value, over.value):
        return over
    members = dict(base.value)
    if _LENGTHS & set(over.value):
        members = {key: value for key, value in members.items() if key not in _LENGTHS}
    for key, value in over.value.items():
        members[key] = merge(members[key], value) if key in members else value
    return Node(members, over.at, over.folder, {**base.keys, **over.keys})


def _changes_kind(base: Mapping[str, Node], over: Mapping[str, Node]) -> bool:
    for name in TAGS:
        if name in over and (name not in base or base[name].value != over[name].value):
            return True
    return bool(_KINDS & set(over)) and bool(_KINDS & set(base)) and (_KINDS & set(over)) != (_KINDS & set(base))


def set_value(document: Document, override: str) -> Document:
    """The document with `/pointer=value` set; the value is JSON, or else taken as a string."""
    file = f"--set {override}"
    pointer, equals, text = override.partition("=")
    if not equals or not pointer.startswith("/"):
        message = "an override is a JSON Pointer, =, and a value"
        hint = "for instance --set /training/epochs=1"
        raise RecipeError([Diagnostic(code="R008", at=Place(file=file), message=message, hint=hint)])
    place = Place(file=file, column=len("--set ") + len(pointer) + 2)
    value = _override_value(text, place)
    root = _set(document.root, tokens(pointer), value, "")
    return Document(expand(root), document.file)


def _override_value(text: str, place: Place) -> Node:
    folder = str(Path.cwd())
    try:
        node = parse(text, place.file, folder=folder).root
    except RecipeError:
        return Node(text, place, folder)
    return _moved(node, place)


def _moved(node: Node, place: Place) -> Node:
    if isinstance(node.value, tuple):
        return Node(tuple(_moved(item, place) for item in node.value), place, node.folder)
    if isinstance(node.value, Mapping):
        members = {key: _moved(item, place) for key, item in node.value.items()}
        return Node(members, place, node.folder, dict.fromkeys(members, place))
    return Node(node.value, place, node.folder)


def _set(node: Node, path: list[str], value: Node, walked: str) -> Node:
    if not path:
        return merge(node, value) if isinstance(value.value, Mapping) else value
    head, rest = path[0], path[1:]
    here = f"{walked}/{escape(head)}"
    if isinstance(node.value, tuple):
        return _set_item(node, head, rest, value, here)
    if not isinstance(node.value, Mapping):
        message = f"{walked or 'the recipe'} is neither an object nor a list: nothing can be set inside it"
        raise RecipeError([Diagnostic(code="R008", at=value.at, pointer=here, message=message, hint="shorten the pointer")])
    below = node.value.get(head, Node({}, value.at, value.folder) if rest else value)
    own = Node({head: _set(below, rest, value, here)}, node.at, node.folder, {head: value.at})
    if rest or not isinstance(node.value.get(head, value).value, Mapping):
        return _replace_member(node, head, own)
    return merge(node, own)


def _replace_member(node: Node, key: str, own: Node) -> Node:
    assert isinstance(node.value, Mapping) and isinstance(own.value, Mapping)
    if _changes_kind(node.value, own.value):
        return own
    members = {k: v for k, v in node.value.items() if not (key in _LENGTHS and k in _LENGTHS)}
    return Node({**members, **own.value}, node.at, node.folder, {**node.keys, **own.keys})


def _set_item(node: Node, head: str, rest: list[str], value: Node, here: str) -> Node:
    assert isinstance(node.value, tuple)
    items = list(node.value)
    if head == "-" and not rest:
        return Node((*items, value), node.at, node.folder)
    if not head.isdecimal() or int(head) >= len(items):
        message = f"the list has {len(items)} items, and no item {head}"
        raise RecipeError([Diagnostic(code="R008", at=value.at, pointer=here, message=message, hint='"-" appends')])
    items[int(head)] = _set(items[int(head)], rest, value, here)
    return Node(tuple(items), node.at, node.folder)
