"""Reads bodies in processes of their own, so that none holds up another request for long.

Small and large bodies have a process each. A process that does not answer in time, or dies, is
replaced: no body can hold it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson

from moola.serving.bodies import BodyLimits, Question
from moola.serving.reader import LENGTHS, frame
from moola.serving.replies import RefusedRequest

_LOG = logging.getLogger("moola.serve")
_LARGE_BYTES = 1 << 20
_LARGE_NICENESS = 5
_TOGETHER_BYTES = 1 << 16  # up to here one call for head and body is cheaper than two
_Answer = tuple[dict[str, Any], bytearray]
_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR")


class _Process(asyncio.Protocol):
    """One reading process; a protocol, since a task for each body would cost more than reading."""

    def __init__(self, *, max_bytes: int, niceness: int):
        self._line, other = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        module = [sys.executable, "-P", "-m", "moola.serving.reader", str(max_bytes), str(niceness)]
        with other:
            self._process = subprocess.Popen(
                module,
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._answer: asyncio.Future[_Answer] | None = None
        self._ended = False

    async def ready(self) -> None:
        """Return once it has started; raises EOFError if it ends instead."""
        if self._transport is None:
            loop = asyncio.get_running_loop()
            self._answer = hello = loop.create_future()
            self._transport, _ = await loop.create_unix_connection(lambda: self, sock=self._line)
            await hello

    def ask(self, facts: dict[str, Any], body: bytes) -> asyncio.Future[_Answer]:
        """Send a body; its answer or EOFError follows."""
        self._answer = answer = asyncio.get_running_loop().create_future()
        if self._transport is None or self._ended:
            answer.set_exception(EOFError("the reading process ended"))
            return answer
        head = frame(facts, len(body))
        if len(body) <= _TOGETHER_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return answer

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; deliver it once it is whole."""
        self._data += data
        if len(self._data) < LENGTHS.size:
            return
        num_facts, num_bytes = LENGTHS.unpack_from(self._data)
        begin = LENGTHS.size + num_facts
        if len(self._data) == begin + num_bytes and self._answer is not None:
            whole, self._data = self._data, bytearray()
            self._answer.set_result((orjson.loads(whole[LENGTHS.size : begin]), whole[begin:]))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits that the process has ended."""
        self._ended = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EOFError("the reading process ended"))

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """End it and wait until it has."""
        self.kill()
        self._process.wait()
        if self._transport is not None:
            self._transport.abort()
        self._line.close()


class _Lane:
    """One process and those who wait for it."""

    def __init__(self, *, max_bytes: int, niceness: int, seconds: float, max_waiting: int):
        self._settings = {"max_bytes": max_bytes, "niceness": niceness}
        self._seconds = seconds
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._free = asyncio.Lock()
        self._process = _Process(**self._settings)
        self._replacing: asyncio.Task[None] | None = None
        self._closed = False

    async def ready(self) -> None:
        async with self._free:
            await self._process.ready()

    async def ask(self, facts: dict[str, Any], body: bytes) -> _Answer:
        if self._num_waiting >= self._max_waiting:
            message = f"{self._num_waiting} bodies wait to be read"
            raise RefusedRequest(503, "TEMPORARILY_UNAVAILABLE", message)
        self._num_waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._num_waiting -= 1
        answer = self._process.ask(facts, body)
        limit = asyncio.get_running_loop().call_later(self._seconds, self._process.kill)
        answer.add_done_callback(lambda answer: self._done(answer, limit))
        # Shielded: a caller whose time is up leaves, and the process ends what it does or is killed
        # in its time. Killing it at once would let callers choose when it is killed.
        return await asyncio.shield(answer)

    def _done(self, answer: asyncio.Future[_Answer], limit: asyncio.TimerHandle) -> None:
        limit.cancel()
        if answer.exception() is None or self._closed:
            self._free.release()
        else:
            self._replacing = asyncio.get_running_loop().create_task(self._replace())

    async def _replace(self) -> None:
        _LOG.warning("reading process replaced")
        try:
            self._process.close()
            self._process = _Process(**self._settings)
            await self._process.ready()
        except (OSError, EOFError):
            _LOG.exception("reading process")  # the next body tries again
        finally:
            self._free.release()

    def close(self) -> None:
        self._closed = True
        self._process.close()


class Readers:
    """The processes that read bodies.

    Parameters
    ----------
    max_bytes
        Bytes of the largest body.
    seconds
        Time to read one; a process that takes longer is killed and replaced.
    max_waiting
        Bodies that may wait for a process.
    """

    def __init__(self, *, max_bytes: int, seconds: float, max_waiting: int):
        lane = partial(_Lane, max_bytes=max_bytes, seconds=seconds, max_waiting=max_waiting)
        self._small, self._large = lane(niceness=0), lane(niceness=_LARGE_NICENESS)

    async def ready(self) -> None:
        """Return once all have started."""
        await asyncio.gather(self._small.ready(), self._large.ready())

    async def read(
        self, content_type: str, body: bytes, query: Mapping[str, str], limits: BodyLimits
    ) -> Question:
        """Read a body, see `moola.serving.bodies.read_question`.

        Raises
        ------
        RefusedRequest
            If it cannot be used, or the process ended over it, or too many wait.
        TimeoutError
            If it takes too long.
        """
        lane = self._large if len(body) >= _LARGE_BYTES else self._small
        facts = {"content_type": content_type, "query": query, "limits": vars(limits)}
        try:
            outcome, content = await lane.ask(facts, body)
        except EOFError:  # somebody else may have ended it: what ends two of them is the body
            try:
                outcome, content = await lane.ask(facts, body)
            except EOFError:
                message = "the body ended the process that read it"
                raise RefusedRequest(400, "BAD_REQUEST", message) from None
        if "status" in outcome:
            raise RefusedRequest(outcome["status"], "BAD_REQUEST", outcome["message"])
        return Question(
            X=np.frombuffer(content, dtype=np.float32).reshape(outcome["shape"]),
            calibrated=outcome["calibrated"],
            return_set=outcome["return_set"],
        )

    def close(self) -> None:
        """End all processes."""
        self._small.close()
        self._large.close()
