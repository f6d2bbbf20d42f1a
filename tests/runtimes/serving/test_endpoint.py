"""A real server of a tiny bundle on a free port, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")
pytest.importorskip("uvicorn", reason="needs the serve extra")
pytest.importorskip("starlette", reason="needs the serve extra")

from runtimes.bundles.bundle import open_bundle
from runtimes.errors import RunError
from runtimes.serving.endpoint import listen
from runtimes.serving.requests import Limits
from tests.serving import Serving, serving

ROOT = Path(__file__).parents[2]
RECIPE = 'import sys; sys.argv[0] = "recipe"; from compiler.cli import main; sys.exit(main())'


@pytest.fixture(scope="module")
def server(tiny) -> Iterator[Serving]:
    with serving(tiny.bundle, Limits(max_bytes=20_000, max_rows=40)) as running:
        yield running
    assert running.lost == [0]
    assert running.lines == []  # quiet


def test_two_hundred_requests_at_once_are_answered_as_predict_does(tiny, server: Serving) -> None:
    requests = [[{"text": text, "id": number} for text in tiny.texts[number % 7 :: 40]] for number in range(200)]
    bundle = open_bundle(tiny.bundle, threads=1)
    with ThreadPoolExecutor(40) as pool:
        found = [*pool.map(lambda rows: server.predict({"rows": rows}), requests)]
    assert {status for status, _ in found} == {200}
    for rows, (_, value) in zip(requests, found, strict=True):
        expected = bundle.predict(rows)
        assert [{**answer, "prediction": None} for answer in value["answers"]] == [
            {**row, "prediction": None} for row in rows
        ]
        for answer, alone in zip(value["answers"], expected, strict=True):
            assert answer["prediction"]["label"] == alone["label"]
            assert answer["prediction"]["scores"] == pytest.approx(alone["scores"], abs=1e-6)


def test_a_text_is_answered_as_the_command_line_does(tiny, server: Serving) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RECIPE, "predict", tiny.bundle, "--text", "a GOOD film, café", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    status, value = server.predict({"text": "a GOOD film, café"})
    [answer], expected = value["answers"], json.loads(done.stdout)
    assert status == 200
    scores = expected["prediction"].pop("scores"), expected["prediction"].pop("score")
    assert answer["prediction"].pop("scores") == pytest.approx(scores[0], abs=1e-6)
    assert answer["prediction"].pop("score") == pytest.approx(scores[1], abs=1e-6)
    assert answer == expected


def test_health_and_metadata_say_what_is_served(server: Serving) -> None:
    assert server.get("/health") == (
        200,
        {"status": "ready", "name": "tiny-sentiment", "task": "text-classification", "plan_key": "0" * 64},
    )
    status, value = server.get("/metadata")
    assert status == 200
    assert value["columns"] == [{"column": "text", "role": "text", "kind": "text", "required": True}]
    assert value["limits"] == {"max_request_bytes": 20_000, "max_rows": 40}
    assert server.get("/") == (status, value)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "E624"),
        ("GET", "/predict", None, 405, "E624"),
        ("POST", "/health", b"{}", 405, "E624"),
        ("POST", "/predict", b"{", 400, "E621"),
        ("POST", "/predict", b'{"text": "' + b"a" * 20_000 + b'"}', 413, "E621"),
        ("POST", "/predict", b'{"text": "' + b"a" * 2_000_000 + b'"}', 413, "E621"),
        ("POST", "/predict", json.dumps({"rows": [{"text": "a"}] * 41}).encode(), 422, "E621"),
        ("POST", "/predict", b'{"rows": [{"txt": "a"}]}', 422, "E622"),
    ],
)
def test_what_can_t_be_answered_is_an_error_in_json_and_the_server_goes_on(
    server: Serving, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    found, value = server.send(method, path, body)
    assert (found, value["error"]["status"], value["error"]["code"]) == (status, status, code)
    assert value["error"]["message"]
    assert server.get("/health")[0] == 200


def test_a_wrong_value_is_named_by_its_row_and_key(server: Serving) -> None:
    status, value = server.predict({"rows": [{"text": "a"}, {"text": None}]})
    assert status == 422
    assert (value["error"]["row"], value["error"]["key"]) == (1, "text")


def test_a_client_that_leaves_in_the_middle_of_its_request_harms_nobody(server: Serving) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"what is this\r\n\r\n")
        assert b" 400 " in connection.recv(1000)
    assert server.predict({"text": "a"})[0] == 200


def test_bytes_of_requests_that_do_not_end_are_counted_as_they_come(tiny) -> None:
    with (
        serving(tiny.bundle, Limits(max_bytes=2_000, max_held=3_000)) as running,
        socket.create_connection(("127.0.0.1", running.port)) as slow,
    ):
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b" " * 1_990)
        end = time.monotonic() + 30
        while (asked := running.predict({"text": "a" * 1_500}))[0] == 200 and time.monotonic() < end:
            time.sleep(0.05)  # until the server has read what was sent
        assert (asked[0], asked[1]["error"]["code"]) == (503, "E623")
        assert running.predict({"text": "a"})[0] == 200
        slow.sendall(b'{"text":1}')
        assert b" 422 " in slow.recv(1000)
        assert running.predict({"text": "a" * 1_500})[0] == 200


def test_a_stop_answers_what_is_under_way(tiny) -> None:
    found: list[tuple[int, Any]] = []
    with serving(tiny.bundle, Limits(max_wait=1.0), verbose=True) as running:
        threads = [threading.Thread(target=lambda: found.append(running.predict({"text": "a"}))) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)  # they wait for others to share their batch
    for thread in threads:
        thread.join()
    assert [status for status, _ in found] == [200] * 5
    assert running.lost == [0]
    assert [line.rsplit(" ", 2)[0] for line in running.lines] == ["POST /predict 200"] * 5


def test_a_port_that_is_taken_is_one_error(server: Serving) -> None:
    with pytest.raises(RunError, match=f"port {server.port}: address already in use") as caught:
        listen("127.0.0.1", server.port)
    assert caught.value.code == "E620"


# --- the command


def start(bundle: Path, *options: str) -> tuple[subprocess.Popen[str], Serving]:
    """`recipe predict --serve` as a process, and where it answers."""
    done = subprocess.Popen(
        [sys.executable, "-c", RECIPE, "predict", bundle, "--serve", "--port", "0", "--threads", "1", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.stderr is not None
    line = done.stderr.readline()
    assert line.startswith("tiny-sentiment: ready at http://127.0.0.1:"), line
    return done, Serving(port=int(line.rpartition(":")[2]))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_when_its_requests_are_answered(tiny, sent: signal.Signals) -> None:
    process, running = start(tiny.bundle, "--max-wait-ms", "1000")
    found: list[tuple[int, Any]] = []
    thread = threading.Thread(target=lambda: found.append(running.predict({"text": "a"})))
    thread.start()
    time.sleep(0.3)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    thread.join()
    assert (process.returncode, said) == (0, "")
    assert [status for status, _ in found] == [200]


def test_requests_that_a_second_interrupt_leaves_unanswered_are_told(tiny) -> None:
    process, running = start(tiny.bundle, "--max-wait-ms", "10000", "--log-requests")
    found: list[tuple[int, Any]] = []

    def ask() -> None:
        with suppress(OSError, ValueError):  # the connection ends, or says in plain text that it does
            found.append(running.predict({"text": "a"}))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    thread.join()
    assert (process.returncode, found) == (130, [])
    assert said.splitlines()[-1] == "stopped; requests that were not answered: 1"


IMPORTED = """
import json, sys, threading
from pathlib import Path
from runtimes.serving.requests import Limits
from tests.serving import serving

with serving(Path(sys.argv[1]), Limits()) as running:
    status, _ = running.predict({"text": "a"})
print(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_serving_imports_no_framework(tiny) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, tiny.bundle],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    status, modules = json.loads(done.stdout)
    assert status == 200
    assert not {"torch", "transformers", "peft", "onnx", "mlx", "safetensors"} & {*modules}
