"""text-generation: an answer to a conversation, an instruction or a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from compiler.auto import Choice
from compiler.data.conversations import (
    LAYOUTS,
    ROLES,
    Conversation,
    Message,
    Shape,
    answer_of,
    conversation_of,
    layout_of,
    read_conversation,
)
from compiler.data.texts import BadValueError
from compiler.diagnostics import Diagnostic
from compiler.metrics import Perplexity, TokenAccuracy
from compiler.supervision import Segments, Supervise, render
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.tasks.language import check_language, loss_of
from compiler.templates import (
    OWN,
    ConversationError,
    Template,
    TemplateError,
    read_template,
    rendered,
    with_thoughts,
)
from compiler.tokens import check_tokens, prompt_tokens
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

    from compiler.facts import DataFacts, ModelFacts
    from compiler.packing import Packing
    from compiler.recipe import Recipe
    from compiler.tasks.interface import Architecture, Targets

COLUMNS: Mapping[str, Kind] = {role: "text" if role == "text" else "conversation" for role in ROLES}
INPUTS = ("prompt", *(role for role in ROLES if role != "prompt"))
OPTIONAL = frozenset(ROLES)
NAMED: frozenset[str] = frozenset()
ARCHITECTURES: tuple[Architecture, ...] = ("decoder",)
PACKING: Packing = "whole"
SPECIAL_TOKENS = False  # the template writes them
WRITTEN = ("exact-match", "rouge", "bleu", "chrf", "json-validity", "distinct", "mean-length")
WRITES = True
METRICS = ("perplexity", "token-accuracy", *WRITTEN)
DEFAULT_METRICS = (Perplexity(), TokenAccuracy())
LOSSES = ("cross-entropy",)
STRATIFIES = False
_ASKED_AGAIN = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello"),
    Message(role="user", content="Bye"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """How a conversation becomes one text: the model's own template, a built-in one, or one that is written here."""

    SHORTHAND: ClassVar[str] = "name"

    name: Annotated[
        str,
        About("model: the model's own; chatml, plain or alpaca: for models that have none. auto: model, else plain."),
    ] = "auto"
    source: Annotated[str, About("A Jinja template, instead of one that a name means.")] = ""
    source_for_tools: Annotated[str, About("The same for conversations with tools, where it is another.")] = ""
    variables: Annotated[
        Mapping[str, str | bool], About("What the template reads beside the conversation: switches, special tokens.")
    ] = field(default_factory=dict)
    needs_start: Annotated[
        bool, About("Whether the token that the tokenizer puts in front of every text is still to be put there.")
    ] = False

    def bound(self, folder: Path) -> ChatTemplate:
        """With its source and the special tokens of the tokenizer in a folder. Raises TemplateError."""
        if self.source:
            special = read_template(folder, "plain").variables
            return replace(self, name="written", variables={**special, **self.variables})
        name = self.name
        if name == "auto":
            name = OWN if _has_own(folder) else "plain"
        found = read_template(folder, name)
        return ChatTemplate(
            name=name,
            source=found.source,
            source_for_tools=found.source_for_tools,
            variables={**found.variables, **self.variables},
            needs_start=found.needs_start,
        )

    def kept(self, asked: ChatTemplate) -> ChatTemplate:
        """The template, which is bound, as the own one of the model that was tuned with it."""
        return replace(self, name=OWN, variables={**self.variables, **asked.variables})

    def template(self) -> Template:
        """The template, which is bound."""
        assert self.source, "bound to the model's files before rows are read"
        return Template(
            name=self.name,
            source=self.source,
            source_for_tools=self.source_for_tools,
            variables=self.variables,
            needs_start=self.needs_start,
        )


def _has_own(folder: Path) -> bool:
    """Whether the tokenizer in a folder has a template."""
    try:
        read_template(folder, OWN)
    except TemplateError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class TextGeneration:
    """An answer to a conversation. Columns: messages; or prompt, completion; or instruction, input, output; or text."""

    type: Annotated[
        Literal["text-generation"],
        About("An answer to a conversation, an instruction or a prompt."),
    ] = "text-generation"
    template: Annotated[ChatTemplate, About("How a conversation becomes one text.")] = ChatTemplate()
    supervise: Annotated[
        Supervise, About("What is learnt: every turn of the assistant, its last one, or the whole text.")
    ] = "assistant"
    supervise_reasoning: Annotated[
        bool,
        About(
            "Whether the reasoning before an answer is learnt as well, or only read. Evaluation and `predict` write "
            "from a prompt without it."
        ),
    ] = True


class Reader:
    """Reads a conversation."""

    labels: tuple[str, ...] = ()

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.named = {role: column for role, column in columns.items() if role != column}

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        shape = self._shape(values)
        conversation_of(values, shape)
        return Example(row=_row(values, shape))

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """A row whose answer is not read. Raises BadValueError."""
        answers = {"prompt": "completion", "instruction": "output"}
        missing = {answers[role]: "-" for role in answers if self.named.get(role, role) in values}
        completed = {**{self.named.get(role, role): word for role, word in missing.items()}, **values}
        return _row(completed, self._shape(completed))

    def _shape(self, values: Mapping[str, object]) -> Shape:
        shape = layout_of(values.keys(), self.named)
        if shape is None:
            known = "; ".join(" and ".join(layout.required) for layout in LAYOUTS.values())
            column = next(iter(self.named.values()), "messages")
            raise BadValueError(column, f"expected a conversation in the columns {known}, found {', '.join(values)}")
        return shape

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] zeros: the rows have no classes."""
        import numpy as np

        return np.zeros(len(targets), np.int64)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """None: nothing is labelled."""
        return {}

    def values(self, targets: Targets) -> tuple[()]:
        """Nothing: the answers are texts."""
        return ()


def _row(values: Mapping[str, object], shape: Shape) -> Mapping[str, Any]:
    """The values of a row by role; what is not there is left out."""
    return {role: values[column] for role, column in shape.columns.items() if values.get(column) is not None}


def conversation(row: Mapping[str, Any]) -> Conversation:
    """The conversation in a row by role, answered or not. Raises BadValueError."""
    shape = layout_of(row.keys(), {})
    assert shape is not None, "as a reader of rows gives it"
    return read_conversation(row, shape)


def told(task: TextGeneration, row: Mapping[str, Any]) -> Conversation:
    """The conversation as it is written: a column's reasoning is in the answer where the template has no form for it.

    Messages that bring their own are the template's business, as everywhere.
    """
    found = conversation(row)
    return with_thoughts(found, task.template.template()) if "reasoning" in row else found


def reference(row: Mapping[str, Any]) -> str:
    """What the assistant says last in a row by role."""
    return answer_of(conversation(row))


def bind(task: TextGeneration, tokenizer_file: Path) -> TextGeneration:
    """The task with its template's source and special tokens, which the tokenizer has. Raises ValueError."""
    found = replace(task, template=task.template.bound(tokenizer_file.parent))
    if found.template.name in ("chatml", "written"):
        from tokenizers import Tokenizer

        check_tokens(found.template.template(), Tokenizer.from_file(str(tokenizer_file)))
    return found


def bind_after(task: TextGeneration, before: TextGeneration, tokenizer_file: Path) -> TextGeneration:
    """As bind, for a model that such a task has tuned before: its own template is the one it was tuned with."""
    own = not task.template.source and task.template.name in ("auto", OWN)
    return replace(task, template=before.template.kept(task.template)) if own else bind(task, tokenizer_file)


def texts(task: TextGeneration, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The rendered conversation; its bare words before the task is bound. Raises BadValueError."""
    if not task.template.source:
        return ("\n".join(message.content or "" for message in conversation(row).messages),)
    return ("".join(segment.text for segment in pieces(task, row)),)


def pieces(task: TextGeneration, row: Mapping[str, Any]) -> Segments:
    """The rendered conversation in pieces, each with whether it is learnt. Raises BadValueError."""
    try:
        return render(told(task, row), task.template.template(), task.supervise, reasoning=task.supervise_reasoning)
    except ConversationError as error:
        raise BadValueError(next(iter(row)), str(error)) from None


def takes_examples(task: TextGeneration) -> bool:
    """Whether the template, once it is bound, writes a question after one that was answered."""
    if not task.template.source:
        return True
    try:
        rendered(Conversation(messages=_ASKED_AGAIN), task.template.template(), add_generation_prompt=True)
    except ConversationError:
        return False
    return True


def is_started(task: TextGeneration, row: Mapping[str, Any]) -> bool:
    """Whether the tokenizer's own start stands in front of a row: a template leaves it out, or there is none for it."""
    shape = layout_of(row.keys(), {})
    return task.template.needs_start or (shape is not None and shape.layout == "text")


def check_prompt(task: TextGeneration, row: Mapping[str, Any], tokenizer: Callable[[], Tokenizer]) -> None:
    """Nothing when what an answer starts from has tokens; asked where nothing is said before it. Raises BadValueError.

    Templates for chat begin a turn with words of their own. The others leave the first token of an answer unlearnt.
    """
    found = conversation(row)
    before = found.until(found.last_answer).messages
    if not task.template.source or any((message.content or "").strip() or message.tool_calls for message in before):
        return
    try:
        tokens = prompt_tokens(found, task.template.template(), tokenizer())
    except ConversationError as error:
        raise BadValueError(next(iter(row)), str(error)) from None
    if not tokens:
        raise BadValueError(next(iter(row)), "the prompt has no tokens, so that no text can be written after it")


def reader(task: TextGeneration, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Classes have no weights here; reasoning is told from the rest where not every token is learnt."""
    yield from check_language(recipe)
    task, pointer = recipe.task, "/task/supervise_reasoning"
    assert isinstance(task, TextGeneration), "the module is the task's"
    if task.supervise == "all" and recipe.wrote(pointer) is not None:
        message = 'nothing reads "supervise_reasoning" with "supervise": "all"'
        yield recipe.finding("R202", pointer, message, "remove it: every token is learnt", key=True)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """No findings: rows were read one by one."""
    return iter(())


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """No findings: what the task needs of a model's files, it took when it was bound."""
    return iter(())


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task as it is bound; the model's own head is kept."""
    task = recipe.task
    assert isinstance(task, TextGeneration), "the module is the task's"
    reason = "the model's own" if task.template.name == OWN else "the model has no template of its own"
    said = Choice(pointer="/task/template", value=task.template.name, reason=reason)
    return ResolvedTask(
        task=task,
        loss=loss_of(recipe),
        metrics=tuple(metric for metric in recipe.metrics or DEFAULT_METRICS),
        keep_head=True,
        choices=() if recipe.wrote("/task/template") is not None else (said,),
    )


def summary(data: DataFacts) -> str:
    """How many tokens there are."""
    train = data.split("train")
    return f"{train.num_tokens:,} tokens of conversations" if train and train.num_tokens else "conversations"
