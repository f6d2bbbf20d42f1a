"""How a server stops: what it waits for, and with which exit code the command ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")
pytest.importorskip("uvicorn", reason="needs the serve extra")
pytest.importorskip("starlette", reason="needs the serve extra")

from compiler.cli.serve import stoppable
from runtimes.serving.requests import Limits
from tests.serving import Serving, serving

ROOT = Path(__file__).parents[3]
RECIPE = 'import sys; sys.argv[0] = "recipe"; from compiler.cli import main; sys.exit(main())'
SIGNALS = (signal.SIGTERM, signal.SIGINT)
AT_ONCE = 5.0
"""Seconds within which a stop that waits for nothing has ended, on a busy machine; a slow client has 30."""

MANY = {"rows": [{"text": "a good film " * 12}] * 40_000}
"""What takes some seconds to compute."""


def launch(bundle: Path, *options: str) -> subprocess.Popen[str]:
    """`recipe predict --serve` as a process."""
    return subprocess.Popen(
        [sys.executable, "-c", RECIPE, "predict", bundle, "--serve", "--port", "0", "--threads", "1", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def start(bundle: Path, *options: str) -> tuple[subprocess.Popen[str], Serving]:
    """A server as a process that is ready, and where it answers."""
    process = launch(bundle, *options)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("tiny-sentiment: ready at http://127.0.0.1:"), line
    return process, Serving(port=int(line.rpartition(":")[2]))


def asking(running: Serving, value: Any) -> tuple[threading.Thread, list[tuple[int, Any]]]:
    """A thread that asks, and what it was answered, if anything."""
    found: list[tuple[int, Any]] = []

    def ask() -> None:
        with suppress(OSError, ValueError):  # the connection ends, or says in plain text that it does
            found.append(running.predict(value))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, found


# --- what a stop waits for


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHo",
        b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"text"',
        b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{",
    ],
    ids=["silent", "idle", "half a head", "half a body", "refused before its end"],
)
def test_a_connection_for_which_nothing_is_computed_holds_no_stop(tiny, sent: bytes) -> None:
    with serving(tiny.bundle) as running:
        slow = socket.create_connection(("127.0.0.1", running.port), timeout=30)
        slow.sendall(sent)
        assert running.get("/health")[0] == 200  # what was sent before is read
        start = time.monotonic()
    assert time.monotonic() - start < AT_ONCE
    slow.close()
    assert running.lost == [0]


def test_a_stop_answers_what_is_under_way(tiny) -> None:
    with serving(tiny.bundle, Limits(max_wait=1.0), verbose=True) as running:
        asked = [asking(running, {"text": "a"}) for _ in range(5)]
        time.sleep(0.3)  # they wait for others to share their batch
    for thread, _ in asked:
        thread.join()
    assert [status for _, found in asked for status, _ in found] == [200] * 5
    assert running.lost == [0]
    assert [line.rsplit(" ", 2)[0] for line in running.lines] == ["POST /predict 200"] * 5


def test_a_body_that_comes_whole_just_after_the_stop_is_answered(tiny) -> None:
    with serving(tiny.bundle) as running:
        slow = socket.create_connection(("127.0.0.1", running.port), timeout=30)
        slow.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"text"')
        assert running.get("/health")[0] == 200
        slow.sendall(b': "a"}')
    with slow:
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert running.lost == [0]


# --- the command's exit code


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_stops_the_server_when_its_requests_are_answered(tiny, sent: signal.Signals) -> None:
    process, running = start(tiny.bundle, "--max-wait-ms", "1000")
    thread, found = asking(running, {"text": "a"})
    time.sleep(0.3)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    thread.join()
    assert (process.returncode, said) == (0, "")
    assert [status for status, _ in found] == [200]


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_stop_while_the_bundle_is_loaded_is_a_stop(tmp_path: Path, sent: signal.Signals) -> None:
    pipe = tmp_path / "manifest.json"
    os.mkfifo(pipe)
    process = launch(tmp_path)
    with pipe.open("w"):  # it is opened once the other end is: the command reads the manifest, which does not come
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "stopped before it was ready\n")


def test_signals_from_when_it_is_ready_to_its_end_change_nothing(tiny) -> None:
    process, _ = start(tiny.bundle)
    while process.poll() is None:
        for sent in SIGNALS:
            process.send_signal(sent)
        time.sleep(0.002)
    assert (process.returncode, process.communicate()[1]) == (0, "")


def test_requests_that_a_second_interrupt_leaves_unanswered_are_told(tiny) -> None:
    process, running = start(tiny.bundle, "--max-wait-ms", "10000", "--log-requests")
    thread, found = asking(running, {"text": "a"})
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    thread.join()
    assert (process.returncode, found) == (130, [])
    assert said.splitlines()[-1] == "stopped; requests that were not answered: 1"


def test_a_second_interrupt_in_the_middle_of_a_batch_ends_with_the_same_code(tiny) -> None:
    process, running = start(tiny.bundle, "--max-rows", "40000", "--max-request-bytes", "8000000")
    thread, found = asking(running, MANY)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    thread.join()
    assert (process.returncode, found) == (130, [])
    assert said == "stopped; requests that were not answered: 1\n"


@pytest.mark.parametrize("sent", SIGNALS)
def test_what_is_computed_for_nobody_any_more_holds_no_stop(tiny, sent: signal.Signals) -> None:
    process, running = start(
        tiny.bundle, "--max-rows", "40000", "--max-request-bytes", "8000000", "--max-seconds", "0.2"
    )
    assert running.predict(MANY)[0] == 503
    begun = time.monotonic()
    process.send_signal(sent)
    assert process.communicate(timeout=60)[1] == ""
    assert (process.returncode, time.monotonic() - begun < AT_ONCE) == (0, True)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("handlers")
def test_a_first_signal_interrupts_the_loading_and_no_other_does() -> None:
    with stoppable(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert {signal.getsignal(each) for each in SIGNALS} == {signal.SIG_IGN}
    with stoppable():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        for each in SIGNALS:
            signal.raise_signal(each)


@pytest.mark.usefixtures("handlers")
def test_after_an_error_signals_mean_what_they_meant() -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with pytest.raises(ValueError, match="no bundle"), stoppable():
        raise ValueError("no bundle")
    assert {each: signal.getsignal(each) for each in SIGNALS} == before
