"""Rows become conversations, from every layout that people have; bad rows are named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.data.conversations import (
    LAYOUTS,
    ROLES,
    Conversation,
    Message,
    ToolCall,
    after_examples,
    answer_of,
    as_json,
    conversation_of,
    layout_of,
)
from compiler.data.texts import BadValueError
from tests.chats import CALLS, LONG, TOOLS, chat

USER = Message(role="user", content="Hi")
GIVEN = replace(USER, learnt=False)  # in a prompt
ANSWER = Message(role="assistant", content="Hello!")
SAID = {"role": "user", "content": "Hi"}
ANSWERED = {"role": "assistant", "content": "Hello!"}


def read(named: dict[str, str] | None = None, **row: Any) -> Conversation:
    """The conversation of a row, laid out as its columns say."""
    shape = layout_of(tuple(row), named or {})
    assert shape is not None
    return conversation_of(row, shape)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SAID, ANSWERED]},
        {"messages": [{**SAID, "name": None, "tool_calls": None}, ANSWERED], "tools": None},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"messages": [{"from": "user", "value": "Hi"}, ANSWERED]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"text": "i"}]}, ANSWERED]},
        {"prompt": "Hi", "completion": "Hello!"},
        {"prompt": [SAID], "completion": [ANSWERED]},
        {"prompt": [SAID], "completion": "Hello!", "tools": []},
        {"instruction": "Hi", "output": "Hello!"},
        {"instruction": "Hi", "input": "", "output": "Hello!", "history": [], "system": None, "reasoning": ""},
    ],
)
def test_rows_of_every_layout_say_the_same(row: dict[str, Any]) -> None:
    said, answer = read(**row).messages
    assert (replace(said, learnt=True), answer) == (USER, ANSWER)


def test_columns_may_have_other_names() -> None:
    found = read({"prompt": "question", "completion": "reply"}, question="Hi", reply="Hello!", text="no")
    assert found.messages == (GIVEN, ANSWER)


def test_answers_in_a_prompt_bear_no_loss() -> None:
    found = read(prompt=[SAID, ANSWERED, SAID], completion=[ANSWERED, SAID, ANSWERED])
    assert [message.learnt for message in found.messages] == [False, False, False, True, True, True]


def test_a_system_column_stands_first() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Hi", "completion": "Hello!"},
        {"instruction": "Hi", "output": "Hello!"},
    ]
    for row in rows:
        system, *said = read(**row, system="Be brief.").messages
        assert system == Message(role="system", content="Be brief.") and len(said) == 2


def test_an_instructions_input_follows_it_and_is_also_told_apart() -> None:
    said, _ = read(instruction="Add.", input="1 and 2", output="3").messages
    assert said.content == "Add.\n\n1 and 2"
    assert as_json(said) == {
        "role": "user", "content": "Add.\n\n1 and 2", "instruction": "Add.", "input": "1 and 2",
    }  # fmt: skip


def test_turns_before_stand_in_history() -> None:
    found = read(instruction="Hi", output="Hello!", history=[["a", "b"], ("c", "d")])
    assert [message.content for message in found.messages] == ["a", "b", "c", "d", "Hi", "Hello!"]
    assert [message.role for message in found.messages] == ["user", "assistant"] * 3


def test_reasoning_is_the_last_answers() -> None:
    for row in ({"prompt": [SAID, ANSWERED, SAID], "completion": "Hello!"}, {"instruction": "Hi", "output": "Hello!"}):
        *_, last = read(**row, reasoning="A greeting.").messages
        assert last == Message(role="assistant", content="Hello!", reasoning="A greeting.")
        assert as_json(last)["reasoning_content"] == "A greeting."
    [_, kept] = read(messages=[SAID, {**ANSWERED, "thinking": "A greeting."}]).messages
    assert kept.reasoning == "A greeting."


def test_a_text_is_a_passage_without_roles() -> None:
    found = read(text="从前有座山")
    assert found.is_passage and found.messages == (Message(role="text", content="从前有座山"),)
    assert not read(prompt="Hi", completion="Hello!").is_passage


def test_calls_and_tools_are_read_from_objects_and_from_json_text() -> None:
    call = ToolCall(name="weather", arguments={"town": "Zürich"}, id="call00001")
    written = json.loads(json.dumps(CALLS))
    written[1]["tool_calls"][0]["function"]["arguments"] = '{"town": "Zürich"}'
    for messages, tools in ((CALLS, TOOLS), (written, json.dumps(TOOLS)), (CALLS, [TOOLS[0]["function"]])):
        found = read(messages=messages, tools=tools)
        assert found.messages[1] == Message(role="assistant", content=None, tool_calls=(call,))
        assert found.tools == tuple(TOOLS)
    assert [as_json(message) for message in chat(CALLS).messages] == CALLS


def test_sharegpt_calls_are_read() -> None:
    rows = [
        {"from": "human", "value": "How is it?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"town": "Zürich"}}'},
        {"from": "observation", "value": "13 °C"},
        {"from": "gpt", "value": "It is 13 °C."},
    ]
    found = read(conversations=rows)
    assert [message.role for message in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.messages[1].tool_calls == (ToolCall(name="weather", arguments={"town": "Zürich"}),)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": None}, 'the column "messages": expected a list of messages, found null'),
        ({"messages": "Hi"}, 'the column "messages": expected a list of messages, found the text "Hi"'),
        ({"messages": []}, 'the column "messages": expected a list of messages, found an empty list'),
        ({"messages": ["Hi"]}, "message 1: expected an object with a role and a content, found the text"),
        ({"messages": [{"text": "Hi"}]}, 'message 1: expected a "role" and a "content", .* found "text"'),
        ({"messages": [SAID, {"role": "assistant"}]}, 'message 2: "content": expected text, found no value'),
        ({"messages": [SAID, {**ANSWERED, "content": 3}]}, 'message 2: "content": expected text, found the number 3'),
        ({"messages": [SAID, {**ANSWERED, "content": " "}]}, "message 2: expected what the assistant says, found an"),
        ({"messages": [{**SAID, "role": "bot"}]}, 'message 1: "bot" is no role; known: system, developer, user'),
        ({"messages": [SAID]}, 'the column "messages": expected a message of the assistant, found none'),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, 'the column "conversations": expected a message of'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            'message 1, part 1: only parts of the type "text" can be read, found "image_url"',
        ),
        ({"messages": [SAID, {**ANSWERED, "weight": 0.5}]}, 'message 2: "weight": expected 0 or 1, found the number'),
        ({"messages": [{**SAID, "reasoning": "so"}, ANSWERED]}, "message 1: only the assistant has reasoning"),
        ({"messages": [SAID, {**ANSWERED, "tool_calls": "x"}]}, '"tool_calls": expected a list, found the text "x"'),
        (
            {"messages": [SAID, {**ANSWERED, "tool_calls": [{"name": "f", "arguments": "x"}]}]},
            'message 2, a tool call: the arguments: expected JSON, found the text "x"',
        ),
        (
            {"messages": [SAID, {**ANSWERED, "tool_calls": [{"name": "f", "arguments": [1]}]}]},
            "message 2, a tool call: expected an object of arguments, found a list",
        ),
        ({"messages": [SAID, {**ANSWERED, "tool_calls": [{}]}]}, 'a tool call: "name": expected text, found no value'),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, "message 1: the call: expected JSON, found"),
        ({"messages": [SAID, ANSWERED], "tools": "x"}, 'the column "tools": the tools: expected JSON, found the text'),
        ({"messages": [SAID, ANSWERED], "tools": {"a": 1}}, 'the column "tools": expected a list of tools, found an'),
        ({"messages": [SAID, ANSWERED], "tools": [{"a": "\ud800"}]}, "expected JSON, found a value that has no JSON"),
        (
            {"messages": [{"role": "system", "content": "x"}, ANSWERED], "system": "y"},
            'stands in the column "messages"',
        ),
        (
            {"prompt": "Hi", "completion": ""},
            'the column "completion": expected a text to learn, found an empty string',
        ),
        ({"prompt": 3, "completion": "x"}, 'the column "prompt": expected a list of messages, found the number 3'),
        ({"prompt": "Hi", "completion": [SAID]}, 'the column "completion": expected a message of the assistant'),
        ({"prompt": "Hi", "completion": [SAID], "reasoning": "so"}, 'the column "reasoning": expected no reasoning'),
        ({"instruction": None, "output": "x"}, 'the column "instruction": expected text, found null'),
        ({"instruction": "x", "output": None}, 'the column "output": expected text, found null'),
        ({"instruction": "x", "output": "y", "input": 3}, 'the column "input": expected text, found the number 3'),
        (
            {"instruction": "x", "output": "y", "history": "z"},
            'the column "history": expected a list of pairs of texts',
        ),
        ({"instruction": "x", "output": "y", "history": [["z"]]}, "pair 1: expected two texts, found a list"),
        ({"instruction": "x", "output": "y", "history": [["z", 1]]}, "pair 1: expected text, found the number 1"),
        ({"text": ""}, 'the column "text": expected a text to learn, found an empty string'),
        ({"text": "\ud800"}, "found a lone surrogate, which is no character"),
    ],
)
def test_a_bad_row_names_its_column_and_what_was_found(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadValueError, match=sentence) as caught:
        read(**row)
    assert caught.value.column in row


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "tool_calls", "function", "name", "arguments", "type"])
            | st.text(max_size=3),
            inner | st.sampled_from(["user", "assistant", "gpt", "function_call", "[]", "{}"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(layout=st.sampled_from(sorted(LAYOUTS)), values=st.fixed_dictionaries(dict.fromkeys(ROLES, JSON)))
def test_any_row_is_a_conversation_or_a_bad_value(layout: str, values: dict[str, Any]) -> None:
    own = (*LAYOUTS[layout].required, *LAYOUTS[layout].optional)
    shape = layout_of(own, {role: role for role in LAYOUTS[layout].required})
    assert shape is not None and shape.layout == layout
    try:
        found = conversation_of(values, shape)
    except BadValueError as error:
        found = None
        column = error.column
    if found is None:
        assert column in own
    else:
        assert json.dumps([as_json(message) for message in found.messages], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("names", "named", "layout"),
    [
        (("messages", "text"), {}, "messages"),
        (("conversations", "id"), {}, "messages"),
        (("prompt", "completion", "text"), {}, "prompt-completion"),
        (("instruction", "input", "output", "text"), {}, "instruction"),
        (("instruction", "input", "output", "text"), {"text": "text"}, "text"),
        (("a", "b"), {"prompt": "a", "completion": "b"}, "prompt-completion"),
        (("a", "b"), {"prompt": "a"}, None),
        (("prompt", "chosen"), {}, None),
    ],
)
def test_the_layout_follows_from_the_columns(names: tuple[str, ...], named: dict[str, str], layout: str | None) -> None:
    shape = layout_of(names, named)
    assert (shape.layout if shape else None) == layout


def test_only_columns_that_are_there_are_read() -> None:
    shape = layout_of(("instruction", "output", "input", "notes"), {})
    assert shape is not None
    assert shape.columns == {"instruction": "instruction", "output": "output", "input": "input"}


def test_the_answer_is_what_the_assistant_says_last() -> None:
    assert answer_of(chat(LONG)) == "Hi there"
    assert answer_of(chat(LONG).until(1)) == ""
    assert answer_of(chat(CALLS[:2])) == ""


def test_solved_rows_become_earlier_turns_up_to_their_last_answer() -> None:
    more = {"role": "user", "content": "And?"}
    solved = read(messages=[{"role": "system", "content": "Be brief."}, SAID, ANSWERED, more])
    asked = read(prompt="Bye", completion="Bye!", system="Be kind.")
    found = after_examples(asked, [solved, solved])
    assert [(message.role, message.content) for message in found.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "Bye"),
        ("assistant", "Bye!"),
    ]
    assert found.last_answer == 6
    assert after_examples(asked, []) == asked


def test_the_tools_of_solved_rows_are_there_once_behind_the_own() -> None:
    own, other = ({"type": "function", "function": {"name": name}} for name in ("own", "other"))
    asked = read(messages=[SAID, ANSWERED], tools=[own])
    solved = read(messages=[SAID, ANSWERED], tools=[other, own])
    assert after_examples(asked, [solved, solved]).tools == (own, other)
