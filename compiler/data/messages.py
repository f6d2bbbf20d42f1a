"""How a list of messages becomes frozen messages.

Two spellings are read: role and content, as the OpenAI interface has it, and from and value, as ShareGPT exports do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from compiler.data.texts import BadValueError, found, text_of
from compiler.diagnostics import short

Role = Literal["system", "developer", "user", "assistant", "tool", "text"]
"""Who speaks. "text" is nobody: a passage without roles, all of which is learnt."""
_NAMES: Mapping[str, Role] = {
    **{role: role for role in get_args(Role) if role != "text"},
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
}
_CALLS = "function_call"  # from/value: the assistant's calls, as JSON
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the assistant makes. `arguments` is an object, also where the data has it as JSON text."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one speaker says. Only an assistant has reasoning and tool calls; then its content may be None."""

    role: Role
    content: str | None
    reasoning: str = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    thought: str = ""  # reasoning that stands at the head of the content, for templates that have no form for it
    input: str = ""  # the end of the content, where an instruction came with an input of its own
    learnt: bool = True  # whether an assistant's message may bear loss: not with "weight": 0


def messages_in(values: Mapping[str, object], column: str) -> tuple[Message, ...]:
    """The messages in a column, at least one. Raises BadValueError."""
    value = values.get(column)
    if not isinstance(value, (list, tuple)):
        raise BadValueError(column, f"expected a list of messages, found {found(values, column)}")
    if not value:
        raise BadValueError(column, "expected a list of messages, found an empty list")
    return tuple(_message(_Part(column, f"message {number}", item)) for number, item in enumerate(value, start=1))


def tools_in(values: Mapping[str, object], column: str) -> tuple[Mapping[str, Any], ...]:
    """The tools in a column: a list of JSON schemas, or its JSON text. None where there is no value. BadValueError.

    A bare function, with its name on top, is put into the object that chat templates are written for.
    """
    value = values.get(column)
    if value is None or value == "":
        return ()
    value = _parsed(column, "the tools", value) if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadValueError(column, f"expected a list of tools, found {found(values, column)}")
    return tuple(_tool(column, tool) for tool in value)


def _tool(column: str, tool: Mapping[str, Any]) -> Mapping[str, Any]:
    wrapped = tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}
    _check_characters(column, "the tools", wrapped)
    return wrapped


class _Part:
    """One message as it stands in the data: an object, nulls left out. Errors name its column and place."""

    def __init__(self, column: str, where: str, value: object) -> None:
        self.column, self.where = column, where
        if not isinstance(value, Mapping):
            raise self.error(f"expected an object with a role and a content, found {found({where: value}, where)}")
        self.values = {str(key): item for key, item in value.items() if item is not None}

    def error(self, message: str) -> BadValueError:
        """The error to raise about this message."""
        return BadValueError(self.column, f"{self.where}: {message}")

    def text(self, key: str) -> str:
        """The text under a key, empty or not. Raises BadValueError."""
        try:
            return text_of(self.values, key)
        except BadValueError as error:
            raise self.error(f'"{key}": {error.message}') from None


def _message(part: _Part) -> Message:
    if "role" in part.values:
        return _with_role(part)
    if "from" in part.values:
        return _with_from(part)
    raise part.error(f'expected a "role" and a "content", or a "from" and a "value", found {_keys(part.values)}')


def _keys(values: Mapping[str, object]) -> str:
    return ", ".join(f'"{short(key)}"' for key in list(values)[:4]) or "an empty object"


def _with_role(part: _Part) -> Message:
    role = _role(part, "role")
    calls = _tool_calls(part)
    if role != "assistant":
        _check_plain(part, role, calls)
    content = None if calls and "content" not in part.values else _content(part, "content")
    message = Message(
        role=role,
        content=content,
        reasoning=_reasoning(part),
        name=_optional(part, "name"),
        tool_calls=calls,
        tool_call_id=_optional(part, "tool_call_id"),
        learnt=_weight(part),
    )
    return _answered(part, message)


def _with_from(part: _Part) -> Message:
    if part.values["from"] == _CALLS:
        calls = _parsed(part.column, f"{part.where}: the call", part.text("value"))
        listed = calls if isinstance(calls, list) else [calls]
        return Message(role="assistant", content=None, tool_calls=tuple(_call(part, call) for call in listed))
    role = _role(part, "from")
    message = Message(role=role, content=_content(part, "value"), learnt=_weight(part))
    return _answered(part, message)


def _role(part: _Part, key: str) -> Role:
    name = part.text(key)
    if name not in _NAMES:
        known = ", ".join(_NAMES)
        raise part.error(f'"{short(name)}" is no role; known: {known}')
    return _NAMES[name]


def _check_plain(part: _Part, role: Role, calls: Sequence[ToolCall]) -> None:
    """Only the assistant calls tools and reasons."""
    if calls or any(key in part.values for key in _REASONING):
        raise part.error(f"only the assistant has {'tool calls' if calls else 'reasoning'}, found the role {role}")


def _answered(part: _Part, message: Message) -> Message:
    """The message. Raises BadValueError for an assistant that says nothing: there is nothing to learn from it."""
    if message.role == "assistant" and not message.tool_calls and not (message.content or "").strip():
        raise part.error("expected what the assistant says, found an empty text")
    return message


def _content(part: _Part, key: str) -> str:
    """The content: a text, or the texts of a list of typed parts, joined."""
    value = part.values.get(key)
    return part.text(key) if not isinstance(value, (list, tuple)) else "".join(_texts(part, value))


def _texts(part: _Part, items: Sequence[object]) -> list[str]:
    texts: list[str] = []
    for number, item in enumerate(items, start=1):
        piece = _Part(part.column, f"{part.where}, part {number}", item)
        kind = piece.values.get("type", "text")
        if kind != "text":
            raise piece.error(f'only parts of the type "text" can be read, found "{short(str(kind))}"')
        texts.append(piece.text("text"))
    return texts


def _optional(part: _Part, key: str) -> str:
    return part.text(key) if key in part.values else ""


def _reasoning(part: _Part) -> str:
    return next((part.text(key) for key in _REASONING if key in part.values), "")


def _weight(part: _Part) -> bool:
    """Whether the message may bear loss: "weight" 1 or 0, as data for the OpenAI interface says it."""
    weight = part.values.get("weight", 1)
    if weight not in (0, 1):
        raise part.error(f'"weight": expected 0 or 1, found {found(part.values, "weight")}')
    return bool(weight)


def _tool_calls(part: _Part) -> tuple[ToolCall, ...]:
    calls = part.values.get("tool_calls", ())
    if not isinstance(calls, (list, tuple)):
        raise part.error(f'"tool_calls": expected a list, found {found(part.values, "tool_calls")}')
    return tuple(_call(part, call) for call in calls)


def _call(part: _Part, value: object) -> ToolCall:
    """A call: {"id", "function": {"name", "arguments"}}, or what is in "function" alone.

    Arguments in JSON text become an object, as servers do it before they render a chat template: a template would
    otherwise write the text's quotes and backslashes.
    """
    outer = _Part(part.column, f"{part.where}, a tool call", value)
    inner = _Part(outer.column, outer.where, outer.values.get("function", value))
    arguments = inner.values.get("arguments", inner.values.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _parsed(part.column, f"{outer.where}: the arguments", arguments or "{}")
    if not isinstance(arguments, Mapping):
        raise outer.error(f"expected an object of arguments, found {found({'arguments': arguments}, 'arguments')}")
    _check_characters(part.column, outer.where, arguments)
    return ToolCall(name=inner.text("name"), arguments=arguments, id=_optional(outer, "id"))


def _parsed(column: str, what: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadValueError(column, f'{what}: expected JSON, found the text "{short(text)}"') from None


def _check_characters(column: str, what: str, value: object) -> None:
    """Raises BadValueError where a template could not write a JSON value as text: dates, bytes, lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise BadValueError(column, f"{what}: expected JSON, found a value that has no JSON text") from None


def as_json(message: Message) -> dict[str, Any]:
    """The message as chat templates read it; a key without a value is left out, since templates ask what is there.

    Reasoning stands under each of its three names, and an instruction with an input also apart, as `instruction` and
    `input`.
    """
    found_values: dict[str, Any] = {"role": message.role, "content": message.content, "name": message.name or None}
    if message.reasoning:
        found_values.update(dict.fromkeys(_REASONING, message.reasoning))
    if message.tool_calls:
        found_values["tool_calls"] = [_call_as_json(call) for call in message.tool_calls]
    if message.input:
        instruction = cast(str, message.content).removesuffix(BETWEEN + message.input)
        found_values.update(instruction=instruction, input=message.input)
    found_values["tool_call_id"] = message.tool_call_id or None
    return {key: value for key, value in found_values.items() if value is not None}


BETWEEN = "\n\n"
"""What stands between an instruction and its input."""


def _call_as_json(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _copied(call.arguments)}
    return {**({"id": call.id} if call.id else {}), "type": "function", "function": function}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value
