"""Chat templates in the styles of well-known models, conversations, and a byte-level tokenizer with their marks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from compiler.data.conversations import Conversation, conversation_of, layout_of
from compiler.templates import Template

CHATML = """\
{%- if messages[0].role != 'system' -%}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
CHATML_MARKED = """\
{% for message in messages %}
    {% if message.role == 'assistant' %}
<|im_start|>assistant
{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}

    {% else %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
LLAMA = """\
{{- bos_token }}
{%- if strftime_now is defined %}{%- set today = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + today + '\\n\\n' }}
{%- if tools is not none %}
    {%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
{%- endif %}
{{- system + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('only one tool call at once') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
MISTRAL = """\
{%- set first = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}
{%- set messages = messages[1:] if messages[0].role == 'system' else messages %}
{%- set last = namespace(user=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and loop.index0 == last.user %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + (first if loop.first else '') + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {{- call.function | tojson + (', ' if not loop.last else '') }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + '}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
{%- endfor %}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{ '<start_of_turn>model\\n' }}
{%- endif %}
"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'tool' %}{% continue %}{% endif %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' + (messages[0].content + '\\n\\n' if messages[0].role == 'system' else '') }}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set last = namespace(query=messages | length - 1, open=true) %}
{%- for message in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if last.open and message.role == 'user' %}
        {%- set last.open = false %}
        {%- set last.query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
        {%- if not reasoning and '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > last.query and (loop.last or reasoning) %}
            {{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- ('\\n' if content or not loop.first else '') + '<tool_call>\\n{"name": "' + call.function.name }}
            {{- '", "arguments": ' + call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
QWEN_THINKING = QWEN.replace(
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
    "{{- '<think>\\n' }}",
)
assert QWEN_THINKING != QWEN
TEMPLATES: Mapping[str, str] = {
    "chatml": CHATML,
    "chatml-marked": CHATML_MARKED,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "zephyr": ZEPHYR,
    "qwen": QWEN,
    "qwen-thinking": QWEN_THINKING,
}
"""By the style that they are in."""
END = {
    "chatml": "<|im_end|>",
    "chatml-marked": "<|im_end|>",
    "llama": "<|eot_id|>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",
    "zephyr": "</s>",
    "qwen": "<|im_end|>",
    "qwen-thinking": "<|im_end|>",
}
"""What ends a turn."""
WITH_TOOLS = ("llama", "mistral", "qwen", "qwen-thinking")
_MARKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "zephyr": (
        (
            "{{ '<|assistant|>\\n' + message['content'] + eos_token }}",
            "{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}\n",
        ),
    ),
    "gemma": (
        (
            "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}",
            """{{ '<start_of_turn>' + role + '\\n' }}{% if role == 'model' %}{% generation %}
{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}{% else %}
{{ message['content'] | trim + '<end_of_turn>' }}{% endif %}{{ '\\n' }}""",
        ),
    ),
    "mistral": (
        ("{{- '[TOOL_CALLS] ['", "{%- generation %}{{- '[TOOL_CALLS] ['"),
        ("{{- ']' + eos_token }}", "{{- ']' + eos_token }}{%- endgeneration %}"),
        (
            "{{- ' ' + message.content | trim + eos_token }}",
            "{%- generation %}{{- ' ' + message.content | trim + eos_token }}{%- endgeneration %}",
        ),
    ),
    "qwen": (
        (
            "{{- '<|im_start|>assistant\\n' }}\n        {%- if loop",
            "{{- '<|im_start|>assistant\\n' }}{%- generation %}\n        {%- if loop",
        ),
        (
            "{{- '<|im_end|>\\n' }}\n    {%- elif message.role == 'tool'",
            "{{- '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}\n    {%- elif message.role == 'tool'",
        ),
    ),
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a <town> & around",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]
SHORT: list[dict[str, Any]] = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello!"}]
SYSTEM: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, *SHORT]
LONG: list[dict[str, Any]] = [
    *SHORT,
    {"role": "user", "content": "你好世界 🌍"},
    {"role": "assistant", "content": "世界你好。👩‍🚀 Hello!"},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hi there"},
]
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "How is it in Zürich?"},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"town": "Zürich"}}}
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "13 °C, it's fine"},
    {"role": "assistant", "content": "It is 13 °C."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "You are welcome."},
]
REASONED: list[dict[str, Any]] = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
    {"role": "user", "content": "and 3?"},
    {"role": "assistant", "content": "7", "reasoning_content": "Four and three."},
]
CHATS: Mapping[str, list[dict[str, Any]]] = {"short": SHORT, "system": SYSTEM, "long": LONG, "reasoned": REASONED}
"""Conversations without tools."""
SPECIAL = (
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>"),
)


def with_marks(style: str) -> str:
    """The source of a style, with `{% generation %}` around what the assistant writes."""
    source = TEMPLATES[style]
    for plain, marked in _MARKS.get(style, ()):
        assert plain in source
        source = source.replace(plain, marked)
    assert "generation %}" in source
    return source


def template(style: str, **changes: Any) -> Template:
    """The template of a style, with the tokenizer's marks for the beginning and the end of a text."""
    return Template(
        name="model", source=TEMPLATES[style], variables={"bos_token": "<s>", "eos_token": "</s>"}, **changes
    )


def chat(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> Conversation:
    """The conversation of a row with these messages."""
    shape = layout_of(("messages", "tools"), {})
    assert shape is not None
    return conversation_of({"messages": messages, "tools": tools}, shape)


@cache
def tokenizer_json() -> str:
    """A byte-level BPE tokenizer of few merges, that puts <s> in front of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [str(message.get("content", "")) for messages in (*CHATS.values(), CALLS) for message in messages]
    tokenizer.train_from_iterator(texts * 3, trainer)
    start = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), start])
    text: str = tokenizer.to_str()
    return text


def tokenizer(*, trim: bool = True) -> Tokenizer:
    """The same, to be changed at will; `trim`: whether a token's extent leaves out the space that it begins with."""
    read = Tokenizer.from_str(tokenizer_json())
    if not trim:
        read.post_processor = processors.ByteLevel(trim_offsets=False)
    return read
