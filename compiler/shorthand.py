"""Bare strings where an object may stand: "lora" is {"type": "lora"}, "rows.jsonl" is {"path": "rows.jsonl"}."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from compiler.document import Node
from compiler.recipe import Recipe
from compiler.tasks.multi_task import MultiRecipe, is_multi_task
from compiler.typed import fields, members, records, tag


def expand(root: Node) -> Node:
    """The recipe with every shorthand written out; what has no known shape stays as it is."""
    return _record(MultiRecipe if is_multi_task(root) else Recipe, root)


def _expand(shape: Any, node: Node) -> Node:
    owners = records(shape)
    if owners and isinstance(node.value, str):
        return _written_out(owners, node)
    if owners and isinstance(node.value, Mapping):
        return _record(_owner(owners, node), node)
    if isinstance(node.value, Mapping):
        return _mapping(shape, node, node.value)
    if isinstance(node.value, tuple):
        for member in members(shape):
            if get_origin(member) is tuple:
                item = get_args(member)[0]
                return dataclasses.replace(node, value=tuple(_expand(item, child) for child in node.value))
    return node


def _mapping(shape: Any, node: Node, value: Mapping[str, Node]) -> Node:
    """An object whose keys are names."""
    for member in members(shape):
        if get_origin(member) is Mapping:
            item = get_args(member)[1]
            return dataclasses.replace(node, value={key: _expand(item, child) for key, child in value.items()})
    return node


def _written_out(owners: tuple[type, ...], node: Node) -> Node:
    named = tag(owners[0])
    key = named[0] if named else getattr(owners[0], "SHORTHAND", None)
    return Node({key: node}, node.at, node.folder, {key: node.at}) if key else node


def _owner(owners: tuple[type, ...], node: Node) -> type | None:
    for owner in owners:
        named = tag(owner)
        if named is None or ((child := node.get(named[0])) is not None and child.value == named[1]):
            return owner
    return None


def _record(owner: type | None, node: Node) -> Node:
    if owner is None or not isinstance(node.value, Mapping):
        return node
    shapes = {f.name: f.shape for f in fields(owner)}
    expanded = {key: _expand(shapes[key], child) if key in shapes else child for key, child in node.value.items()}
    return dataclasses.replace(node, value=expanded)
