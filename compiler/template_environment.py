"""The Jinja environment that chat templates are written for. Importing it imports jinja2: import it where it is used.

What templates may use is what transformers gives them (transformers.utils.chat_template_utils): blocks trimmed, loop
controls, `{% generation %}`, `tojson` that leaves characters as they are, `raise_exception`. Templates come from a hub,
so they run in Jinja's sandbox, see plain JSON values only, and can change none of them. The sandbox bounds one range;
how often a template goes round in all is bounded here, and so is how large a text or list it makes (template_sizes).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from itertools import islice
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from compiler import template_sizes

TooLongError = template_sizes.TooLongError
MARKS = "marks of generation"
"""The variable with the two texts to put around what stands between `{% generation %}` and `{% endgeneration %}`.

It has spaces in its name, so no template can read it."""
_STEPS = "steps that are left"
"""The variable with a value for each step that a rendering may still take, likewise, and the filter that takes one."""
MOST_STEPS = 1_000_000
"""Turns of loops, and of their conditions, and calls of macros in one rendering: a conversation takes a few for each of
its messages and tools, and these take less than a second."""
_TOO_MANY = f"it takes over {MOST_STEPS:,} steps: its loops are too many or too long"
_SIZED = "its size"
"""The filter that looks how large a value is, likewise not to be named by a template."""
_A_STEP = 100  # characters that are written, or joined, for as much as a step
FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
)
"""What can be raised while a template runs: Jinja's own errors, and those of the Python operations that it asks for."""


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what the model itself is to write."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # a set in the base class, which nobody changes

    def parse(self, parser: Parser) -> nodes.Node:
        """A block that puts the marks around its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: Context, caller: Macro) -> str:
        start, end = context.get(MARKS) or ("", "")
        return f"{start}{caller()}{end}"


@jinja2.pass_context
def _step(context: Context, go_on: bool) -> bool:
    """What it is given; counts a step."""
    if next(context[_STEPS], None) is None:
        raise TooLongError(_TOO_MANY)
    return go_on


@jinja2.pass_context
def _sized(context: Context, value: Any) -> Any:
    """What it is given, where it is not too large; a long text counts as steps."""
    if isinstance(value, str) and len(value) >= _A_STEP:
        template_sizes.check_size(len(value))
        if next(islice(context[_STEPS], len(value) // _A_STEP - 1, None), None) is None:
            raise TooLongError(_TOO_MANY)
    return value


class _Sizes(NodeTransformer):
    """Looks at the size of what is written and of what `~` joins."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # a name of Jinja's
        """The joined texts, looked at."""
        return _looked_at(self.generic_visit(node))

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802  # likewise
        """What is written, each part looked at that is not the template's own text."""
        self.generic_visit(node)
        node.nodes = [part if isinstance(part, nodes.TemplateData) else _looked_at(part) for part in node.nodes]
        return node


def _looked_at(at: nodes.Node) -> nodes.Filter:
    assert isinstance(at, nodes.Expr), "what has a value"
    return nodes.Filter(at, _SIZED, [], [], None, None, lineno=at.lineno)


def _counted(template: nodes.Template) -> nodes.Template:
    """The template with a step in front of the body and the condition of every loop, and of every macro's body.

    Filters are called without the sandbox's questions, which take ten times as long as the step.
    """
    for loop in template.find_all(nodes.For):
        loop.body.insert(0, nodes.ExprStmt(_stepping(loop), lineno=loop.lineno))
        loop.test = loop.test and nodes.And(_stepping(loop), loop.test, lineno=loop.lineno)
    macros: list[nodes.Macro | nodes.CallBlock] = [*template.find_all(nodes.Macro), *template.find_all(nodes.CallBlock)]
    for called in macros:
        called.body.insert(0, nodes.ExprStmt(_stepping(called), lineno=called.lineno))
    return template


def _stepping(at: nodes.Node) -> nodes.Filter:
    return nodes.Filter(nodes.Const(True), _STEPS, [], [], None, None, lineno=at.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with bounds for what the sandbox leaves without one."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def _generate(self, source: nodes.Template, *more: Any, **named: Any) -> str:
        counted = _Sizes().visit(_counted(source))
        counted.set_environment(self)
        return super()._generate(counted, *more, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """What an operator makes, where it is not too large."""
        template_sizes.check_operation(operator, left, right)
        return _sized(context, super().call_binop(context, operator, left, right))

    def call(self, context: Context, called: Any, /, *values: Any, **named: Any) -> Any:
        """What a function or method makes, where it is not too large."""
        method = getattr(called, "__wrapped__", called)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            template_sizes.check_call(method.__name__, (owner, *values, *named.values()))
        return _sized(context, super().call(context, called, *values, **named))


class _Dict:
    """What templates have as `dict`: it makes dicts, and has no way to Python's types."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """A dict with one value for all keys."""
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """What templates have as `namespace`: without names that start with an underscore, which are Python's own."""

    def __init__(*args: Any, **values: Any) -> None:  # a value may be called self
        self, *others = args
        members = dict(*others, **values)
        for name in members:
            _check_name(name)
        Namespace.__init__(self, members)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace can't hold {name!r}, which starts with an underscore")


class Refused(jinja2.TemplateError):
    """The template itself says that it is not for such a conversation."""


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON text; Jinja's own filter writes it for HTML, with <, >, & and ' as escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bounded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that is asked only for what is not too large."""
    takes = 1 if getattr(made, "jinja_pass_arg", None) else 0  # the environment or context in front

    @wraps(made)
    def checked(*values: Any, **named: Any) -> Any:
        template_sizes.check_call(name, (*values[takes:], *named.values()))
        return made(*values, **named)

    return checked


@lru_cache(maxsize=32)
def compiled(source: str) -> jinja2.Template:
    """The template of a source text. Raises jinja2.TemplateSyntaxError."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension])
    bounded = {
        name: _bounded(name, environment.filters[name]) for name in template_sizes.MAKERS & {*environment.filters}
    }
    environment.filters |= {**bounded, "tojson": _tojson, _STEPS: _step, _SIZED: _sized}
    environment.globals.update(raise_exception=_raise_exception, dict=_Dict(), namespace=_Namespace)
    return environment.from_string(source)


def run(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a template writes. Raises one of FAILURES."""
    return compiled(source).render({**variables, _STEPS: iter(range(MOST_STEPS))})
