"""A bundle over HTTP: addresses, limits and errors of requests, and a stop that loses none of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from compiler.diagnostics import printable, short
from runtimes.errors import RunError
from runtimes.serving.connections import READ_SECONDS, Connection
from runtimes.serving.hosts import host_named
from runtimes.serving.replies import as_json, refusal
from runtimes.serving.requests import Limits, RequestError, Row, rows_asked
from runtimes.serving.served import Served
from runtimes.serving.worker import Worker

STOP_SECONDS = 30
"""That requests under way may take when the server stops."""
STOP_GRACE = 0.1
"""Seconds in which a request that is on its way when the server stops may come whole."""
CLOSE_SECONDS = 0.5
"""That the thread may take to end when everything is answered."""
Say = Callable[[str], None]
Told = Callable[..., Awaitable[Response]]
Hold = Callable[[int], None]


class Endpoint:
    """The addresses that a bundle answers at. `say` is told of our faults; with `verbose` of every request.

    `hosts`: the names by which it may be asked for; none: any.
    """

    def __init__(
        self, served: Served, limits: Limits, say: Say, *, hosts: Collection[str] = (), verbose: bool = False
    ) -> None:
        self.limits, self.say, self.hosts, self.verbose = limits, say, hosts, verbose
        self.served, self.worker = served, Worker(served, limits, say)
        self.lost = 0  # requests that were begun and not answered
        self._held = 0  # bytes of all requests under way

    def application(self) -> Starlette:
        """The routes, for a server of ASGI."""
        routes = [
            Route("/", self._told(self._metadata)),
            Route("/metadata", self._told(self._metadata)),
            Route("/health", self._told(self._health)),
            Route("/predict", self._told(self._predict), methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._told(_no_address)})

    def _told(self, answer: Told) -> Told:
        """What answers a request whatever happens: errors are answers too."""

        async def told(request: Request, *about: Exception) -> Response:
            start = time.monotonic()
            try:
                self._check_host(request)
                response = await answer(request, *about)
            except RequestError as error:
                response = refusal(error)
            except ClientDisconnect:
                response = Response(status_code=400)  # nobody is there to read it
            except asyncio.CancelledError:
                self.lost += 1
                raise
            except Exception as error:  # noqa: BLE001 - the server's edge
                response = self._unforeseen(error)
            if self.verbose:
                spent = 1000 * (time.monotonic() - start)
                self.say(f"{request.method} {_path(request)} {response.status_code} {spent:.1f} ms")
            return response

        return told

    def _check_host(self, request: Request) -> None:
        header = request.headers.get("host", "")
        if self.hosts and host_named(header) not in self.hosts:
            named = short(printable(header))
            hint = f"ask for {min(self.hosts)}, or start the server with --allow-host and that name"
            raise RequestError(421, "E624", f'nothing here answers to the host "{named}"', hint)

    def _unforeseen(self, error: Exception) -> Response:
        found = RequestError(500, "E499", f"{type(error).__name__}: {error}", "this is a fault of ours")
        self.say(f"error[E499]: {found.message}")
        return refusal(found)

    async def _health(self, request: Request) -> Response:
        self.worker.check()
        facts = self.served.facts()
        return as_json({"status": "ready", **{key: facts[key] for key in ("name", "task", "plan_key")}})

    async def _metadata(self, request: Request) -> Response:
        limits = {
            "max_request_bytes": self.limits.max_bytes,
            "max_rows": self.limits.max_rows,
            "max_characters": self.limits.max_characters,
            "max_seconds": self.limits.max_seconds,
        }
        return as_json({**self.served.facts(), "limits": limits})

    async def _predict(self, request: Request) -> Response:
        with self._holding() as hold:
            body = await read_body(request, self.limits.max_bytes, hold)
            rows = rows_asked(body, self.served, self.limits)
            answers = await self._answered(request, rows)
        try:
            return as_json({"answers": answers})
        except ValueError:
            message = "the graph gives a score that is not a number"
            self.say(f"error[E604]: {message}")
            raise RequestError(500, "E604", message, "verify the bundle: recipe verify BUNDLE") from None

    async def _answered(self, request: Request, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The answers. Raises RequestError 503 where they take too long, ClientDisconnect when the client has left.

        What is not begun by then is not computed.
        """
        answers = asyncio.wrap_future(self.worker.submit(rows))
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((answers, left), timeout=self.limits.max_seconds, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return answers.result()
            if left.done():
                raise ClientDisconnect
        finally:
            answers.cancel()
            left.cancel()
        message = f"no answer within {self.limits.max_seconds:g} seconds"
        hint = "ask later or for fewer rows at once, or start the server with a larger --max-seconds"
        raise RequestError(503, "E623", message, hint)

    @contextmanager
    def _holding(self) -> Iterator[Hold]:
        """What counts bytes of a request, as they come, until it is answered."""
        own = 0

        def hold(size: int) -> None:
            nonlocal own
            if self._held + size > self.limits.max_held:
                raise RequestError(503, "E623", f"requests of {self._held:,} bytes wait already", "ask again later")
            own += size
            self._held += size

        try:
            yield hold
        finally:
            self._held -= own


async def read_body(request: Request, most: int, hold: Hold) -> bytes:
    """The body of a request. Raises RequestError: 413 where it has more than `most` bytes, 408 where it takes long.

    `hold`: told of each part before it is kept; it raises where all requests together have too many bytes.
    """
    too_large = RequestError(413, "E621", f"a request may have {most:,} bytes", "send the rows in several requests")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                if len(body) + len(part) > most:
                    raise too_large
                hold(len(part))
                body += part
    except TimeoutError:
        message = f"the body did not come within {READ_SECONDS:.0f} seconds"
        raise RequestError(408, "E621", message, "send it at once") from None
    return bytes(body)


async def _left(request: Request) -> None:
    """Returns when the client has left, whose body is read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _no_address(request: Request, error: HTTPException) -> Response:
    """What a wrong path or method is answered with."""
    hint = "there are GET /health, GET /metadata and POST /predict"
    message = f"nothing is at {_path(request)}"
    if error.status_code == 405:
        message = f"{_path(request)} does not take {request.method}"
    return refusal(RequestError(error.status_code, "E624", message, hint), dict(error.headers or {}))


def _path(request: Request) -> str:
    """The path that was asked for, on one line."""
    return short(printable(request.scope["path"]))


# --- the server


class Server(uvicorn.Server):
    """uvicorn's, but that signals are its caller's, and that what is on its way at a stop may still come."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listens to none: whoever runs it knows what signals there mean, also before it runs and afterwards."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections; soon after, each ends that nothing is computed for; the others when answered."""
        for listening in self.servers:
            listening.close()
        await asyncio.sleep(STOP_GRACE)
        await super().shutdown(sockets)


def server_of(endpoint: Endpoint) -> Server:
    """The server of an endpoint, which says nothing of itself."""
    config = uvicorn.Config(
        endpoint.application(),
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=endpoint.limits.max_connections,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; `port` 0: any that is free. Raises RunError E620."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # An answer is two packets, and the second would wait for the client's word about the first: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise RunError(
            "E620", f"can't listen at {host}, port {port}: {reason}", "name another with --host and --port"
        ) from error


def serve(endpoint: Endpoint, listener: socket.socket, server: Server | None = None) -> int:
    """Answers until it is told to stop; the number of requests that were begun and not answered."""
    (server or server_of(endpoint)).run(sockets=[listener])
    endpoint.worker.close(CLOSE_SECONDS)  # what is computed still, nobody waits for
    return endpoint.lost
