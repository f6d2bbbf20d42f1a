"""How a row's values become a conversation, from the layouts that people have. Both halves read chat rows here."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compiler.data.messages import BETWEEN, Message, Role, ToolCall, as_json, messages_in, tools_in
from compiler.data.texts import BadValueError, found, text_of

__all__ = [
    "LAYOUTS",
    "ROLES",
    "Conversation",
    "Layout",
    "Message",
    "Role",
    "Shape",
    "ToolCall",
    "after_examples",
    "answer_of",
    "as_json",
    "conversation_of",
    "layout_of",
    "read_conversation",
]


_INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages in order, and the JSON schemas of the tools that the assistant may call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_passage(self) -> bool:
        """Whether it is a text without roles: no template is for it."""
        return self.messages[0].role == "text"

    @property
    def last_answer(self) -> int:
        """The index of the assistant's last message; the number of messages where it has none."""
        answers = [index for index, message in enumerate(self.messages) if message.role == "assistant"]
        return answers[-1] if answers else len(self.messages)

    @property
    def first_turn(self) -> int:
        """The index of the first message after the system's."""
        return next((at for at, message in enumerate(self.messages) if message.role not in _INSTRUCTIONS), 0)

    def until(self, end: int) -> Conversation:
        """The conversation as it was before the message at an index."""
        return replace(self, messages=self.messages[:end])


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way to write a conversation in a row: the roles of the columns that it must and may have."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[_Row], Conversation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The layout of a data set's rows, and from each role that they have to its column."""

    layout: str
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row's values by role, each with the name of its column for errors."""

    values: Mapping[str, object]
    columns: Mapping[str, str]

    def has(self, role: str) -> bool:
        """Whether there is something in the role's column."""
        return self.values.get(self.columns.get(role, "")) not in (None, "")

    def text(self, role: str) -> str:
        """The text of a role's column."""
        return text_of(self.values, self.columns[role])

    def optional(self, role: str) -> str:
        """The same; empty where there is none."""
        return self.text(role) if self.has(role) else ""

    def answer(self, role: str) -> str:
        """The text that is to be learnt: not an empty one."""
        text = self.text(role)
        return text if text.strip() else self.fail(role, "a text to learn")

    def messages(self, role: str) -> tuple[Message, ...]:
        """The messages of a role's column; one of the user or the assistant where it is a plain text."""
        if not isinstance(self.values.get(self.columns[role]), str):
            return messages_in(self.values, self.columns[role])
        if role == "completion":
            return (Message(role="assistant", content=self.answer(role)),)
        return (Message(role="user", content=self.text(role)),)

    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """The tools, where there is a column for them."""
        return tools_in(self.values, self.columns["tools"]) if self.has("tools") else ()

    def fail(self, role: str, expected: str) -> Any:
        """Raises BadValueError about a role's column."""
        column = self.columns[role]
        raise BadValueError(column, f"expected {expected}, found {found(self.values, column)}")


def layout_of(names: Collection[str], named: Mapping[str, str]) -> Shape | None:
    """How rows with these columns are laid out, or None when they are no conversations.

    `named`: from roles to columns, as the recipe has it; any other role's column is called as the role. The first of
    LAYOUTS that has all of its columns and no named role too many is it.
    """
    columns = {role: named.get(role, role) for role in ROLES}
    if "messages" not in named and "messages" not in names and "conversations" in names:
        columns["messages"] = "conversations"  # as ShareGPT exports call it
    for layout in LAYOUTS.values():
        own = (*layout.required, *layout.optional)
        if all(columns[role] in names for role in layout.required) and set(named) <= set(own):
            there = {role: columns[role] for role in own if columns[role] in names or role in named}
            return Shape(layout=layout.name, columns=there)
    return None


def read_conversation(values: Mapping[str, object], shape: Shape) -> Conversation:
    """The conversation in a row, which may have no answer yet. Raises BadValueError when there is none."""
    return LAYOUTS[shape.layout].read(_Row(values, shape.columns))


def conversation_of(values: Mapping[str, object], shape: Shape) -> Conversation:
    """The conversation in a row. Raises BadValueError when there is none, or nothing of it could be learnt."""
    layout = LAYOUTS[shape.layout]
    conversation = read_conversation(values, shape)
    if not any(message.role in ("assistant", "text") for message in conversation.messages):
        role = layout.required[-1]
        raise BadValueError(shape.columns[role], "expected a message of the assistant, found none")
    return conversation


def answer_of(conversation: Conversation) -> str:
    """What the assistant says last; "" where it says nothing, or calls tools without a word."""
    index = conversation.last_answer
    return (conversation.messages[index].content or "") if index < len(conversation.messages) else ""


def after_examples(asked: Conversation, examples: Sequence[Conversation]) -> Conversation:
    """A conversation after solved ones, each up to its last answer: they become its own earlier turns.

    Its system message stays in front, and theirs are left out. The tools of all are there to be called.
    """
    own = asked.messages[: asked.first_turn]
    turns = [turn for solved in examples for turn in solved.messages[solved.first_turn : solved.last_answer + 1]]
    tools = {json.dumps(tool, sort_keys=True): tool for each in (asked, *examples) for tool in each.tools}
    return Conversation(messages=(*own, *turns, *asked.messages[asked.first_turn :]), tools=tuple(tools.values()))


def _read_messages(row: _Row) -> Conversation:
    messages = messages_in(row.values, row.columns["messages"])
    return Conversation(messages=_with_system(row, messages, "messages"), tools=row.tools())


def _read_prompt(row: _Row) -> Conversation:
    """Answers in the prompt are given, so they bear no loss."""
    given = tuple(replace(message, learnt=False) for message in row.messages("prompt"))
    prompt = _with_system(row, given, "prompt")
    return Conversation(messages=(*prompt, *_with_reasoning(row, row.messages("completion"))), tools=row.tools())


def _read_instruction(row: _Row) -> Conversation:
    said = Message(role="user", content=row.text("instruction"))
    if row.has("input"):
        text = row.text("input")
        said = replace(said, content=f"{said.content}{BETWEEN}{text}", input=text)
    answer = Message(role="assistant", content=row.answer("output"))
    messages = (*_history(row), said, *_with_reasoning(row, (answer,)))
    return Conversation(messages=_with_system(row, messages, "instruction"))


def _read_text(row: _Row) -> Conversation:
    return Conversation(messages=(Message(role="text", content=row.answer("text")),))


def _with_system(row: _Row, messages: tuple[Message, ...], role: str) -> tuple[Message, ...]:
    if not row.has("system"):
        return messages
    if messages[0].role in _INSTRUCTIONS:
        column = row.columns["system"]
        raise BadValueError(column, f'a system message stands in the column "{row.columns[role]}" as well')
    return (Message(role="system", content=row.text("system")), *messages)


def _with_reasoning(row: _Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, the last of the assistant's with the row's reasoning."""
    if not row.has("reasoning"):
        return messages
    index = Conversation(messages=messages).last_answer
    if index == len(messages) or messages[index].reasoning:
        row.fail("reasoning", "no reasoning, since the messages have their own or none is the assistant's")
    reasoned = replace(messages[index], reasoning=row.text("reasoning"))
    return (*messages[:index], reasoned, *messages[index + 1 :])


def _history(row: _Row) -> Iterator[Message]:
    """The turns before: a list of pairs, what the user said and what the assistant answered."""
    if not row.has("history"):
        return
    column = row.columns["history"]
    turns = row.values[column]
    turns = turns if isinstance(turns, (list, tuple)) else row.fail("history", "a list of pairs of texts")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise BadValueError(column, f"pair {number}: expected two texts, found {found({column: turn}, column)}")
        for role, value in zip(("user", "assistant"), turn, strict=True):
            yield _message(column, number, role, value)


def _message(column: str, number: int, role: Any, value: object) -> Message:
    try:
        return Message(role=role, content=text_of({column: value}, column))
    except BadValueError as error:
        raise BadValueError(column, f"pair {number}: {error.message}") from None


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(name="messages", required=("messages",), optional=("tools", "system"), read=_read_messages),
        Layout(
            name="prompt-completion",
            required=("prompt", "completion"),
            optional=("system", "reasoning", "tools"),
            read=_read_prompt,
        ),
        Layout(
            name="instruction",
            required=("instruction", "output"),
            optional=("input", "system", "history", "reasoning"),
            read=_read_instruction,
        ),
        Layout(name="text", required=("text",), optional=(), read=_read_text),
    )
}
"""Every layout by its name, those that say more first."""
ROLES = tuple(dict.fromkeys(role for layout in LAYOUTS.values() for role in (*layout.required, *layout.optional)))
"""The role of every column that some layout reads."""
