"""A real server of a tiny bundle on a free port, asked over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")
pytest.importorskip("uvicorn", reason="needs the serve extra")
pytest.importorskip("starlette", reason="needs the serve extra")

from runtimes.bundles.bundle import open_bundle
from runtimes.errors import RunError
from runtimes.serving import connections
from runtimes.serving.endpoint import listen
from runtimes.serving.requests import Limits
from tests.reverser import Reverser
from tests.serving import Serving, serving

ROOT = Path(__file__).parents[2]
RECIPE = 'import sys; sys.argv[0] = "recipe"; from compiler.cli import main; sys.exit(main())'


@pytest.fixture(scope="module")
def server(tiny) -> Iterator[Serving]:
    with serving(tiny.bundle, Limits(max_bytes=20_000, max_rows=40)) as running:
        yield running
    assert running.lost == [0]
    assert running.lines == []  # quiet


GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def asked(running: Serving, request: bytes) -> tuple[str, Any]:
    """The head of the answer to what is sent as it stands, and the JSON under it."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        return f"HTTP/1.1 {response.status} \n{response.headers}", json.loads(response.read())


def until(holds: Callable[[], bool]) -> None:
    """Returns when it holds; fails when it does not within half a minute."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


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
    assert value["limits"] == {
        "max_request_bytes": 20_000,
        "max_rows": 40,
        "max_characters": 200_000,
        "max_seconds": 120.0,
    }
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
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{")
    head, value = asked(server, b"what is this\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ")
    assert value["error"]["code"] == "E621"
    assert server.predict({"text": "a"})[0] == 200


@pytest.mark.parametrize(
    ("sized", "path", "status"),
    [
        ("Content-Length: 99999999999", "/predict", 413),
        ("Transfer-Encoding: chunked", "/predict", 413),
        ("Transfer-Encoding: chunked", "/nothing", 404),
    ],
)
def test_a_client_that_goes_on_sending_what_was_refused_is_left(
    server: Serving, sized: str, path: str, status: int
) -> None:
    part = b" " * (1 << 16)
    chunk = f"{len(part):x}\r\n".encode() + part + b"\r\n" if "chunked" in sized else part
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{sized}\r\n\r\n".encode())
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 << 20:
                connection.sendall(chunk)
                sent += len(chunk)
    assert sent < connections.DRAINED + (16 << 20)  # what the system holds on the way was sent too
    head, value = asked(server, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{sized}\r\n\r\n".encode() + chunk)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert value["error"]["status"] == status


def test_after_what_was_refused_and_sent_to_its_end_a_connection_goes_on(server: Serving) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    found = []
    for body in (b" " * 3_000_000, b'{"text": "a"}', b" " * 3_000_000, b'{"text": "a"}'):
        connection.request("POST", "/predict", body)
        first = connection.sock
        response = connection.getresponse()
        found.append((response.status, connection.sock is first))
        response.read()
    connection.close()
    assert found == [(413, True), (200, True)] * 2


def test_bytes_of_requests_that_do_not_end_are_counted_as_they_come(tiny) -> None:
    with (
        serving(tiny.bundle, Limits(max_bytes=2_000, max_held=3_000)) as running,
        socket.create_connection(("127.0.0.1", running.port)) as slow,
    ):
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + b" " * 1_990)
        end = time.monotonic() + 30
        while (asked := running.predict({"text": "a" * 1_500}))[0] == 200 and time.monotonic() < end:
            time.sleep(0.05)  # until the server has read what was sent
        assert (asked[0], asked[1]["error"]["code"]) == (503, "E623")
        assert running.predict({"text": "a"})[0] == 200
        slow.sendall(b'{"text":1}')
        assert b" 422 " in slow.recv(1000)
        assert running.predict({"text": "a" * 1_500})[0] == 200


def test_a_request_that_takes_too_long_is_told_to_come_again(tiny) -> None:
    with serving(tiny.bundle, Limits(max_wait=2.0, max_seconds=0.2)) as running:
        start = time.monotonic()
        head, value = asked(
            running, b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n" + b'{"text": "a"}'
        )
        assert time.monotonic() - start < 1.9  # before its batch was begun
        assert head.startswith("HTTP/1.1 503 ")
        assert "retry-after: 1" in head.lower()
        assert (value["error"]["code"], value["error"]["message"]) == ("E623", "no answer within 0.2 seconds")
        assert running.get("/health")[0] == 200
    assert running.lost == [0]  # it was answered


def test_a_request_whose_time_is_up_before_its_batch_is_not_computed() -> None:
    served = Reverser()
    served.open.clear()
    with serving(served, Limits(max_wait=0.0, max_seconds=0.3)) as running:
        assert running.predict({"text": "held"})[0] == 503
        assert served.busy.wait(30)  # it is computed still
        assert running.predict({"text": "late"})[0] == 503
        served.open.set()
        assert running.predict({"text": "next"})[0] == 200
    assert [rows for rows, _, _ in served.calls] == [["held"], ["next"]]
    assert running.lost == [0]


def test_a_request_whose_client_has_left_is_not_computed_and_holds_no_stop() -> None:
    served = Reverser()
    with serving(served, Limits(max_wait=0.0), verbose=True) as running:

        def leave(word: str) -> None:
            body = json.dumps({"text": word}).encode()
            with socket.create_connection(("127.0.0.1", running.port)) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n\r\n" + body)
                assert served.busy.wait(30)
                assert running.get("/metadata")[0] == 200  # what was sent before is read

        served.open.clear()
        leave("held")
        leave("late")
        until(lambda: [line[:18] for line in running.lines].count("POST /predict 400 ") == 2)
        served.open.set()
        assert running.predict({"text": "next"})[0] == 200
        assert [rows for rows, _, _ in served.calls] == [["held"], ["next"]]
        served.open.clear()
        served.busy.clear()
        leave("last")
        start = time.monotonic()
    assert time.monotonic() - start < 5
    served.open.set()
    assert running.lost == [0]


def test_a_text_of_megabytes_is_refused_and_the_next_request_is_answered(tiny) -> None:
    with serving(tiny.bundle) as running:
        status, value = running.predict({"text": "a good film " * 340_000})
        assert (status, value["error"]["code"], value["error"]["row"]) == (422, "E622", 0)
        assert value["error"]["message"] == "4,080,000 characters to read; a row may have 200,000"
        assert running.predict({"text": "a good film " * 16_000})[0] == 200


def test_connections_that_are_too_many_are_told_to_come_again(tiny) -> None:
    with serving(tiny.bundle, Limits(max_connections=2)) as running:
        idle = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(2)]
        head, value = asked(running, GET_HEALTH)
        assert head.startswith("HTTP/1.1 503 ")
        assert "retry-after: 1" in head.lower()
        assert "connection: close" in head.lower()
        assert value["error"]["code"] == "E623"
        idle[0].sendall(GET_HEALTH)
        assert b" 200 " in idle[0].recv(1000)  # those that were there are served
        for each in idle:
            each.close()
        until(lambda: running.get("/health")[0] == 200)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHo"])
def test_a_connection_that_asks_nothing_ends(tiny, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.3)
    with (
        serving(tiny.bundle) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as slow,
    ):
        slow.sendall(sent)
        with suppress(ConnectionResetError):
            assert slow.recv(1000) == b""
        assert running.get("/health")[0] == 200


def test_an_answer_that_nobody_reads_is_not_kept(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.3)
    body = json.dumps({"rows": [{"text": "a", "more": "b" * (16 << 20)}]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with (
        serving(tiny.bundle, Limits(max_bytes=20 << 20)) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as deaf,
    ):
        deaf.sendall(head + body)
        time.sleep(2.0)
        read = 0
        with suppress(ConnectionResetError):
            while part := deaf.recv(1 << 20):
                read += len(part)
        assert read < len(body)
        assert running.get("/health")[0] == 200
    assert running.lost == [0]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "a@localhost"])
def test_a_host_that_is_not_this_machine_is_refused_at_its_own_address(server: Serving, host: str) -> None:
    head, value = asked(server, f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert head.startswith("HTTP/1.1 421 ")
    assert (value["error"]["code"], value["error"]["message"]) == (
        "E624",
        f'nothing here answers to the host "{host}"',
    )


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_this_machine_are_answered_at_its_own_address(server: Serving, host: str) -> None:
    assert asked(server, f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0].startswith("HTTP/1.1 200 ")


def test_an_answer_does_not_wait_for_the_clients_word_between_two_packets() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        taken, _ = listener.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_one_error(server: Serving) -> None:
    with pytest.raises(RunError, match=f"port {server.port}: address already in use") as caught:
        listen("127.0.0.1", server.port)
    assert caught.value.code == "E620"


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
