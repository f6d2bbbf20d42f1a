"""Which characters of a rendered conversation bear loss.

Where the template marks what the assistant writes (`{% generation %}`), its marks are it. Elsewhere each turn is looked
for: the conversation up to the turn, rendered as a prompt, is what generation would start from, so the turn is what
follows it. Templates that write earlier turns otherwise than the last one (Qwen3 leaves their reasoning out) make that
prompt no beginning of the whole; then the turn is found by its content, and by what the template writes around it.

The end-of-turn token bears loss: a model that never learnt it would not stop. The line break that many templates write
after it does not: generation is over by then, so the model never writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Literal

from compiler.data.conversations import Conversation
from compiler.data.messages import Message
from compiler.templates import (
    THOUGHT,
    ConversationError,
    Template,
    TemplateError,
    rendered,
    rendered_with_marks,
    with_thoughts,
)

Supervise = Literal["assistant", "last", "all"]
"""What bears loss: all that the assistant says, the last that it says, or every token."""
Span = tuple[int, int]
"""Characters from, up to."""
_THOUGHT = "Somebody greets."
_PROBES = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation, and whether it bears loss."""

    text: str
    supervised: bool


Segments = tuple[Segment, ...]


def render(
    conversation: Conversation, template: Template, supervise: Supervise = "assistant", *, reasoning: bool = True
) -> Segments:
    """The rendered conversation in pieces. A text without roles is not rendered: all of it and its end bear loss.

    `reasoning`: whether that of an answer is learnt too; else its turn bears loss from what follows it.

    Raises TemplateError when the template can't be used, or when it can't be told what of its text the assistant said.
    """
    if conversation.is_passage:
        return (Segment(f"{conversation.messages[0].content}{template.eos_token}", supervised=True),)
    if supervise == "all":
        return (Segment(rendered(conversation, template), supervised=True),)
    if template.has_marks(conversation):
        text, spans = _marked(conversation, template, _learnt(conversation, supervise))
    else:
        text = rendered(conversation, template)
        spans = [_Turn(conversation, template, text, index).span() for index in _learnt(conversation, supervise)]
    if not reasoning:
        read = list(_reasonings(conversation, template, text))
        spans = [_behind(span, read) for span in spans]
    return _segments(text, spans)


def _reasonings(conversation: Conversation, template: Template, text: str) -> Iterator[Span]:
    """Where the reasoning of answers stands in the text, found with a character in its place.

    What the template leaves out, as many do in earlier turns, stands nowhere.
    """
    mark = _unused(text)[0]
    messages = conversation.messages
    for index, message in enumerate(messages):
        if not (message.reasoning or message.thought):
            continue
        other = replace(
            conversation, messages=(*messages[:index], _with_reasoning(message, mark), *messages[index + 1 :])
        )
        before, *after = rendered(other, template).split(mark)
        if not after:
            continue
        if len(after) > 1 or not (text.startswith(before) and text.endswith(after[0])):
            raise ConversationError(
                f"the chat template writes the reasoning of message {index + 1} so that it can't be told from the "
                "rest: learn it as well, or use another template"
            )
        yield len(before), len(text) - len(after[0])


def _with_reasoning(message: Message, reasoning: str) -> Message:
    """The message with other reasoning, where it has some."""
    if not message.thought:
        return replace(message, reasoning=reasoning)
    content = (message.content or "").removeprefix(THOUGHT.format(message.thought))
    return replace(message, content=THOUGHT.format(reasoning) + content)


def _behind(span: Span, read: Sequence[Span]) -> Span:
    """What of a turn follows the reasoning in it."""
    start, end = span
    return max([start, *(stop for begin, stop in read if start <= begin < end)]), end


def end_of_reasoning(template: Template) -> str:
    """What stands between an answer's reasoning and its words, without white space; "" where none can be written."""
    asked, answered = _PROBES
    reasoned = Conversation(messages=(asked, replace(answered, reasoning=_THOUGHT)))
    try:
        text = rendered(with_thoughts(reasoned, template), template)
    except ConversationError:
        return ""
    return text.rpartition(_THOUGHT)[2].partition(answered.content or "")[0].strip()


def prompt_of(conversation: Conversation, template: Template) -> str:
    """What generation starts from: all before the assistant's last turn, and the beginning of that turn.

    Of a text without roles, it is the text. Raises TemplateError.
    """
    if conversation.is_passage:
        return conversation.messages[0].content or ""
    return rendered(conversation.until(conversation.last_answer), template, add_generation_prompt=True)


def only_in_prompt(template: Template) -> str:
    """What the template writes to begin an answer but not before an answer that is there; "" where both are the same.

    Some templates begin an answer with <think>, and leave it out of answers without reasoning: what is generated then
    follows on a text that was never trained on. Raises TemplateError.
    """
    conversation = Conversation(messages=_PROBES)
    prompt, text = prompt_of(conversation, template), rendered(conversation, template)
    asked = rendered(conversation.until(1), template)
    if text.startswith(prompt) or not prompt.startswith(asked):
        return ""
    shared = next((each for each in _beginnings(prompt[len(asked) :]) if text.startswith(asked + each)), "")
    return prompt[len(asked) + len(shared) :]


def end_of_turn(template: Template) -> str:
    """What the template writes after an assistant's words and before any line break; "" where it is nothing.

    A tokenizer that makes one token of it tells where generation stops. Raises TemplateError.
    """
    segments = render(Conversation(messages=_PROBES), template, "last")
    said = "".join(segment.text for segment in segments if segment.supervised)
    return said.rpartition(_PROBES[-1].content or "")[2].strip()


def _learnt(conversation: Conversation, supervise: Supervise) -> list[int]:
    """The indices of the messages that bear loss."""
    indices = [index for index, message in enumerate(conversation.messages) if message.role == "assistant"]
    chosen = indices[-1:] if supervise == "last" else indices
    return [index for index in chosen if conversation.messages[index].learnt]


def _segments(text: str, spans: Iterable[Span]) -> Segments:
    """The text cut at the borders of the spans, which lie in order and do not overlap."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif start < end:
            joined.append((start, end))
    borders = [0, *(border for span in joined for border in span), len(text)]
    pieces = [(text[start:end], bool(number % 2)) for number, (start, end) in enumerate(pairwise(borders))]
    return tuple(Segment(piece, supervised) for piece, supervised in pieces if piece)


# Templates with marks


def _marked(conversation: Conversation, template: Template, learnt: Sequence[int]) -> tuple[str, list[Span]]:
    """The rendered conversation, and what of it the template marks as written by these messages."""
    text = rendered(conversation, template)
    marks = _unused(text)
    marked = rendered_with_marks(conversation, template, marks)
    spans: list[Span] = []
    pieces: list[str] = []
    for number, piece in enumerate(re.split("|".join(map(re.escape, marks)), marked)):
        if number % 2:
            start = sum(map(len, pieces))
            spans.append((start, start + len(piece)))
        pieces.append(piece)
    if "".join(pieces) != text:
        raise TemplateError("the chat template changes its text when {% generation %} is marked: mark less of it")
    return text, _owned(conversation, template, text, spans, learnt)


def _owned(
    conversation: Conversation, template: Template, text: str, spans: list[Span], learnt: Sequence[int]
) -> list[Span]:
    """Those of the marked spans that belong to these messages."""
    answers = [index for index, message in enumerate(conversation.messages) if message.role == "assistant"]
    if list(learnt) == answers:
        return spans
    if len(spans) == len(answers):
        return [span for index, span in zip(answers, spans, strict=True) if index in learnt]
    turns = [_Turn(conversation, template, text, index).span() for index in learnt]
    return [span for span in spans if any(start < span[1] and span[0] < end for start, end in turns)]


def _unused(text: str) -> tuple[str, str]:
    """Two characters that are not in the text."""
    private = (chr(code) for code in range(0xE000, 0xF8FF))
    free = (character for character in private if character not in text)
    return next(free), next(free)


# Templates without


@dataclass(frozen=True, slots=True)
class _Turn:
    """An assistant's turn, to be found in the text of its conversation."""

    conversation: Conversation
    template: Template
    text: str
    index: int

    def span(self) -> Span:
        """Where it stands, without the white space at its end. Raises ConversationError."""
        start, end = self._exact() or self._by_content()
        return start, max(start, len(self.text[:end].rstrip()))

    def _exact(self) -> Span | None:
        """Where it stands, if what comes before it and the turn itself are written as when it was the last one."""
        prompt, through = self._prompt(), self._through()
        if prompt is None or not self.text.startswith(through):
            return None
        if through.startswith(prompt):
            return len(prompt), len(through)
        before = self._before()
        if not before or not prompt.startswith(before):
            return None
        # A prompt may begin more than the turn has, <think> for example: the turn starts where they part.
        shared = (before + written for written in _beginnings(prompt[len(before) :]))
        start = next((len(written) for written in shared if through.startswith(written)), None)
        return None if start is None else (start, len(through))

    def _by_content(self) -> Span:
        """Where it stands, found by its content and by what the template writes around that of such a turn."""
        before, after = self._around(self.conversation)
        start, end = len(before), len(self.text) - len(after)
        if start > end or not (self.text.startswith(before) and self.text.endswith(after)):
            raise self._lost()
        before_last, after_last = self._around(self.conversation.until(self.index + 1))
        written_after = after_last.rstrip()
        if not self.text.startswith(written_after, end):
            raise self._lost()
        return self._start(before_last, start), end + len(written_after)

    def _start(self, before_last: str, content_start: int) -> int:
        """Where the turn starts of which the content starts here; `before_last`: what is before it as the last one."""
        before = self.text[:content_start]
        prompt = self._prompt()
        if prompt is not None and before.startswith(prompt):
            return len(prompt)
        beginnings = _beginnings(self._beginning(prompt))
        lead = before_last[len(prompt) :] if prompt is not None and before_last.startswith(prompt) else ""
        for written, led in product(beginnings or [""], dict.fromkeys((lead, ""))):
            if before.endswith(written + led):
                return content_start - len(led)
        # Something is written before the content that was not when the turn was the last one: back to its first line.
        found = before.rfind(min((each for each in beginnings if each.endswith("\n")), key=len, default=self.text))
        if found < 0:
            raise self._lost()
        return found + next(len(each) for each in beginnings if before.startswith(each, found))

    def _around(self, conversation: Conversation) -> tuple[str, str]:
        """What the template writes before and after the message's content, or its call's name where it has none.

        Found with a character in its place that stands nowhere else.
        """
        mark = _unused(self.text)[0]
        messages = list(conversation.messages)
        if not (messages[self.index].content or "").strip() and not messages[self.index].tool_calls:
            raise self._lost()
        messages[self.index] = _with_mark(messages[self.index], mark)
        pieces = rendered(replace(conversation, messages=tuple(messages)), self.template).split(mark)
        if len(pieces) != 2:
            raise self._lost()
        return pieces[0], pieces[1]

    def _prompt(self) -> str | None:
        """What the turn would have been generated from; None where the template does not render it.

        Without a message there is nothing to go by: many templates write the prompt only after one.
        """
        return self._tried(self.index, add_generation_prompt=True) if self.index else None

    def _before(self) -> str | None:
        return self._tried(self.index)

    def _through(self) -> str:
        """The conversation up to the turn and with it."""
        return rendered(self.conversation.until(self.index + 1), self.template)

    def _tried(self, end: int, *, add_generation_prompt: bool = False) -> str | None:
        try:
            return rendered(self.conversation.until(end), self.template, add_generation_prompt=add_generation_prompt)
        except ConversationError:
            return None

    def _beginning(self, prompt: str | None) -> str:
        """What the template writes to begin an assistant's turn, white space and all."""
        before = self._before()
        if prompt is None or before is None:
            asked = Conversation(messages=_PROBES[:1])
            prompt = rendered(asked, self.template, add_generation_prompt=True)
            before = rendered(asked, self.template)
        return prompt[len(before) :] if prompt.startswith(before) else ""

    def _lost(self) -> ConversationError:
        return ConversationError(
            f"the chat template writes message {self.index + 1}, of the assistant, so that it can't be told from the "
            'rest: supervise the "last" answer only, or put {% generation %} marks into the template'
        )


def _with_mark(message: Message, mark: str) -> Message:
    """The message with another content or, where it has none, with another name of the first tool that it calls."""
    if (message.content or "").strip():
        return replace(message, content=mark)
    return replace(message, tool_calls=(replace(message.tool_calls[0], name=mark), *message.tool_calls[1:]))


def _beginnings(written: str) -> list[str]:
    """What begins a turn, longest first: all of it, and what a line or a mark like <think> or [INST] in it ends."""
    ends = {len(written), *(found.end() for found in re.finditer(r"[\n>\]]", written))}
    return [written[:end] for end in sorted(ends, reverse=True) if end]


def spans_of(segments: Segments) -> Iterator[Span]:
    """Where the segments that bear loss stand in the text of all."""
    start = 0
    for segment in segments:
        end = start + len(segment.text)
        if segment.supervised:
            yield start, end
        start = end
