"""recipe predict --serve: a bundle over HTTP, on this machine unless another address is named."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compiler.cli.options import FiniteRange, given_options

if TYPE_CHECKING:
    from runtimes.export.facts import Provider
    from runtimes.serving.endpoint import Server
    from runtimes.serving.requests import Limits

F = TypeVar("F", bound=Callable[..., Any])
EXIT_LOST = 130
OPTIONS = (
    click.option(
        "--serve",
        is_flag=True,
        help="Answer over HTTP until Ctrl-C or SIGTERM: GET /health, GET /metadata, POST /predict. "
        "Exits with 0 when what was asked is answered, with 130 when some of it is not.",
    ),
    click.option("--host", default="127.0.0.1", show_default=True, help="With --serve: the address to listen at."),
    click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Its port; 0 for any."),
    click.option(
        "--allow-host",
        multiple=True,
        help="With --serve: a name that it may be asked by besides this machine's own; * for any. Can be repeated.",
    ),
    click.option(
        "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Rows computed at once."
    ),
    click.option(
        "--max-wait-ms",
        type=FiniteRange(0, 10_000),
        default=0.0,
        show_default=True,
        help="That a row waits for others to share its batch; 0: only those that wait already share it.",
    ),
    click.option(
        "--max-request-bytes", type=click.IntRange(min=64), default=4 << 20, show_default=True, help="Of a request."
    ),
    click.option("--max-rows", type=click.IntRange(min=1), default=256, show_default=True, help="Of a request."),
    click.option(
        "--max-characters",
        type=click.IntRange(min=1),
        default=200_000,
        show_default=True,
        help="Of a row, of what is tokenized: others wait meanwhile.",
    ),
    click.option(
        "--max-seconds",
        type=FiniteRange(min=0, min_open=True),
        default=120.0,
        show_default=True,
        help="That a request waits for its answer.",
    ),
    click.option(
        "--max-connections",
        type=click.IntRange(min=1),
        default=512,
        show_default=True,
        help="At once; more are told to come again.",
    ),
    click.option("--log-requests", is_flag=True, help="With --serve: a line for each request on standard error."),
)
NAMES = (
    "host",
    "port",
    "allow_host",
    "max_batch",
    "max_wait_ms",
    "max_request_bytes",
    "max_rows",
    "max_characters",
    "max_seconds",
    "max_connections",
    "log_requests",
)


def serve_options(command: F) -> F:
    """--serve and what goes with it; the command finds them by name."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def refuse_without_serve() -> None:
    """Raises click's error for an option of the server where there is none."""
    if given := given_options(NAMES):
        raise click.UsageError(f"{given[0]} goes with --serve")


def refuse_with_serve(names: tuple[str, ...]) -> None:
    """Raises click's error for an option about rows that are answered at once: a server is sent its rows."""
    if given := given_options(names):
        raise click.UsageError(f"{given[0]} does not go with --serve: rows are sent to POST /predict")


def limits_of(options: dict[str, Any]) -> Limits:
    """The limits that the command line names."""
    from runtimes.serving.requests import Limits

    return Limits(
        max_bytes=options["max_request_bytes"],
        max_rows=options["max_rows"],
        max_characters=options["max_characters"],
        max_seconds=options["max_seconds"],
        max_connections=options["max_connections"],
        max_batch=options["max_batch"],
        max_wait=options["max_wait_ms"] / 1000,
    )


def serve_bundle(folder: Path, threads: int, provider: Provider, options: dict[str, Any]) -> None:
    """Answers over HTTP until it is told to stop. Exits with 130 when requests under way were not answered."""
    lost, computes = 0, True
    with stoppable() as stop:
        try:
            lost, computes = _served(folder, threads, provider, options, stop)
        except KeyboardInterrupt:
            say("stopped before it was ready")
    if lost:
        say(f"stopped; requests that were not answered: {lost:,}")
    if computes:
        os._exit(EXIT_LOST if lost else 0)  # onnxruntime aborts the process when it is torn down in the middle
    if lost:
        raise click.exceptions.Exit(EXIT_LOST)


def _served(folder: Path, threads: int, provider: Provider, options: dict[str, Any], stop: Stop) -> tuple[int, bool]:
    """After the stop: the number of requests that were begun and not answered, and whether something computes still."""
    from runtimes.serving.endpoint import Endpoint, listen, serve, server_of
    from runtimes.serving.hosts import hosts_of, is_local
    from runtimes.serving.served import open_served

    served = open_served(folder, threads=threads, provider=provider)
    host = options["host"]
    with listen(host, options["port"]) as listener:
        hosts = hosts_of(host, options["allow_host"])
        endpoint = Endpoint(served, limits_of(options), say, hosts=hosts, verbose=options["log_requests"])
        server = server_of(endpoint)
        stop.ends(server)
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        say(f"{served.facts()['name']}: ready at http://{shown}:{port}")
        if not is_local(host):
            say("warning: whoever reaches this address may ask: there is no password")
        return serve(endpoint, listener, server), endpoint.worker.is_alive


class Stop:
    """What Ctrl-C and SIGTERM do: they end the loading, later the server, and nothing else any more."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._told = False

    def ends(self, server: Server) -> None:
        """From now on it is the server that is told. A second signal that is a Ctrl-C does not wait for answers."""
        self._server = server
        server.should_exit = self._told  # where the exception of a signal was lost in what was loaded

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal."""
        first, self._told = not self._told, True
        if self._server is not None:
            self._server.handle_exit(number, frame)
        elif first:
            raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stop]:
    """A block that signals stop, after which they are ignored: the process ends, and its exit code is decided."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may listen to signals
        return
    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    after: dict[signal.Signals, Any] = dict(before)
    try:
        yield stop
        after = dict.fromkeys(before, signal.SIG_IGN)
    finally:
        for each, handler in after.items():
            signal.signal(each, handler)


def say(line: str) -> None:
    """A line of the server's log. The server goes on where nobody reads it any more."""
    with suppress(BrokenPipeError):
        click.echo(line, err=True)
