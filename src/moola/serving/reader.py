"""The process that reads bodies for `moola serve`: ended without loss when one takes too long.

It is started by `moola.serving.readers` and talks to it over its standard input, a socket. Both
directions carry frames: two lengths, a JSON object, bytes. It says ``{}`` once it is ready. It
knows no token, no store and no model, and may take only so much memory.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO

import orjson

from moola.errors import BadInput
from moola.serving.bodies import BodyLimits, TooLarge, read_question

LENGTHS = struct.Struct("<QQ")
_MIB = 1 << 20
_MEMORY_PER_BYTE = 32  # JSON at its worst, see benchmarks/bench_bodies.py


def frame(facts: dict[str, Any], num_bytes: int) -> bytes:
    """Return what goes before the bytes of a frame."""
    head = orjson.dumps(facts)
    return LENGTHS.pack(len(head), num_bytes) + head


def answer(facts: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    """Read a body; return what the frame of the answer holds.

    Parameters
    ----------
    facts
        ``content_type``, ``query`` and ``limits``, see `read_question`.
    body
        The body.

    Returns
    -------
    tuple
        Shape, flags and the windows' bytes; or ``status`` and ``message`` of a refusal.
    """
    try:
        limits = BodyLimits(**facts["limits"])
        question = read_question(facts["content_type"], body, facts["query"], limits)
    except TooLarge as error:
        return {"status": 413, "message": str(error)}, b""
    except BadInput as error:
        return {"status": 400, "message": str(error)}, b""
    except MemoryError:
        return {
            "status": 413,
            "message": "the body unpacks to more than memory is set aside for",
        }, b""
    outcome = {
        "shape": question.X.shape,
        "calibrated": question.calibrated,
        "return_set": question.return_set,
    }
    return outcome, question.X.tobytes()


def _limit_memory(num_bytes: int) -> None:
    """Let the process take so much more than it has; no core file, no further files."""
    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, has + num_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowest, lowest))


def _serve(line: socket.socket, stream: BinaryIO) -> None:
    line.sendall(frame({}, 0))
    while lengths := stream.read(LENGTHS.size):
        num_facts, num_bytes = LENGTHS.unpack(lengths)
        facts = orjson.loads(stream.read(num_facts))
        outcome, content = answer(facts, stream.read(num_bytes))
        line.sendall(b"".join((frame(outcome, len(content)), content)))
        del content
        gc.collect(
            0
        )  # here, not while a body is read: a million small lists would be scanned often


def main(max_bytes: int, niceness: int) -> None:
    """Answer until the other end is closed.

    Parameters
    ----------
    max_bytes
        Bytes of the largest body; memory follows from it.
    niceness
        By how much other processes go first.
    """
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # the server ends it, after its last answer
    os.nice(niceness)
    _limit_memory(256 * _MIB + _MEMORY_PER_BYTE * max_bytes)
    gc.freeze()
    gc.disable()
    line = socket.socket(fileno=0)
    gone = suppress(ConnectionError, struct.error)  # the server's end of the line
    with line, line.makefile("rb") as stream, gone:
        _serve(line, stream)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
