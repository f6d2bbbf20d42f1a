"""Connections of a server: how many there may be, and how long one may say nothing. The rest is uvicorn's."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtimes.serving.replies import refusal
from runtimes.serving.requests import RequestError

READ_SECONDS = 30.0
"""That a client may take to send the head of a request, or its body, or to read an answer."""
DRAINED = 4 << 20
"""Bytes of a body that are read after its answer: most clients read no answer before they have written all."""


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    """What connections are answered that are too many."""
    error = RequestError(503, "E623", "the server has too many connections", "ask again later")
    await refusal(error, {"Connection": "close"})(scope, receive, send)


class Connection(H11Protocol):
    """One connection. uvicorn ends one that is idle between requests, and has no limit for one that is slow."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most, self.limit_concurrency = self.limit_concurrency, None  # whose refusal is no JSON
        self._end: asyncio.TimerHandle | None = None
        self._drained = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Notes the connection. One that is too many is refused once it has asked; of twice as many, at once."""
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self.app = busy
        if self._most is not None and len(self.connections) > 2 * self._most:
            transport.abort()  # silent ones would stay until their time is up
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        super().connection_lost(exc)
        self._unwatch()

    def data_received(self, data: bytes) -> None:
        """Reads on; not for long what is left of a body that is answered."""
        left = self._leaves_body()
        super().data_received(data)
        self._drained = self._drained + len(data) if left else 0
        if self._drained > DRAINED:
            self.transport.abort()
        else:
            self._watch()

    def pause_writing(self) -> None:
        """Waits until the client has read something."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Writes on."""
        super().resume_writing()
        self._unwatch()

    def shutdown(self) -> None:
        """Ends once what is computed for it is answered: at once where no request is there whole."""
        super().shutdown()
        if bool(self.cycle) and self.cycle.more_body and not self.cycle.response_complete:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP."""
        error = RequestError(400, "E621", "the request is not HTTP", "send it as HTTP/1.1 has it")
        response = refusal(error, {"Connection": "close"})
        head = h11.Response(status_code=400, headers=response.raw_headers, reason=b"Bad Request")
        events = (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _leaves_body(self) -> bool:
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _watch(self) -> None:
        """Ends the connection in a while, unless what it waits for has come: a head, or room to write."""
        begun = bool(self.cycle) and not self.cycle.response_complete  # None before the first request
        if begun and not self.flow.write_paused:
            self._unwatch()
        elif self._end is None:
            self._end = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def _unwatch(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None
