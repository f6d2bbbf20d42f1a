"""Rendered conversations -> token ids, each with whether it bears loss. Only the library `tokenizers` is needed.

The text is tokenized whole, as it is at inference, never piece by piece: pieces would cut words in two at their borders
and get tokens that the model never sees afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from compiler.data.conversations import Conversation
from compiler.supervision import Segments, end_of_turn, prompt_of, spans_of
from compiler.templates import Template, TemplateError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Side = Literal["right", "left"]
OPEN, CLOSE = "⟦", "⟧"
_TURN_MARKS = ("<|im_start|>", "<|im_end|>")  # of the built-in template chatml


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A row: its token ids, and for each whether it bears loss."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]

    @property
    def num_supervised(self) -> int:
        """How many tokens bear loss."""
        return sum(self.supervised)


class NothingToLearnError(ValueError):
    """A row without a token that bears loss: how long it is, and how many tokens were cut off."""

    def __init__(self, num_tokens: int, num_cut: int) -> None:
        reason = f"all of its answer is among the {num_cut:,} that were cut off" if num_cut else "it has no answer"
        super().__init__(f"none of the row's {num_tokens:,} tokens bears loss: {reason}")
        self.num_tokens, self.num_cut = num_tokens, num_cut


def tokens_of(segments: Segments, tokenizer: Tokenizer, *, start: Sequence[int] = ()) -> TokenRow:
    """The tokens of a rendered conversation; `start` (of start_of) stands in front and bears no loss.

    A token bears loss when its first character that is no space lies in a segment that does. One that reaches from the
    prompt into the answer can not be generated after that prompt, so it is the prompt's; a space in front does not
    count, since most tokenizers put it on the word after it, and "Answer: " + "42" is to teach 42.
    """
    [row] = rows_of([segments], tokenizer, start=start)
    return row


def rows_of(rows: Iterable[Segments], tokenizer: Tokenizer, *, start: Sequence[int] = ()) -> list[TokenRow]:
    """As tokens_of, of many rows at once, which takes less time."""
    assert tokenizer.truncation is None and tokenizer.padding is None
    listed = list(rows)
    texts = ["".join(segment.text for segment in segments) for segments in listed]
    encodings: list[Encoding] = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [_row(*each, start) for each in zip(listed, texts, encodings, strict=True)]


def _row(segments: Segments, text: str, encoding: Encoding, start: Sequence[int]) -> TokenRow:
    learnt = bytearray(max(1, len(text)))  # of each character
    for begin, end in spans_of(segments):
        learnt[begin:end] = b"\1" * (end - begin)
    supervised = (bool(learnt[_first(text, begin, end)]) for begin, end in encoding.offsets)
    return TokenRow((*start, *encoding.ids), (*(False for _ in start), *supervised))


def _first(text: str, start: int, end: int) -> int:
    """Where the first character of a token stands that is no space.

    A token of spaces alone has none and stands where it starts; some tokenizers give it no extent, after its spaces.
    """
    if start == end:
        return max(0, start - 1)
    piece = text[start:end]
    return start + (len(piece) - len(piece.lstrip(" "))) % (end - start)


def start_of(template: Template, tokenizer: Tokenizer, conversation: Conversation | None = None) -> tuple[int, ...]:
    """The ids that the tokenizer puts in front of every text, where the template leaves that to it; else none.

    It is left to it by the built-in templates, and for conversations that no template is for: texts without roles.
    """
    if not template.needs_start and not (conversation is not None and conversation.is_passage):
        return ()
    return start_ids(tokenizer)


def start_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that the tokenizer puts in front of every text."""
    bare: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    whole: list[int] = tokenizer.encode("a").ids
    places = [index for index in range(len(whole)) if whole[index : index + len(bare)] == bare]
    return tuple(whole[: places[0]]) if places else ()


def source_for_servers(template: Template, tokenizer: Tokenizer) -> str:
    """The template's source as it belongs beside the tuned model.

    Chat servers tokenize what it writes and add nothing, so it writes itself what start_of puts in front.
    """
    start = "".join(str(tokenizer.id_to_token(token)) for token in start_of(template, tokenizer))
    return f"{{{{- {json.dumps(start, ensure_ascii=False)} }}}}{template.source}" if start else template.source


def prompt_tokens(conversation: Conversation, template: Template, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that generation starts from. Raises TemplateError."""
    encoding = tokenizer.encode(prompt_of(conversation, template), add_special_tokens=False)
    return (*start_of(template, tokenizer, conversation), *encoding.ids)


def stop_token(template: Template, tokenizer: Tokenizer) -> int:
    """The id that ends an assistant's turn. Raises TemplateError when the end of a turn is not one token."""
    end = end_of_turn(template)
    if not end:
        raise TemplateError("the chat template writes nothing after an answer, so generation would not know its end")
    ids: list[int] = tokenizer.encode(end, add_special_tokens=False).ids
    if len(ids) != 1:
        hint = ' or choose the template "plain" or "alpaca"' if template.name == "chatml" else ""
        raise TemplateError(
            f"the chat template ends a turn with {end}, which is no token of the tokenizer: add it{hint}"
        )
    return ids[0]


def check_tokens(template: Template, tokenizer: Tokenizer) -> None:
    """Raises TemplateError when a template's marks are no tokens of the tokenizer, so that no model can know them."""
    missing = [mark for mark in _TURN_MARKS if template.name == "chatml" and tokenizer.token_to_id(mark) is None]
    if missing:
        hint = 'choose the template "plain" or "alpaca"'
        raise TemplateError(f"the template chatml is for tokenizers that have {' and '.join(missing)}: {hint}")
    stop_token(template, tokenizer)


def cut(row: TokenRow, max_length: int, side: Side = "right") -> tuple[TokenRow, int]:
    """The row without what is more than `max_length` tokens at one side, and how many those are.

    Raises NothingToLearnError when none of the rest bears loss.
    """
    num_cut = max(0, len(row.ids) - max_length)
    kept = slice(0, max_length) if side == "right" else slice(num_cut, None)
    rest = TokenRow(row.ids[kept], row.supervised[kept])
    if not any(rest.supervised):
        raise NothingToLearnError(len(row.ids), num_cut)
    return rest, num_cut


def marked(row: TokenRow, tokenizer: Tokenizer) -> str:
    """The row as text, with ⟦ and ⟧ around what bears loss."""
    whole: str = tokenizer.decode(list(row.ids), skip_special_tokens=False)
    pieces: list[str] = []
    start = end = 0
    for supervised, group in groupby(row.supervised):
        end += len(list(group))
        # Some decoders treat the first token otherwise than the rest, so all tokens up to here are decoded; where they
        # end within a character, it belongs to the next piece.
        until: str = tokenizer.decode(list(row.ids[:end]), skip_special_tokens=False)
        while not whole.startswith(until):
            until = until[:-1]
        pieces.append(f"{OPEN}{whole[start : len(until)]}{CLOSE}" if supervised else whole[start : len(until)])
        start = len(until)
    return "".join(pieces)
