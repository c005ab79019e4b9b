"""What surrounds every request of `moola serve`: id, token, time, count, log, and no traceback."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from moola.serving.bodies import JSON
from moola.serving.observe import Metrics
from moola.serving.replies import error_body

_LOG = logging.getLogger("moola.serve")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_OPEN_PATHS = ("/ping", "/health")
KNOWN_PATHS = ("/invocations", "/ping", "/health", "/version", "/metrics", "/openapi.json")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Envelope:
    """ASGI middleware.

    Parameters
    ----------
    app
        The application inside.
    metrics
        Where requests are counted.
    token
        Bearer token that every path but ``/ping`` asks for; None: none is asked.
    """

    def __init__(self, app: Any, *, metrics: Metrics, token: str | None):
        self._app = app
        self._metrics = metrics
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["request_id"] = request_id
        begin, status = time.perf_counter(), 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode())]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        try:
            if self._forbidden(scope["path"], headers):
                await _refuse(tagged, 401, "UNAUTHENTICATED", "a bearer token is needed", scope)
            else:
                await self._app(scope, receive, tagged)
        except Exception:
            _LOG.exception("bug", extra={"fields": {"request_id": request_id}})
            if not status:
                await _refuse(tagged, 500, "INTERNAL_ERROR", "the server failed", scope)
        finally:
            self._note(scope, status, time.perf_counter() - begin, request_id)

    def _forbidden(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._expected is None or path in _OPEN_PATHS:
            return False
        return not hmac.compare_digest(headers.get(b"authorization", b""), self._expected)

    def _note(self, scope: Any, status: int, seconds: float, request_id: str) -> None:
        path = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
        self._metrics.requests.labels(path, str(status)).inc()
        if path == "/invocations":
            self._metrics.seconds.observe(seconds)
        fields = {
            "request_id": request_id,
            "method": scope["method"],
            "path": path,
            "status": status,
            "ms": round(1e3 * seconds, 2),
            **scope["state"].get("facts", {}),
        }
        _LOG.info("request", extra={"fields": fields})


async def _refuse(send: Send, status: int, code: str, message: str, scope: Any) -> None:
    body = error_body(code, message, scope["state"]["request_id"])
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(header: bytes) -> str:
    return header.decode() if _REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
