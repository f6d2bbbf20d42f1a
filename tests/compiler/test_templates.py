"""Where chat templates come from, and what they write: the same as transformers does."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compiler.template_environment import TooLongError, run
from compiler.templates import (
    BUILT_IN,
    ConversationError,
    Template,
    TemplateError,
    read_template,
    rendered,
    special_tokens,
    template_in,
)
from tests.chats import CALLS, CHATS, LONG, SHORT, TEMPLATES, TOOLS, WITH_TOOLS, chat, template, tokenizer

TURNS = "{% for i in range(9999) %}"
CALLS_BACK = "{% macro f() %}{{ caller() }}{% endmacro %}"


def reference(source: Any) -> Any:
    """The tokenizer of transformers, with a chat template."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), bos_token="<s>", eos_token="</s>", chat_template=source
    )


def written(source: str, messages: Any = SHORT, **changes: Any) -> str:
    return rendered(chat(messages), Template(name="model", source=source, **changes))


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", sorted(CHATS))
@pytest.mark.parametrize("style", sorted(set(TEMPLATES) - {"llama"}))
def test_a_conversation_is_written_as_transformers_writes_it(style: str, name: str, prompt: bool) -> None:
    import jinja2

    tokenizer = reference(TEMPLATES[style])
    try:
        expected = tokenizer.apply_chat_template(CHATS[name], tokenize=False, add_generation_prompt=prompt)
    except jinja2.TemplateError as error:
        with pytest.raises(ConversationError, match=str(error)):
            rendered(chat(CHATS[name]), template(style), add_generation_prompt=prompt)
    else:
        assert rendered(chat(CHATS[name]), template(style), add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("style", sorted(set(WITH_TOOLS) - {"llama"}))
def test_tools_and_their_calls_are_written_as_transformers_writes_them(style: str) -> None:
    expected = reference(TEMPLATES[style]).apply_chat_template(CALLS, tools=TOOLS, tokenize=False)
    assert rendered(chat(CALLS, TOOLS), template(style)) == expected
    assert "a <town> & around" in expected


@pytest.mark.parametrize("messages", [*CHATS.values(), CALLS])
def test_a_template_that_asks_for_the_day_gets_the_one_that_we_give(messages: list[dict[str, Any]]) -> None:
    days = {dt.date.today()}  # noqa: DTZ011 - the reference asks for the local day
    expected = reference(TEMPLATES["llama"]).apply_chat_template(messages, tools=TOOLS, tokenize=False)
    days.add(dt.date.today())  # noqa: DTZ011 - midnight may be in between
    assert expected in {rendered(chat(messages, TOOLS), template("llama", date=day)) for day in days}
    assert "Today Date: 26 Jul 2024" in rendered(chat(messages, TOOLS), template("llama"))


def test_switches_of_a_template_are_set_by_its_variables() -> None:
    quiet = Template(name="model", source=TEMPLATES["qwen"], variables={"enable_thinking": False})
    expected = reference(TEMPLATES["qwen"]).apply_chat_template(
        SHORT[:1], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    asked = chat(SHORT).until(1)
    assert rendered(asked, quiet, add_generation_prompt=True) == expected
    assert expected.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "source",
    [
        "{{ {'a': '<é>'} | tojson }} {{ {'b': 1, 'a': [1]} | tojson(indent=2, sort_keys=true) }}",
        "{% set it = namespace(n=0) %}{% for m in messages %}{% set it.n = it.n + 1 %}{% endfor %}{{ it.n }}",
        "{{ dict(a=1, b=2) | tojson }}{{ dict.fromkeys(['x'], 0) | tojson }}",
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
        "  {% if true %}\n  a\n  {% endif %}\n  {{ 'b' }}\n",
        "{{ documents is none }} {{ documents is defined }} {{ tools is none }} {{ nothing is defined }} {{ nothing }}",
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}|{{ pad_token is defined }}",
        "{% generation %}a{% endgeneration %}b",
        "{% macro f(x) %}{{ x }}!{% endmacro %}{{ f(messages[0].content) }}",
    ],
)
def test_whatever_a_template_may_use_does_the_same_as_in_transformers(source: str) -> None:
    expected = reference(source).apply_chat_template(SHORT, tokenize=False)
    assert written(source, variables={"bos_token": "<s>", "eos_token": "</s>"}) == expected


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{% for %}", "the chat template is wrong in line 1: "),
        ("{{ raise_exception('only\n  cats') }}", "the chat template refuses the conversation: only cats"),
        ("{{ messages[0].nothing.more }}", "the chat template fails on the conversation: 'dict object' has no"),
        ("{{ 'a' + 1 }}", "the chat template fails on the conversation: can only concatenate str"),
        ("{{ 1 / 0 }}", "the chat template fails on the conversation: division by zero"),
        ("{{ messages.append(1) }}", "the chat template fails on the conversation: access to attribute 'append'"),
        ("{{ ''.__class__.__mro__ }}", "the chat template fails on the conversation: .*unsafe"),
        ("{{ strftime_now.__self__.year }}", "the chat template fails on the conversation: .*unsafe"),
        ("{{ namespace(__init__=1) }}", "the chat template fails on the conversation: a namespace can't hold"),
        ("{% include 'other' %}", "the chat template fails on the conversation: no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "the chat template fails on the conversation: maximum rec"),
        ("{{ messages[0] | nosuch }}", "the chat template is wrong in line 1: No filter named"),
    ],
)
def test_what_is_wrong_with_a_template_is_one_sentence(source: str, sentence: str) -> None:
    with pytest.raises(TemplateError, match=sentence) as caught:
        written(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        TURNS + TURNS + TURNS + "{% endfor %}{% endfor %}{% endfor %}",
        TURNS + "{% for j in range(9999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        CALLS_BACK + TURNS + "{% call f() %}" + TURNS + "{% endfor %}{% endcall %}{% endfor %}",
        "{% for i in range(9) recursive %}{{ loop(range(9)) if loop.depth < 20 }}{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** (10 ** 8) }}",
        "{{ [messages] * 99999999 }}",
    ],
    ids=["loops", "conditions", "macros", "calls", "recursion", "texts", "powers", "lists"],
)
def test_a_template_that_would_run_for_too_long_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError, match="the chat template runs for too long: it ") as caught:
        written(source)
    assert not isinstance(caught.value, ConversationError)  # it is not said of each row


def test_a_template_may_take_many_steps_for_a_long_conversation() -> None:
    source = "{% for m in messages if m.content %}{% for n in messages %}{% endfor %}{{ loop.index }} {% endfor %}"
    assert written(f"{source}{{{{ 2 * 3 ** 2 }}}}{{{{ '-' * 3 }}}}", SHORT * 350).endswith("700 18---")


def test_a_template_in_a_file_wins_over_one_in_the_configuration(tmp_path: Path) -> None:
    config = {"chat_template": "old", "bos_token": {"content": "<s>", "special": True}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_template(tmp_path).source == "old"
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}你好", encoding="utf-8")
    found = read_template(tmp_path)
    assert found.source == "{{ bos_token }}你好"
    assert found.variables == {"bos_token": "<s>", "eos_token": "</s>"}


def test_a_folder_that_transformers_saves_is_read_as_it_reads_it(tmp_path: Path) -> None:
    reference({"default": TEMPLATES["chatml"], "tool_use": TEMPLATES["qwen"]}).save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    saved: Any = AutoTokenizer.from_pretrained(tmp_path)
    found = read_template(tmp_path)
    assert rendered(chat(LONG), found) == saved.apply_chat_template(LONG, tokenize=False)
    expected = saved.apply_chat_template(CALLS, tools=TOOLS, tokenize=False)
    assert "# Tools" in expected and rendered(chat(CALLS, TOOLS), found) == expected


def test_one_of_several_templates_is_for_tools() -> None:
    listed = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    found = template_in({"tokenizer_config.json": json.dumps({"chat_template": listed})})
    assert rendered(chat(SHORT), found) == "plain"
    assert rendered(chat(SHORT, TOOLS), found) == "with tools"


@pytest.mark.parametrize(
    ("config", "name", "sentence"),
    [
        ("{}", "model", 'the model has no chat template: choose one of "chatml", "plain", "alpaca"'),
        ('{"chat_template": [{"name": "rag", "template": "x"}]}', "model", "no chat template of the name default"),
        ('{"chat_template": 3}', "model", "expected a text, or a list of objects"),
        ("{", "model", "tokenizer_config.json is not valid JSON"),
        ("[]", "model", "tokenizer_config.json: expected an object"),
        ("{}", "chatlm", 'there is no chat template "chatlm"; known: "model", "chatml"'),
        ("{}", "plain", "the tokenizer names no end-of-text token"),
    ],
)
def test_a_template_that_is_not_there_is_one_sentence(config: str, name: str, sentence: str) -> None:
    with pytest.raises(TemplateError, match=sentence):
        template_in({"tokenizer_config.json": config}, name)


def test_the_older_file_of_special_tokens_counts_where_the_configuration_lists_none() -> None:
    older = {"eos_token": {"content": "</old>"}, "additional_special_tokens": ["<x>"]}
    assert special_tokens({"eos_token": None}, older) == {"eos_token": "</old>"}
    assert special_tokens({"eos_token": "</s>", "added_tokens_decoder": {}}, older) == {"eos_token": "</s>"}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_template_is_written_alike_by_transformers_and_refuses_tools(name: str) -> None:
    chosen = template_in({"tokenizer_config.json": '{"eos_token": "</s>"}'}, name)
    for messages in CHATS.values():
        expected = reference(chosen.source).apply_chat_template(messages, tokenize=False)
        assert rendered(chat(messages), chosen) == expected
    with pytest.raises(ConversationError, match="no form for tools"):
        rendered(chat(SHORT, TOOLS), chosen)


def test_the_alpaca_template_writes_an_instructions_input_apart() -> None:
    from compiler.data.conversations import conversation_of, layout_of

    row = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    shape = layout_of(tuple(row), {})
    assert shape is not None
    alpaca = template_in({"tokenizer_config.json": '{"eos_token": "</s>"}'}, "alpaca")
    assert rendered(conversation_of(row, shape), alpaca) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n3</s>"
    )


def test_importing_our_chat_modules_imports_no_template_engine_and_no_tokenizer() -> None:
    code = "import sys, compiler.cli, compiler.tokens; print({'jinja2', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


LARGE = {
    "a width": "{{ '%99999999d' % 1 }}",
    "a width of a field": "{{ '{:>999999999}'.format(1) }}",
    "a width that is a value": "{{ '{:{}}'.format(1, 999999999) }}",
    "a filter": "{{ 'x'|center(2000000000) }}",
    "a method": "{{ 'x'.ljust(999999999) }}",
    "sums": "{% set ns=namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "joined texts": "{% set ns=namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "joined items": "{{ (range(99999)|list)|join('x'*99999) }}",
    "indents": "{{ ('\\n'*100000)|indent(100000) }}",
    "replacements": "{{ ('x'*9000000).replace('x','y'*1000) }}",
    "what is written": "{% set b='x'*5000000 %}{% for i in range(90000) %}{{ b }}{% endfor %}",
    "parts": "{{ range(3)|slice(30000000)|list|length }}",
}


@pytest.mark.parametrize("source", LARGE.values(), ids=LARGE)
def test_what_a_template_makes_is_bounded(source: str) -> None:
    with pytest.raises(TooLongError):
        run(source, {})


def test_operators_filters_and_methods_of_usual_sizes_work_as_before() -> None:
    source = (
        "{{ 'a' ~ 'b' }}|{{ 'a' + 'b' }}|{{ [1] + [2] }}|{{ 3 % 2 }}|{{ '%s %3d' % ('a', 3) }}|{{ 'n: {}'.format(3) }}|"
        "{{ '{:>4}'.format('x') }}|{{ ', '.join(['a', 'b']) }}|{{ ['a', 'b']|join('-') }}|{{ [1, 2]|join }}|"
        "{{ 'a\\nb'|indent(2) }}|{{ 'aXa'|replace('X', '-') }}|{{ '7'.zfill(3) }}|{{ nothing }}|{{ none }}|"
        "{{ 'x'|center(5) }}"
    )
    assert run(source, {}) == ("ab|ab|[1, 2]|1|a   3|n: 3|   x|a, b|a-b|12|a\n  b|a-a|007||None|  x  ")
