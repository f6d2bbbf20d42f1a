"""A server of a bundle on a free port, in a thread of the test, and requests to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from runtimes.serving.requests import Limits
from runtimes.serving.served import Served


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A running server: its port, its lines on standard error, and the requests that it lost, once it has stopped."""

    port: int
    lines: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """The status and the JSON that a request is answered with."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, Any]:
        """What is at a path."""
        return self.send("GET", path)

    def predict(self, value: Any) -> tuple[int, Any]:
        """What POST /predict answers."""
        return self.send("POST", "/predict", json.dumps(value).encode())


@contextmanager
def serving(bundle: Path | Served, limits: Limits | None = None, *, verbose: bool = False) -> Iterator[Serving]:
    """A server of a bundle or its folder, while the block runs; what is under way at its end is answered."""
    from runtimes.serving.endpoint import Endpoint, listen, serve, server_of
    from runtimes.serving.hosts import hosts_of
    from runtimes.serving.served import open_served

    lines: list[str] = []
    listener = listen("127.0.0.1", 0)
    served = open_served(bundle, threads=1) if isinstance(bundle, Path) else bundle
    hosts = hosts_of("127.0.0.1")
    endpoint = Endpoint(served, limits or Limits(), lines.append, hosts=hosts, verbose=verbose)
    server, found = server_of(endpoint), Serving(port=listener.getsockname()[1], lines=lines)
    thread = threading.Thread(target=lambda: found.lost.append(serve(endpoint, listener, server)))
    thread.start()
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
