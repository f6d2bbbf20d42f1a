"""Chat templates: where a model's own stands, those we have for models without one, and what they write.

Nothing here imports jinja2 before a template is rendered.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compiler.data.conversations import Conversation, Message, as_json
from compiler.diagnostics import short

TEMPLATE_FILE = "chat_template.jinja"
TOOLS_TEMPLATE_FILE = "additional_chat_templates/tool_use.jinja"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
TEMPLATE_FILES = (TEMPLATE_FILE, TOOLS_TEMPLATE_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE)
"""The files beside tokenizer.json that a template and its special tokens are read from."""
OWN = "model"
"""The name of the template that comes with a model."""
DATE = dt.date(2024, 7, 26)
"""The day that it is for templates. A plan means the same on every day, so templates can't be told which day it is;
this is the one that Llama's templates write themselves where nobody tells them."""
THOUGHT = "<think>\n{}\n</think>\n\n"
"""Reasoning at the head of an answer, as many templates write it; for those that have no form for it, too."""
_REASONED = Conversation(
    messages=(
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello", reasoning="Somebody greets."),
    )
)
_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class TemplateError(ValueError):
    """A template that can't be used: why, and what to do."""


class ConversationError(TemplateError):
    """A template that can't be used for one conversation: the row is to be changed, or the template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A chat template: its name, its source, and what else it reads.

    `variables` are its special tokens, as `bos_token`, and switches like `enable_thinking`. `source_for_tools`, where
    there is one, is used for conversations with tools. `needs_start`: the text does not begin with the token that the
    tokenizer puts in front of every text, where it does so, and that token is still to be put there.
    """

    name: str
    source: str
    source_for_tools: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    needs_start: bool = False
    date: dt.date = DATE

    @property
    def eos_token(self) -> str:
        """The text of the token that ends a text. Raises TemplateError when the tokenizer names none."""
        token = self.variables.get("eos_token")
        if not isinstance(token, str) or not token:
            raise TemplateError(f'the tokenizer names no end-of-text token: add "eos_token" to {CONFIG_FILE}')
        return token

    def source_of(self, conversation: Conversation) -> str:
        """The source that a conversation is rendered with."""
        return (self.source_for_tools if conversation.tools else "") or self.source

    def has_marks(self, conversation: Conversation) -> bool:
        """Whether the source itself says what the assistant writes, with `{% generation %}`."""
        return _MARKED.search(self.source_of(conversation)) is not None


def read_template(folder: Path, name: str = OWN) -> Template:
    """The template of the tokenizer in a folder, or a built-in one with its special tokens. Raises TemplateError."""
    return template_in({file: _text(folder / file) for file in TEMPLATE_FILES if (folder / file).is_file()}, name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"{path.name} can't be read: {error}") from None


def template_in(files: Mapping[str, str], name: str = OWN) -> Template:
    """As read_template, from the texts of those of TEMPLATE_FILES that there are."""
    config = _object(files, CONFIG_FILE)
    variables = special_tokens(config, _object(files, SPECIAL_TOKENS_FILE))
    if name != OWN:
        return _built_in(name, variables)
    sources = _sources(files, config.get("chat_template"))
    if "default" not in sources:
        known = ", ".join(f'"{built_in}"' for built_in in BUILT_IN)
        other = f" of the name default, only {', '.join(sorted(sources))}" if sources else ""
        raise TemplateError(f"the model has no chat template{other}: choose one of {known}, or a model for chat")
    return Template(
        name=OWN, source=sources["default"], source_for_tools=sources.get("tool_use", ""), variables=variables
    )


def _object(files: Mapping[str, str], name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(files.get(name, "{}"))
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise TemplateError(f"{name}: expected an object")
    return value


def _sources(files: Mapping[str, str], written: object) -> dict[str, str]:
    """The templates of a model by name. Files win over what tokenizer_config.json says, as in transformers."""
    beside = {"default": files.get(TEMPLATE_FILE), "tool_use": files.get(TOOLS_TEMPLATE_FILE)}
    if any(beside.values()):
        return {name: source for name, source in beside.items() if source}
    if isinstance(written, str):
        return {"default": written} if written else {}
    listed = written if isinstance(written, list) else []
    named = [entry for entry in listed if isinstance(entry, dict)]
    if written is not None and len(named) < max(1, len(listed)):
        raise TemplateError(f'"chat_template" in {CONFIG_FILE}: expected a text, or a list of objects')
    sources = {str(entry.get("name")): entry.get("template") for entry in named}
    return {name: source for name, source in sources.items() if isinstance(source, str)}


def named_tokens(folder: Path) -> dict[str, str]:
    """The texts of the tokens that the files of a tokenizer in a folder name. Raises TemplateError."""
    names = (CONFIG_FILE, SPECIAL_TOKENS_FILE)
    files = {name: _text(folder / name) for name in names if (folder / name).is_file()}
    return special_tokens(_object(files, CONFIG_FILE), _object(files, SPECIAL_TOKENS_FILE))


def special_tokens(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the tokens that a tokenizer's files name: bos_token, eos_token and so on.

    The older special_tokens_map.json counts only where tokenizer_config.json does not list the tokens itself.
    """
    merged = config if "added_tokens_decoder" in config else {**config, **legacy}
    named = {key: _token(value) for key, value in merged.items() if key.endswith("_token")}
    return {key: token for key, token in named.items() if token}


def _token(value: object) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def rendered(conversation: Conversation, template: Template, *, add_generation_prompt: bool = False) -> str:
    """The text of a conversation, with the assistant's next turn begun where asked. Raises TemplateError."""
    return _run(template, conversation, {"add_generation_prompt": add_generation_prompt})


def rendered_with_marks(conversation: Conversation, template: Template, marks: tuple[str, str]) -> str:
    """The same, with two texts around all that the source marks as generated. Raises TemplateError."""
    from compiler.template_environment import MARKS

    return _run(template, conversation, {"add_generation_prompt": False, MARKS: marks})


def with_thoughts(conversation: Conversation, template: Template) -> Conversation:
    """The conversation, its reasoning at the head of the contents where the template has no form for it."""
    if not any(message.reasoning for message in conversation.messages):
        return conversation
    if _writes_reasoning(template, conversation.tools):
        return conversation
    return replace(conversation, messages=tuple(_thought(message) for message in conversation.messages))


def _writes_reasoning(template: Template, tools: tuple[Mapping[str, Any], ...]) -> bool:
    """Whether the template writes the reasoning of the last answer, where there are such tools."""
    try:
        return _REASONED.messages[-1].reasoning in rendered(replace(_REASONED, tools=tools), template)
    except ConversationError:
        return True


def _thought(message: Message) -> Message:
    if not message.reasoning:
        return message
    content = THOUGHT.format(message.reasoning) + (message.content or "")
    return replace(message, content=content, reasoning="", thought=message.reasoning)


def _run(template: Template, conversation: Conversation, more: Mapping[str, Any]) -> str:
    from jinja2 import TemplateSyntaxError

    from compiler.template_environment import FAILURES, Refused, TooLongError, run

    variables = {
        **template.variables,
        "messages": [as_json(message) for message in conversation.messages],
        "tools": [dict(tool) for tool in conversation.tools] or None,
        "documents": None,
        "strftime_now": template.date.strftime,
        **more,
    }
    try:
        return run(template.source_of(conversation), variables)
    except Refused as error:
        raise ConversationError(f"the chat template refuses the conversation: {_sentence(error)}") from None
    except TooLongError as error:
        raise TemplateError(f"the chat template runs for too long: {_sentence(error)}") from None
    except TemplateSyntaxError as error:
        raise TemplateError(f"the chat template is wrong in line {error.lineno}: {_sentence(error)}") from None
    except FAILURES as error:
        raise ConversationError(f"the chat template fails on the conversation: {_sentence(error)}") from None


def _sentence(error: Exception) -> str:
    """What an error says, on one line."""
    text = " ".join((getattr(error, "message", None) or str(error)).split())
    return text if len(text) < 200 else f"{text[:200]}…"


def _built_in(name: str, variables: Mapping[str, str]) -> Template:
    if name not in BUILT_IN:
        known = ", ".join(f'"{built_in}"' for built_in in (OWN, *BUILT_IN))
        raise TemplateError(f'there is no chat template "{short(name)}"; known: {known}')
    template = Template(name=name, source=BUILT_IN[name], variables=variables, needs_start=True)
    if name != "chatml":
        assert template.eos_token
    return template


_NO_TOOLS = """\
{%- if tools %}{{ raise_exception('it has no form for tools, use a model whose own template has one') }}{% endif %}
"""
_ANSWER = """\
{%- macro answer(message) %}
{%- if message.tool_calls %}{{ raise_exception('it has no form for tool calls') }}{% endif %}
{%- if message.reasoning_content %}{{ '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' }}{% endif %}
{{- message.content }}
{%- endmacro %}
"""
_CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' ~ message.role ~ '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ answer(message) ~ '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message.content ~ '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
_PLAIN = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- generation %}{{ answer(message) ~ eos_token }}{% endgeneration %}
{%- else %}
{{- message.content }}
{%- endif %}
{%- endfor %}
"""
# The words are those of Stanford Alpaca's prompts, which models that know this form have seen.
_ALPACA = """\
{%- set task = 'Below is an instruction that describes a task' %}
{%- set response = 'Write a response that appropriately completes the request.' %}
{%- set messages = messages %}
{%- if messages[0].role in ('system', 'developer') %}
{{- messages[0].content ~ '\\n\\n' }}
{%- set messages = messages[1:] %}
{%- elif messages and messages[0].input %}
{{- task ~ ', paired with an input that provides further context. ' ~ response ~ '\\n\\n' }}
{%- else %}
{{- task ~ '. ' ~ response ~ '\\n\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{{- '### Instruction:\\n' ~ (message.instruction if message.input else message.content) ~ '\\n\\n' }}
{%- if message.input %}{{ '### Input:\\n' ~ message.input ~ '\\n\\n' }}{% endif %}
{%- elif message.role == 'assistant' %}
{{- '### Response:\\n' }}
{%- generation %}{{ answer(message) ~ eos_token }}{% endgeneration %}
{%- if not loop.last %}{{ '\\n\\n' }}{% endif %}
{%- else %}
{{- raise_exception('it has no form for the role ' ~ message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}
"""
BUILT_IN: Mapping[str, str] = {
    "chatml": _NO_TOOLS + _ANSWER + _CHATML,
    "plain": _NO_TOOLS + _ANSWER + _PLAIN,
    "alpaca": _NO_TOOLS + _ANSWER + _ALPACA,
}
"""The templates for models that have none. `chatml` wants its two marks to be tokens of the tokenizer; `plain` puts
prompt and completion together as they are; `alpaca` is for models without tokens for turns."""
