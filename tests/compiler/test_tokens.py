"""Rendered conversations become tokens, each with whether it bears loss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from compiler.data.conversations import Conversation, Message
from compiler.supervision import Segment, Segments, render
from compiler.templates import BUILT_IN, Template, TemplateError, rendered, template_in
from compiler.tokens import (
    NothingToLearnError,
    TokenRow,
    check_tokens,
    cut,
    marked,
    prompt_tokens,
    rows_of,
    source_for_servers,
    start_of,
    stop_token,
    tokens_of,
)
from tests.chats import (
    CALLS,
    CHATS,
    LONG,
    SHORT,
    TEMPLATES,
    TOOLS,
    chat,
    template,
    tokenizer,
    with_marks,
)

PIECES = st.lists(
    st.tuples(st.one_of(st.text("ab \n你🌍é👩‍🚀", max_size=6), st.sampled_from(["<|im_end|>", "</s>"])), st.booleans()),
    max_size=6,
)


def segments(*pieces: tuple[str, bool]) -> Segments:
    return tuple(Segment(text, supervised) for text, supervised in pieces)


def learnt(row: TokenRow, tokens: Tokenizer) -> str:
    text: str = tokens.decode(
        [token for token, bears in zip(row.ids, row.supervised, strict=True) if bears], skip_special_tokens=False
    )
    return text


def metaspace() -> Tokenizer:
    """A tokenizer that writes spaces as ▁ and puts one in front of a text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], show_progress=False)
    made.train_from_iterator(["Answer: 42", "Answer: 42 is it"], trainer)
    return made


@given(pieces=PIECES)
def test_the_tokens_are_those_of_the_whole_text(pieces: list[tuple[str, bool]]) -> None:
    whole = "".join(text for text, _ in pieces)
    row = tokens_of(segments(*pieces), tokenizer())
    assert list(row.ids) == tokenizer().encode(whole, add_special_tokens=False).ids
    assert len(row.supervised) == len(row.ids)


@given(pieces=PIECES)
def test_a_token_bears_loss_where_its_first_character_that_is_no_space_does(pieces: list[tuple[str, bool]]) -> None:
    whole = "".join(text for text, _ in pieces)
    bears = [supervised for text, supervised in pieces for _ in text]
    found = tokens_of(segments(*pieces), tokenizer())
    plain = tokenizer(trim=False).encode(whole, add_special_tokens=False)
    for (start, end), supervised in zip(plain.offsets, found.supervised, strict=True):
        solid = [index for index in range(start, end) if whole[index] != " "]
        if solid:
            assert supervised == bears[solid[0]]
        else:
            assert supervised in {bears[index] for index in range(start, end)}


@pytest.mark.parametrize("tokens", [tokenizer(), tokenizer(trim=False), metaspace()])
def test_a_space_that_ends_the_prompt_does_not_take_the_answer_with_it(tokens: Tokenizer) -> None:
    row = tokens_of(segments(("Answer: ", False), ("42</s>", True)), tokens)
    assert learnt(row, tokens).strip() == "42</s>"


def test_a_token_that_reaches_from_the_prompt_into_the_answer_is_the_prompts() -> None:
    [merged] = tokenizer().encode("Hello", add_special_tokens=False).ids
    row = tokens_of(segments(("He", False), ("llo</s>", True)), tokenizer())
    assert row.ids[0] == merged and row.supervised == (False, True)


def test_every_token_of_a_character_of_several_tokens_bears_loss() -> None:
    row = tokens_of(segments(("a", False), ("🦉", True), ("b", False)), tokenizer())
    assert len(row.ids) > 3
    assert row.supervised == (False, *([True] * (len(row.ids) - 2)), False)


@pytest.mark.parametrize(
    ("style", "name"),
    [
        *((style, name) for style in ("chatml-marked", "mistral", "qwen", "zephyr") for name in CHATS),
        *(("gemma", name) for name in CHATS if name != "system"),  # which it refuses
        *((style, "calls") for style in ("mistral", "qwen")),
    ],
)
def test_tokens_and_loss_are_those_of_transformers_with_marks_in_the_template(style: str, name: str) -> None:
    """Ours are found without marks, where the style has none."""
    from transformers import PreTrainedTokenizerFast

    messages, tools = (CALLS, TOOLS) if name == "calls" else (CHATS[name], None)
    reference: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(trim=False), bos_token="<s>", eos_token="</s>", chat_template=with_marks(style)
    )
    expected = reference.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    row = tokens_of(render(chat(messages, tools), template(style)), tokenizer())
    assert list(row.ids) == expected["input_ids"]
    assert [int(bears) for bears in row.supervised] == expected["assistant_masks"]


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_the_prompts_tokens_are_those_before_the_last_answer(style: str) -> None:
    row = tokens_of(render(chat(LONG), template(style), "last"), tokenizer())
    prompt = prompt_tokens(chat(LONG), template(style), tokenizer())
    assert row.ids[: len(prompt)] == prompt
    assert not any(row.supervised[: len(prompt)]) and row.supervised[len(prompt)]


def test_many_rows_are_tokenized_as_each_alone() -> None:
    rows = [render(chat(messages), template("llama")) for messages in CHATS.values()]
    assert rows_of(rows, tokenizer(), start=(7,)) == [tokens_of(row, tokenizer(), start=(7,)) for row in rows]
    assert rows_of([], tokenizer()) == []


def test_what_the_tokenizer_puts_in_front_is_put_there_only_where_the_template_leaves_it_to_it() -> None:
    plain = template_in({"tokenizer_config.json": '{"eos_token": "</s>"}'}, "plain")
    passage = Conversation(messages=(Message(role="text", content="Hi there"),))
    assert start_of(plain, tokenizer()) == (0,)
    assert start_of(template("llama"), tokenizer()) == ()
    assert start_of(template("llama"), tokenizer(), passage) == (0,)
    assert start_of(plain, metaspace()) == ()
    row = tokens_of(render(passage, plain), tokenizer(), start=start_of(plain, tokenizer(), passage))
    assert list(row.ids) == tokenizer().encode("Hi there</s>").ids
    assert row.supervised == (False, *([True] * (len(row.ids) - 1)))
    assert prompt_tokens(passage, plain, tokenizer()) == row.ids[:-1]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_server_that_has_the_template_sees_the_tokens_that_were_trained_on(name: str) -> None:
    from transformers import PreTrainedTokenizerFast

    built_in = template_in({"tokenizer_config.json": '{"eos_token": "</s>"}'}, name)
    source = source_for_servers(built_in, tokenizer())
    server: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="</s>", chat_template=source)
    for messages in CHATS.values():
        row = tokens_of(render(chat(messages), built_in), tokenizer(), start=start_of(built_in, tokenizer()))
        assert row.ids[0] == 0
        assert server.apply_chat_template(messages)["input_ids"] == list(row.ids)
    assert source_for_servers(built_in, metaspace()) == built_in.source
    assert source_for_servers(template("llama"), tokenizer()) == TEMPLATES["llama"]


def test_a_tokenizer_with_a_cut_of_its_own_is_no_tokenizer_for_this() -> None:
    cutting = tokenizer()
    cutting.enable_truncation(4)
    with pytest.raises(AssertionError):
        tokens_of(segments(("Hi", True)), cutting)


def test_a_long_row_is_cut_on_the_right_and_the_cut_is_counted() -> None:
    row = TokenRow((1, 2, 3, 4), (False, True, True, False))
    assert cut(row, 4) == (row, 0)
    assert cut(row, 2) == (TokenRow((1, 2), (False, True)), 2)
    assert cut(row, 3, side="left") == (TokenRow((2, 3, 4), (True, True, False)), 1)
    assert row.num_supervised == 2


def test_a_row_of_which_nothing_is_learnt_is_an_error_that_says_why() -> None:
    with pytest.raises(NothingToLearnError, match=r"none of the row's 3 tokens bears loss: all .* the 2 that were cut"):
        cut(TokenRow((1, 2, 3), (False, False, True)), 1)
    with pytest.raises(NothingToLearnError, match="it has no answer"):
        cut(TokenRow((1,), (False,)), 5)


def test_the_shown_row_has_marks_around_what_bears_loss() -> None:
    row = tokens_of(render(chat(LONG), template("mistral")), tokenizer())
    assert marked(row, tokenizer()) == (
        "<s>[INST] Hi there[/INST]⟦ Hello!</s>⟧[INST] 你好世界 🌍[/INST]⟦ 世界你好。👩‍🚀 Hello!</s>⟧"
        "[INST] Hello![/INST]⟦ Hi there</s>⟧"
    )
    answer = tokens_of(segments(("Answer:", False), (" 42</s>", True)), metaspace())
    assert marked(answer, metaspace()) == "Answer:⟦ 42</s>⟧"


@example(pieces=[("👩", True), ("\u200d", False)])  # one token has the end of the first and the beginning of the second
@given(pieces=PIECES)
def test_the_shown_row_without_marks_is_the_text(pieces: list[tuple[str, bool]]) -> None:
    shown = marked(tokens_of(segments(*pieces), tokenizer()), tokenizer())
    assert shown.replace("⟦", "").replace("⟧", "") == "".join(text for text, _ in pieces)


def test_generation_stops_at_the_token_that_ends_a_turn() -> None:
    assert stop_token(template("qwen"), tokenizer()) == tokenizer().token_to_id("<|im_end|>")
    assert stop_token(template("llama"), tokenizer()) == tokenizer().token_to_id("<|eot_id|>")
    with pytest.raises(TemplateError, match="no token of the tokenizer"):
        stop_token(template("qwen"), metaspace())
    with pytest.raises(TemplateError, match="writes nothing after an answer"):
        stop_token(Template(name="model", source="{{ messages[-1].content }}"), tokenizer())


def test_chatml_is_for_tokenizers_that_have_its_marks() -> None:
    chatml = template_in({}, "chatml")
    check_tokens(chatml, tokenizer())
    with pytest.raises(TemplateError, match=r'<\|im_start\|> and <\|im_end\|>: choose the template "plain"'):
        check_tokens(chatml, metaspace())


def test_what_is_rendered_is_what_is_tokenized_for_chats_of_all_styles() -> None:
    for style in TEMPLATES:
        text = rendered(chat(SHORT), template(style))
        row = tokens_of(render(chat(SHORT), template(style)), tokenizer())
        assert tokenizer().decode(list(row.ids), skip_special_tokens=False) == text
