"""The operators of a graph, read from its file by the standard library alone: onnxruntime does not tell them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from runtimes.export.session import failure

_GRAPH, _NODE, _OPERATOR = 7, 1, 4
"""The numbers of ModelProto.graph, GraphProto.node and NodeProto.op_type (onnx.proto3 of the ONNX standard)."""
_VARINT, _COUNTED = 0, 2
_FIXED = {1: 8, 5: 4}
"""Of the last three bits of a field's tag: a number, what begins with its own size, and how many bytes others have."""
_Span = tuple[int, int]


def operators(onnx_file: Path) -> frozenset[str]:
    """The types of the nodes of a graph, those inside of other nodes left out. Weights are passed over unread.

    Raises RunError where the file is no graph.
    """
    try:
        with onnx_file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return frozenset(_operators(data))
    except (OSError, ValueError, IndexError) as error:
        raise failure(onnx_file, f"can't be read: {error}") from error


def _operators(data: mmap.mmap) -> Iterator[str]:
    for graph in _fields(data, (0, len(data)), _GRAPH):
        for node in _fields(data, graph, _NODE):
            for start, end in _fields(data, node, _OPERATOR):
                yield data[start:end].decode()


def _fields(data: mmap.mmap, span: _Span, number: int) -> Iterator[_Span]:
    """Where the contents of a message's fields of a number are. Raises ValueError for what is no message."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        kind, size = tag & 7, 0
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _COUNTED:
            size, at = _varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError("it is not a protobuf message")
        after = at + size
        if after > end:
            raise ValueError("it ends too early")
        if (tag >> 3, kind) == (number, _COUNTED):
            yield at, after
        at = after


def _varint(data: mmap.mmap, at: int) -> _Span:
    """A number of as many bytes as it needs, seven bits in each, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if not byte & 0x80:
            return value, at
