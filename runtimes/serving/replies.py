"""Answers as responses of HTTP, in JSON whatever they say."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from runtimes.serving.requests import RequestError

RETRY_SECONDS = 1
"""After which a request that was refused for now may come again."""


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as an answer. Raises ValueError for a number that JSON has no word for."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    content = text.encode("utf-8", "backslashreplace")  # half of a surrogate pair is an escape again
    return Response(content, status, headers, media_type="application/json")


def refusal(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    """An error as an answer. Where there is too much to do, it says when to ask again."""
    later = {"Retry-After": str(RETRY_SECONDS)} if error.status == 503 else {}
    return as_json(error.to_json(), error.status, {**later, **(headers or {})})
