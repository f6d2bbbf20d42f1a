"""The group of commands: each is imported when it is called, so that --help starts at once."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from compiler import __version__
from compiler.diagnostics import RecipeError, render

# Command -> where it is, and the line that `recipe --help` shows for it.
COMMANDS = {
    "init": ("compiler.cli.init:init", "Write a recipe from a data file and a few answers."),
    "check": ("compiler.cli.check:check", "Find every mistake in recipes; no framework is loaded."),
    "plan": ("compiler.cli.plan:plan", "Print or write the plan of a recipe, or compare two."),
    "run": ("compiler.cli.run:run", "Run a recipe or plan: tune, export, verify. Resumes by itself."),
    "runs": ("compiler.cli.runs:runs", "List the runs."),
    "clean": ("compiler.cli.runs:clean", "Delete runs and step outputs that no run refers to."),
    "report": ("compiler.cli.report:report", "Show what a run measured."),
    "predict": ("compiler.cli.bundle:predict", "Answer texts or images with a bundle or a run."),
    "pass-at-k": ("compiler.cli.pass_at_k:pass_at_k", "Draw answers, and have a command of yours judge them."),
    "export": ("compiler.cli.export:export", "Export a model as it is, without a recipe, and prove it."),
    "verify": ("compiler.cli.bundle:verify", "Prove that a bundle answers as its source does."),
    "tokenizer": ("compiler.cli.tokenizer:tokenizer", "Train a model's tokenizer on rows, to begin from scratch."),
    "explain": ("compiler.cli.explain:explain", "Explain a diagnostic's code."),
    "schema": ("compiler.cli.explain:schema", "Print the JSON Schema of recipes, for editors."),
    "doctor": ("compiler.cli.doctor:doctor", "Show versions, devices, and what each extra enables."),
}
EXIT_RECIPE, EXIT_GATE, EXIT_RUN, EXIT_INTERRUPTED, EXIT_PIPE = 1, 3, 4, 130, 141


class Commands(click.Group):
    """A group that imports a command when it is called, and turns errors into one sentence and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's. What it writes itself about wrong usage may meet a closed pipe too."""
        with closed_pipe():
            return super().main(*args, **extra)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click's. The texts of --help and --version are written here."""
        with closed_pipe():
            return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest command in the error."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from compiler.diagnostics import did_you_mean

            ctx.fail(f'no command "{args[0]}": {did_you_mean(args[0], COMMANDS, noun="commands")}')
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what it raises becomes a sentence and an exit code."""
        with closed_pipe(), terminable():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except RecipeError as error:
            click.echo(render(error.diagnostics, "text"), err=True)
            ctx.exit(EXIT_RECIPE)
        except (KeyboardInterrupt, click.Abort):  # Abort: Ctrl-C or the end of the input, at a question
            click.echo("\ninterrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except Exception as error:  # the edge: users get a sentence
            if isinstance(error, BrokenPipeError) and unread_streams():
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            code, lines = explain_failure(error)
            click.echo("\n".join(lines), err=True)
            ctx.exit(code)


@contextmanager
def closed_pipe() -> Iterator[None]:
    """A block that exits 141 without a word when what it writes to has lost its reader, as `| head` leaves it.

    141 is what shells show for a program that SIGPIPE ended, which is how most programs leave such a pipe.
    """
    try:
        yield
    except BrokenPipeError:
        unread = unread_streams()
        if not unread:
            raise  # another pipe, or a connection
        for descriptor in unread:  # Python writes what is left in the buffers when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        sys.exit(EXIT_PIPE)


@contextmanager
def terminable() -> Iterator[None]:
    """A block that SIGTERM ends as Ctrl-C does, so that what is half-written goes with it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may listen to signals
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:  # else the command's own: see cli/serve.py
            signal.signal(signal.SIGTERM, before)


def unread_streams() -> list[int]:
    """Descriptors of those of the standard output and error that are pipes without a reader."""
    import select

    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # errors are reported whatever is asked for
    return [descriptor for descriptor, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]


def explain_failure(error: Exception) -> tuple[int, list[str]]:
    """The exit code and the lines for an error of a run, or for one that nobody foresaw."""
    if isinstance(error, ModuleNotFoundError):
        return EXIT_RUN, missing_module(error)
    from compiler.hub import SourceError
    from compiler.templates import TemplateError
    from runtimes.errors import GateError, Interrupted, RunError

    if isinstance(error, (RunError, SourceError)):
        code = EXIT_GATE if isinstance(error, GateError) else EXIT_RUN
        code = EXIT_INTERRUPTED if isinstance(error, Interrupted) else code
        code = EXIT_RECIPE if error.code in _AUTHORS else code
        hint = [f"    hint: {error.hint}"] if error.hint else []
        return code, [f"error[{error.code}]: {error.message}", *hint]
    if isinstance(error, TemplateError):  # of a bundle: that of a recipe is a finding
        return EXIT_RECIPE, [f"error[R411]: {error}", "    hint: mend the template, or give it other rows"]
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        said = f"error[E401]: the system refused: {(error.strerror or str(error)).lower()}{where}"
        return EXIT_RUN, [said, f"    hint: {SYSTEM_HINTS.get(error.errno or 0, SYSTEM_HINT)}"]
    lines = [
        f"error[E499]: {type(error).__name__}: {error}",
        "    hint: this is a fault of ours; `recipe --debug ...` shows where",
    ]
    return EXIT_RUN, lines


# Not the machine's: a path that leads nowhere, a model that does not answer what it is asked.
_AUTHORS = frozenset(["R252", "R253", "R301"])
# What the system says -> what to do; the run goes on where it stopped.
SYSTEM_HINT = "mend what it names; the same command goes on where it stopped"
SYSTEM_HINTS = {
    errno.ENOSPC: "make room (`recipe clean` deletes what no run refers to); the same command goes on",
    errno.EDQUOT: "make room (`recipe clean` deletes what no run refers to); the same command goes on",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "the place can't be written to: name another",
    errno.ENOENT: "a folder or file that it needs is not there: check the path",
    errno.ENOTDIR: "a part of the path is a file and no folder: name another place",
    errno.EEXIST: "a file is where a folder is needed: name another place",
}


# Package -> the extra that brings it.
EXTRAS = {
    "torch": "torch",
    "transformers": "torch",
    "peft": "torch",
    "accelerate": "torch",
    "onnx": "onnx",
    "mlx": "mlx",
    "coremltools": "coreml",
}
EXTRAS |= {"onnxscript": "onnx", "onnx_ir": "onnx", "onnxruntime": "onnx"}
EXTRAS |= {"starlette": "serve", "uvicorn": "serve"}


def missing_module(error: ModuleNotFoundError) -> list[str]:
    """The sentence for a package that is not installed, with the command that installs it."""
    name = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(name)
    command = f"pip install 'recipec[{extra}]'" if extra else "pip install recipec"
    return [f'error[E402]: this needs the package "{name}", which is not installed', f"    hint: {command}"]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: recipe init rows.jsonl --label sentiment --text snippet",
)
@click.version_option(__version__, prog_name="recipe")
@click.option("--debug", is_flag=True, help="Show the traceback of an unforeseen error.")
def main(debug: bool) -> None:
    """Compile fine-tuning recipes: check them, run them, export the tuned model and prove the export."""
