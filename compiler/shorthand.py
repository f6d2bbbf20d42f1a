"""Bare strings where an object may stand: "lora" is {"type": "lora"}, "rows.jsonl" is {"path": "rows.jsonl"}."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from compiler.document import Node
from compiler.tasks.multi_task import ROOT
from compiler.typed import below, members, records, tag


def expand(root: Node) -> Node:
    """A recipe, or what is merged on one, with every shorthand written out; what has no known shape stays as it is."""
    return _expand(ROOT, root)


def _expand(shape: Any, node: Node) -> Node:
    owners = records(shape)
    if owners and isinstance(node.value, str):
        return _written_out(owners, node)
    if owners and isinstance(node.value, Mapping):
        return _record(_owners(owners, node), node, node.value)
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


def _owners(owners: tuple[type, ...], node: Node) -> tuple[type, ...]:
    """What an object may be of: as its tag says; any of them where only a file that it is merged on has the tag."""
    named = tag(owners[0])
    written = node.get(named[0]) if named else None
    if named is None or written is None:
        return owners
    return tuple(owner for owner in owners if tag(owner) == (named[0], written.value))


def _record(owners: tuple[type, ...], node: Node, value: Mapping[str, Node]) -> Node:
    if not owners:
        return node
    shape = functools.reduce(operator.or_, owners)
    return dataclasses.replace(node, value={key: _expand(below(shape, key), child) for key, child in value.items()})
