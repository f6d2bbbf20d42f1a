"""Which characters of a rendered conversation bear loss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.data.conversations import Conversation, Message
from compiler.supervision import Segments, end_of_reasoning, end_of_turn, only_in_prompt, prompt_of, render, spans_of
from compiler.templates import ConversationError, Template, TemplateError, rendered, template_in, with_thoughts
from tests.chats import CALLS, CHATS, END, LONG, REASONED, SHORT, TEMPLATES, TOOLS, WITH_TOOLS, chat, template

CONTENTS = st.one_of(
    st.text(alphabet="abc .\n你好🌍👩‍🚀é\ue000", min_size=1, max_size=12),
    st.sampled_from(["<|im_end|>", "<|im_start|>assistant\n", "[INST]", "{{ x }}", "<|assistant|>", "Hello! "]),
).filter(lambda text: bool(text.strip()))
STYLES = st.sampled_from(sorted(TEMPLATES))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns of a user and an assistant, who reasons at times."""
    messages: list[Message] = []
    for said, answer in draw(st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=4)):
        reasoning = draw(st.sampled_from(["", "It is so."]))
        messages += [
            Message(role="user", content=said),
            Message(role="assistant", content=answer, reasoning=reasoning),
        ]
    return Conversation(messages=tuple(messages))


def supervised(segments: Segments) -> list[str]:
    return [segment.text for segment in segments if segment.supervised]


def whole(segments: Segments) -> str:
    return "".join(segment.text for segment in segments)


@given(conversation=conversations(), style=STYLES, supervise=st.sampled_from(["assistant", "last", "all"]))
def test_the_pieces_together_are_the_rendered_conversation(
    conversation: Conversation, style: str, supervise: Any
) -> None:
    assert whole(render(conversation, template(style), supervise)) == rendered(conversation, template(style))


@given(conversation=conversations(), style=STYLES)
def test_each_of_the_assistants_contents_and_the_end_of_its_turn_bear_loss(
    conversation: Conversation, style: str
) -> None:
    found = supervised(render(conversation, template(style)))
    answers = [(message.content or "").strip() for message in conversation.messages if message.role == "assistant"]
    assert len(found) == len(answers)
    assert all(answer in piece and piece.endswith(END[style]) for answer, piece in zip(answers, found, strict=True))


@given(conversation=conversations(), style=STYLES)
def test_nothing_that_the_user_says_bears_loss(conversation: Conversation, style: str) -> None:
    found = "".join(supervised(render(conversation, template(style))))
    contents = [f"{message.content}{message.reasoning}" for message in conversation.messages]
    longest = sum(len(text) + len(END[style]) + len("<think>\n\n</think>\n\n") for text in contents[1::2])
    assert len(found) <= longest


@given(conversation=conversations(), style=STYLES)
def test_what_bears_loss_as_the_last_answer_does_so_among_all_answers(conversation: Conversation, style: str) -> None:
    last = list(spans_of(render(conversation, template(style), "last")))
    assert len(last) == 1 and list(spans_of(render(conversation, template(style))))[-1:] == last


@given(conversation=conversations(), style=STYLES)
def test_the_prompt_and_the_last_answer_make_the_whole(conversation: Conversation, style: str) -> None:
    [answer] = supervised(render(conversation, template(style), "last"))
    text = rendered(conversation, template(style))
    assert prompt_of(conversation, template(style)) + answer == text.rstrip()


@pytest.mark.parametrize("style", WITH_TOOLS)
def test_calls_of_tools_bear_loss_and_their_results_do_not(style: str) -> None:
    found = supervised(render(chat(CALLS, TOOLS), template(style)))
    assert len(found) == 3
    assert '"weather"' in found[0] and '"Zürich"' in found[0]
    assert not any("it's fine" in piece for piece in found)


def test_reasoning_that_the_template_drops_from_earlier_turns_bears_no_loss_and_the_last_one_does() -> None:
    found = supervised(render(chat(REASONED), template("qwen")))
    assert found == ["4<|im_end|>", "<think>\nFour and three.\n</think>\n\n7<|im_end|>"]


@given(conversation=conversations(), style=STYLES)
def test_reasoning_that_is_only_read_is_what_a_turn_loses_of_its_loss(conversation: Conversation, style: str) -> None:
    told = with_thoughts(conversation, template(style))
    whole_turns, without = (
        supervised(render(told, template(style), reasoning=reasoning)) for reasoning in (True, False)
    )
    assert whole(render(told, template(style), reasoning=False)) == rendered(told, template(style))
    assert len(whole_turns) == len(without)
    answers = [message for message in conversation.messages if message.role == "assistant"]
    for message, turn, rest in zip(answers, whole_turns, without, strict=True):
        reasoning, written, after = turn.partition(message.reasoning) if message.reasoning else ("", "", "")
        assert rest == (after if written else turn)
        assert not written or reasoning.strip() in ("", "<think>")
        assert (message.content or "").strip() in rest and rest.endswith(END[style])


def test_reasoning_may_be_read_and_not_learnt() -> None:
    found = supervised(render(chat(REASONED), template("qwen"), reasoning=False))
    assert found == ["4<|im_end|>", "\n</think>\n\n7<|im_end|>"]


@pytest.mark.parametrize("style", ["chatml", "chatml-marked", "zephyr"])
def test_reasoning_stands_before_the_answer_where_the_template_has_no_form_for_it(style: str) -> None:
    told = with_thoughts(chat(REASONED), template(style))
    for turn, reasoning, answer in zip(
        supervised(render(told, template(style))), ("Two and two.", "Four and three."), "47", strict=True
    ):
        assert turn == f"<think>\n{reasoning}\n</think>\n\n{answer}{END[style]}"
    without = supervised(render(told, template(style), reasoning=False))
    assert without == [f"\n</think>\n\n{answer}{END[style]}" for answer in "47"]


def test_a_template_that_writes_reasoning_is_left_to_do_so() -> None:
    for style in ("qwen", "qwen-thinking"):
        assert with_thoughts(chat(REASONED), template(style)) == chat(REASONED)
    assert with_thoughts(chat(SHORT), template("chatml")) == chat(SHORT)


def test_a_reasoning_that_the_template_changes_can_not_be_left_out() -> None:
    twice = "{% for m in messages %}{{ m.reasoning_content }}{{ m.content }}{{ m.reasoning_content }}|{% endfor %}"
    source = Template(name="written", source=twice)
    with pytest.raises(ConversationError, match="the reasoning of message 2 so that it can't be told from the rest"):
        render(chat(REASONED[:2]), source, reasoning=False)


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_the_end_of_reasoning_is_known_of_every_template(style: str) -> None:
    assert end_of_reasoning(template(style)) == "</think>"


def test_a_template_that_refuses_reasoning_has_no_end_of_it() -> None:
    refuses = (
        "{% for m in messages %}{% if m.reasoning %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    assert end_of_reasoning(Template(name="written", source=refuses)) == ""


def test_reasoning_within_the_content_is_what_the_template_makes_of_it() -> None:
    within = [
        {**turn, "content": f"<think>\n{turn['reasoning_content']}\n</think>\n\n{turn['content']}"}
        if turn["role"] == "assistant"
        else turn
        for turn in REASONED
    ]
    for turn in within:
        turn.pop("reasoning_content", None)
    for style in ("qwen", "qwen-thinking"):
        assert render(chat(within), template(style)) == render(chat(REASONED), template(style))


def test_tools_that_the_template_writes_before_the_last_user_message_do_not_hide_earlier_turns() -> None:
    found = supervised(render(chat(CALLS, TOOLS), template("mistral")))
    assert found[0] == '[TOOL_CALLS] [{"name": "weather", "arguments": {"town": "Zürich"}}]</s>'
    assert found[1:] == [" It is 13 °C.</s>", " You are welcome.</s>"]


def test_a_prompt_that_begins_the_reasoning_itself_ends_where_the_turn_goes_on_otherwise() -> None:
    source = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant><think>{% endif %}"
    )
    thinking = Template(name="model", source=source, variables={"eos_token": "</s>"})
    assert supervised(render(chat(LONG), thinking))[-1] == "Hi there</s>"
    reasoned = chat([SHORT[0], {"role": "assistant", "content": "<think>so</think>Hello"}])
    assert supervised(render(reasoned, thinking)) == ["so</think>Hello</s>"]
    called = chat([SHORT[0], {"role": "assistant", "content": "<call>now"}])
    assert supervised(render(called, thinking)) == ["<call>now</s>"]
    assert only_in_prompt(thinking) == "<think>"


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_what_begins_an_answer_stands_before_answers_that_are_there(style: str) -> None:
    assert only_in_prompt(template(style)) == ""


def test_calls_are_found_where_the_template_takes_their_reasoning_out_afterwards() -> None:
    first, *_ = supervised(render(chat(CALLS, TOOLS), template("qwen-thinking")))
    assert first == '<tool_call>\n{"name": "weather", "arguments": {"town": "Zürich"}}\n</tool_call><|im_end|>'
    reasoned = [CALLS[0], {**CALLS[1], "reasoning_content": "Look it up."}, *CALLS[2:]]
    for turns, expected in ((reasoned, first), (reasoned[:4], f"Look it up.\n</think>\n\n{first}")):
        assert supervised(render(chat(turns, TOOLS), template("qwen-thinking")))[0] == expected


def test_a_turn_that_ends_otherwise_when_it_is_the_last_is_an_error() -> None:
    source = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
        "{{ '<|return|>' if loop.last else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(ConversationError, match="message 2"):
        render(chat(LONG), Template(name="model", source=source))


def test_an_assistant_that_speaks_first_is_heard() -> None:
    for style in ("chatml-marked", "llama", "zephyr", "qwen"):
        greeting = [{"role": "assistant", "content": "Welcome!"}, *SHORT]
        found = supervised(render(chat(greeting), template(style)))
        assert found[0] == f"Welcome!{END[style]}" and len(found) == 2


def test_a_message_with_weight_0_bears_no_loss() -> None:
    weighed = [LONG[0], {**LONG[1], "weight": 0}, *LONG[2:]]
    for style in ("chatml", "chatml-marked"):
        segments = render(chat(weighed), template(style))
        assert len(supervised(segments)) == 2
        assert whole(segments) == whole(render(chat(LONG), template(style)))


def test_turns_that_can_not_be_told_apart_are_an_error_that_says_what_to_do() -> None:
    source = "{% for message in messages[-2:] %}{{ message.content | upper }}|{% endfor %}"
    upper = Template(name="model", source=source)
    with pytest.raises(ConversationError, match=r'message 2.*supervise the "last" answer only'):
        render(chat(LONG), upper)
    assert supervised(render(chat(LONG), upper, "last")) == ["HI THERE|"]


def test_marks_in_a_macro_are_where_its_text_goes() -> None:
    source = (
        "{% macro say(message) %}{% generation %}{{ message.content }}{% endgeneration %}{% endmacro %}"
        "{% for message in messages %}({{ say(message) if message.role == 'assistant' else message.content }})"
        "{% endfor %}"
    )
    segments = render(chat(SHORT), Template(name="model", source=source))
    assert supervised(segments) == ["Hello!"] and whole(segments) == "(Hi there)(Hello!)"


def test_marks_that_change_the_text_are_an_error() -> None:
    source = (
        "{% set said %}{% generation %}{{ messages[-1].content }}{% endgeneration %}{% endset %}{{ said | length }}"
    )
    with pytest.raises(TemplateError, match="changes its text"):
        render(chat(SHORT), Template(name="model", source=source))


def test_all_of_a_text_without_roles_and_its_end_bear_loss_whatever_is_asked() -> None:
    passage = Conversation(messages=(Message(role="text", content="从前有座山"),))
    for supervise in ("assistant", "last", "all"):
        assert supervised(render(passage, template("gemma"), supervise)) == ["从前有座山</s>"]
    assert prompt_of(passage, template("gemma")) == "从前有座山"


def test_a_text_needs_a_token_that_ends_it() -> None:
    passage = Conversation(messages=(Message(role="text", content="once"),))
    with pytest.raises(TemplateError, match="names no end-of-text token"):
        render(passage, Template(name="model", source=""))


def test_the_plain_template_puts_prompt_and_completion_together_as_they_are() -> None:
    plain = template_in({"tokenizer_config.json": '{"eos_token": "</s>"}'}, "plain")
    conversation = chat([{"role": "user", "content": "Q: 1+1\nA: "}, {"role": "assistant", "content": " 2\n"}])
    pieces = [(segment.text, segment.supervised) for segment in render(conversation, plain)]
    assert pieces == [("Q: 1+1\nA: ", False), (" 2\n</s>", True)]


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_what_ends_a_turn_is_known(style: str) -> None:
    assert end_of_turn(template(style)) == END[style]


@pytest.mark.parametrize("name", sorted(CHATS))
@pytest.mark.parametrize("built_in", ["chatml", "plain", "alpaca"])
def test_a_built_in_template_begins_a_turn_as_it_goes_on(built_in: str, name: str) -> None:
    chosen = template_in({"tokenizer_config.json": '{"eos_token": "</s>"}'}, built_in)
    [answer] = supervised(render(chat(CHATS[name]), chosen, "last"))
    assert prompt_of(chat(CHATS[name]), chosen) + answer == rendered(chat(CHATS[name]), chosen).rstrip()
    assert len(supervised(render(chat(CHATS[name]), chosen))) == len(CHATS[name]) // 2
