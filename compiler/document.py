"""JSON text -> Document: values that remember where they were written."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]

from compiler.diagnostics import Diagnostic, Place, RecipeError, errors, in_order

MAX_DEPTH = 64
MAX_INTEGER = 2**53  # beyond it JSON readers disagree about the value (RFC 8259, section 6)

Scalar = None | bool | int | float | str

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")  # RFC 6901, section 4
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_TAIL = re.compile(r"[0-9A-Za-z_.]{1,20}")  # what may not follow a number: 01, 0x1, 1_000, 1.
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None}
# What stands where a value or a key is expected -> what to do.
_HINTS = {
    "": "close what is open",
    "'": "use double quotes",
    "/": "JSON has no comments: remove it",
    "#": "JSON has no comments: remove it",
    "]": "remove the comma before it",
    "}": "remove the comma before it",
    ",": "remove the extra comma",
    "+": "write the number without the plus",
    ".": "write a digit before the point, as in 0.5",
}
_WORD = re.compile(r"-?[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value, its place, the folder of its file (paths in it start there), and the places of an object's keys."""

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    at: Place
    folder: str = ""
    keys: Mapping[str, Place] = field(default_factory=dict)

    def plain(self) -> object:
        """The value without places: dict, list, str, int, float, bool or None."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, Mapping):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    @property
    def members(self) -> Mapping[str, Node]:
        """What an object has by its keys; nothing of another value."""
        return self.value if isinstance(self.value, Mapping) else {}

    def get(self, key: str) -> Node | None:
        """The member of an object, or None."""
        return self.members.get(key)

    def without(self, *keys: str) -> Node:
        """An object without some of its keys; another value as it is."""
        if not isinstance(self.value, Mapping):
            return self
        return replace(self, value={key: value for key, value in self.value.items() if key not in keys})


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text: its root and the name by which its file is shown."""

    root: Node
    file: str

    def find(self, pointer: str) -> Node | None:
        """The node under a JSON Pointer, or None when there is none."""
        node: Node | None = self.root
        for token in tokens(pointer):
            if node is None:
                return None
            if isinstance(node.value, tuple):
                index = index_in(node.value, token)
                node = None if index is None else node.value[index]
            else:
                node = node.get(token)
        return node

    def at(self, pointer: str) -> Place:
        """The place of the value under a pointer, or of its nearest ancestor that was written."""
        while True:
            node = self.find(pointer)
            if node is not None:
                return node.at
            pointer = pointer.rpartition("/")[0]

    def without(self, pointer: str) -> Document:
        """The document without the key that a pointer into its objects ends in."""
        return replace(self, root=_without(self.root, tokens(pointer)))

    def key_at(self, pointer: str) -> Place:
        """The place of the key that a pointer ends in."""
        parent, _, last = pointer.rpartition("/")
        node = self.find(parent)
        return node.keys.get(unescape(last), self.at(pointer)) if node else self.at(pointer)


def _without(node: Node, path: list[str]) -> Node:
    head, *rest = path
    child = node.get(head)
    if child is None or not rest:
        return node.without(head)
    return replace(node, value={**node.members, head: _without(child, rest)})


def tokens(pointer: str) -> list[str]:
    """The reference tokens of a JSON Pointer, unescaped."""
    return [unescape(token) for token in pointer.split("/")[1:]]


def index_in(items: tuple[Node, ...], token: str) -> int | None:
    """The index that a reference token names in a list, or None when there is no such item."""
    return int(token) if _INDEX.fullmatch(token) and int(token) < len(items) else None


def escape(key: str) -> str:
    """A key as a reference token of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def unescape(token: str) -> str:
    """A reference token as a key."""
    return token.replace("~1", "/").replace("~0", "~")


def decode(data: bytes, file: str) -> str:
    """The text of a UTF-8 file; raises RecipeError with the place of the first bad byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]  # without the byte order mark
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        place = Place(file=file, line=before.count(b"\n") + 1, column=column)
        raise RecipeError(
            [Diagnostic(code="R001", at=place, message="the file is not UTF-8 text", hint="save it as UTF-8")]
        ) from None


def parse(text: str, file: str, *, folder: str = "") -> Document:
    """The document in a JSON text. Raises RecipeError with the place of what is not JSON."""
    parser = _Parser(text, file, folder)
    root = parser.document()
    found = in_order(parser.found)
    if errors(found):
        raise RecipeError(found)
    return Document(root, file)


class _Broken(Exception):
    """The text stops being JSON here: position, message, hint."""


class _Parser:
    def __init__(self, text: str, file: str, folder: str) -> None:
        self.text = text
        self.file = file
        self.folder = folder
        self.found: list[Diagnostic] = []
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, position: int) -> Place:
        line = bisect_right(self.lines, position)
        return Place(file=self.file, line=line, column=position - self.lines[line - 1] + 1)

    def node(self, value: Scalar | tuple[Node, ...], position: int) -> Node:
        return Node(value, self.place(position), self.folder)

    def document(self) -> Node:
        try:
            node, position = self.value(self.skip(0), 0)
            position = self.skip(position)
            if position != len(self.text):
                raise _Broken(position, "more text after the end of the JSON value", "remove it")
            return node
        except _Broken as broken:
            position, message, hint = broken.args
            raise RecipeError(
                [
                    *self.found,
                    Diagnostic(code="R001", at=self.place(position), message=f"not valid JSON: {message}", hint=hint),
                ]
            ) from None

    def skip(self, position: int) -> int:
        match = _SPACE.match(self.text, position)
        assert match is not None
        return match.end()

    def value(self, position: int, depth: int) -> tuple[Node, int]:
        if depth > MAX_DEPTH:
            raise _Broken(position, f"nested deeper than {MAX_DEPTH} levels", "flatten it")
        start = self.text[position : position + 1]
        if start == "{":
            return self.object(position, depth)
        if start == "[":
            return self.array(position, depth)
        if start == '"':
            text, end = self.string(position)
            return self.node(text, position), end
        return self.scalar(position)

    def string(self, position: int) -> tuple[str, int]:
        try:
            text, end = scanstring(self.text, position + 1)
        except JSONDecodeError as error:
            raise _Broken(error.pos, *self.broken_string(error)) from None
        if _SURROGATE.search(text):
            raise _Broken(position, "a lone surrogate in a string", "write the pair of \\u escapes, or the character")
        return text, end

    def broken_string(self, error: JSONDecodeError) -> tuple[str, str]:
        if error.msg.startswith("Invalid control character"):
            written = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found := self.text[error.pos], f"\\u{ord(found):04x}")
            return "a control character in a string", f'write it as "{written}", or close the string before it'
        if error.msg.startswith("Unterminated string"):
            return "the string is not closed", "close it with a double quote"
        return error.msg[:1].lower() + error.msg[1:], 'a backslash itself is written "\\\\"'

    def scalar(self, position: int) -> tuple[Node, int]:
        number = _NUMBER.match(self.text, position)
        if number is not None and (tail := _TAIL.match(self.text, number.end())):
            found = f"{number.group()}{tail.group()}"
            raise _Broken(position, f"{found} is not a number that JSON has", "write it as in 10, -0.5 or 3e-4")
        if number is not None:
            return self.node(self.number(number, position), position), number.end()
        word = _WORD.match(self.text, position)
        if word is not None and word.group() in _WORDS:
            return self.node(_WORDS[word.group()], position), word.end()
        if word is not None and word.group().lstrip("-").casefold() in ("nan", "infinity", "inf"):
            self.report("R003", position, f"{word.group()} is not a number that JSON has", "write a finite number")
            return self.node(0, position), word.end()
        raise _Broken(position, *self.surprise(position, word))

    def surprise(self, position: int, word: re.Match[str] | None) -> tuple[str, str]:
        if not self.text.strip():
            return "the text is empty", "a recipe is an object: {...}"
        if position >= len(self.text):
            return "the text ends before the value does", "close what is open"
        if word is not None:
            alike = {"True": "true", "False": "false", "None": "null"}.get(word.group())
            hint = f"write {alike}" if alike else "put text in double quotes"
            return f'found "{word.group()}" where a value is expected', hint
        start = self.text[position]
        after_comma = self.text[:position].rstrip().endswith(",")
        hint = "write the value" if start in ("]", "}") and not after_comma else _HINTS.get(start, "")
        return f'found "{start}" where a value is expected', hint

    def number(self, match: re.Match[str], position: int) -> int | float:
        whole = match.group(1) is None and match.group(2) is None
        if whole and len(match.group()) < 20 and abs(int(match.group())) <= MAX_INTEGER:
            return int(match.group())
        value = float(match.group())
        if whole or not math.isfinite(value):
            self.report("R003", position, "the number is too large", f"at most {MAX_INTEGER} in size")
            return 0
        return int(value) if value.is_integer() and abs(value) <= MAX_INTEGER else value  # 8.0 is 8

    def array(self, position: int, depth: int) -> tuple[Node, int]:
        start = position
        items: list[Node] = []
        position = self.skip(position + 1)
        if self.text.startswith("]", position):
            return self.node((), start), position + 1
        while True:
            item, position = self.value(position, depth + 1)
            items.append(item)
            position, done = self.separator(position, "]", "array")
            if done:
                return self.node(tuple(items), start), position

    def object(self, position: int, depth: int) -> tuple[Node, int]:
        at, folder = self.place(position), self.folder
        members: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        position = self.skip(position + 1)
        if self.text.startswith("}", position):
            return Node(members, at, folder, keys), position + 1
        while True:
            key, value, start, position = self.member(position, depth)
            if key in members:
                message = f'the key "{key}" is written twice, first at line {keys[key].line}'
                self.report("R002", start, message, "keep one")
            else:
                members[key], keys[key] = value, self.place(start)
            position, done = self.separator(position, "}", "object")
            if done:
                return Node(members, at, folder, keys), position

    def member(self, start: int, depth: int) -> tuple[str, Node, int, int]:
        if not self.text.startswith('"', start):
            found = self.text[start : start + 1]
            what = f'found "{found}"' if found else "the text ends"
            hint = _HINTS[found] if found in ("}", ",", "/", "#", "") else "keys stand in double quotes"
            raise _Broken(start, f"{what} where a key is expected", hint)
        key, position = self.string(start)
        position = self.skip(position)
        if not self.text.startswith(":", position):
            raise _Broken(position, f'a ":" is expected after the key "{key}"', 'write ":" and the value')
        value, position = self.value(self.skip(position + 1), depth + 1)
        return key, value, start, position

    def separator(self, position: int, close: str, kind: str) -> tuple[int, bool]:
        after = self.skip(position)
        if self.text.startswith(close, after):
            return after + 1, True
        if self.text.startswith(",", after):
            return self.skip(after + 1), False
        if after >= len(self.text):
            raise _Broken(after, f"the text ends inside an {kind}", f'close it with "{close}"')
        raise _Broken(position, f'a "," or "{close}" is expected here', f"separate the {kind}'s members with commas")

    def report(self, code: str, position: int, message: str, hint: str) -> None:
        self.found.append(Diagnostic(code=code, at=self.place(position), message=message, hint=hint))


def walk(node: Node, pointer: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below and with this one, parents first, with its pointer."""
    yield pointer, node
    if isinstance(node.value, tuple):
        for index, item in enumerate(node.value):
            yield from walk(item, f"{pointer}/{index}")
    elif isinstance(node.value, Mapping):
        for key, item in node.value.items():
            yield from walk(item, f"{pointer}/{escape(key)}")
