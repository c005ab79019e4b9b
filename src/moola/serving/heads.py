"""What comes before a body: bounded in size and time, since uvicorn takes heads of any length."""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from moola.serving.bodies import JSON
from moola.serving.replies import error_body

MAX_HEAD_BYTES = 1 << 16
HEAD_SECONDS = 30.0


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol; a head of more than 64 KiB or 30 s is refused and its connection closed.

    A head that arrives whole in one read, of 256 KiB at most, is not refused: it has been parsed.
    """

    _in_head = True
    _head_bytes = 0
    _limit: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Count no more."""
        self._in_head = False
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limit."""
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request."""
        was_in_head = self._in_head
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data) if was_in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"address and headers are larger than {MAX_HEAD_BYTES} bytes")
        elif self._limit is None:
            message = f"the headers did not arrive within {HEAD_SECONDS:g} s"
            self._limit = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, message)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; uvicorn's own words are text, not JSON."""
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        body = error_body("BAD_REQUEST", message, uuid.uuid4().hex)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {JSON}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
