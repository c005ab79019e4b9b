"""What cannot be answered is refused in a short line: never a 500, a traceback or an echo."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest
from bad_requests import BAD_REQUESTS, CRASH, ECHO, IGNORED, TRACEBACK, WORDY, BadRequest
from serve_kit import Reply, Stand, as_json, calling, copy_of, moola_serve, random_windows

from moola.serving.heads import MAX_HEAD_BYTES

LIMIT = 200


def ask(url: str, bad: BadRequest) -> Reply:
    with calling(url) as call:
        return call(bad.body, bad.content_type, method=bad.method)


def message_of(reply: Reply) -> str:
    try:
        return json.loads(reply.body)["message"]
    except (ValueError, KeyError, TypeError):
        return reply.body.decode()


def faults(reply: Reply) -> set[str]:
    """Return what is wrong with a refusal."""
    found = set()
    if reply.status >= 500:
        found.add(CRASH)
    if reply.status < 400:
        found.add(IGNORED)
    if b"Traceback" in reply.body or b"stack_trace" in reply.body:
        found.add(TRACEBACK)
    elif len(message_of(reply)) > LIMIT:
        found.add(WORDY if b"must be a JSON dictionary" in reply.body else ECHO)
    return found


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda bad: bad.name)
def test_moola_serve_refuses(server: tuple[str, int], bad: BadRequest) -> None:
    reply = ask(server[0], bad)
    assert reply.status == bad.status, reply.body
    assert faults(reply) == set()
    content = json.loads(reply.body)
    assert set(content) == {"error_code", "message", "request_id"}
    assert content["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda bad: bad.name)
def test_mlflow_models_serve_refuses_as_far_as_the_model_is_asked(
    plain_server: str, bad: BadRequest
) -> None:
    reply = ask(plain_server, bad)
    assert faults(reply) == ({bad.mlflow} if bad.mlflow else set()), reply.body[:500]


def test_a_body_in_pieces_is_limited_as_well(server: tuple[str, int]) -> None:
    address = urlsplit(server[0])
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
        try:
            for _ in range(64):
                line.sendall(piece)
        except OSError:
            pass  # it has answered and closed already
        assert line.recv(100).startswith(b"HTTP/1.1 413")


_POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("begin", "unit", "status"),
    [
        (b"POST /invocations?", b"a=1&", 431),
        (_POST + b"X-A: ", b"aaaa", 431),
        (_POST, b"X-A: 1\r\n", 431),
        (b"POST /invocations HTTP/1.1\r\nContent-Type: application/json", b";", 431),
        (_POST + b"Content-Length: -1\r\n\r\n", b"", 400),
        (b"\x16\x03\x01", b"", 400),
    ],
    ids=["address", "one header", "headers", "content type", "length", "not HTTP"],
)
def test_a_head_without_end_is_refused(
    server: tuple[str, int], begin: bytes, unit: bytes, status: int
) -> None:
    address = urlsplit(server[0])
    with socket.create_connection((address.hostname, address.port)) as line:
        # Hardly more than it takes: what comes after an answer could make the system drop it.
        line.sendall(begin + unit * ((MAX_HEAD_BYTES - len(begin)) // max(1, len(unit)) + 1))
        reply = line.recv(1000)
    assert reply.startswith(b"HTTP/1.1 %d" % status)
    assert set(json.loads(reply.partition(b"\r\n\r\n")[2])) == {
        "error_code",
        "message",
        "request_id",
    }


def test_token_time_limit_and_overload(stand: Stand, tmp_path) -> None:
    own = copy_of(stand, tmp_path)
    body = as_json(random_windows(1))
    options = ("--timeout", "0.5")
    with moola_serve(own, *options, MOOLA_SERVE_TOKEN="s3cret") as (url, _), calling(url) as call:
        assert call(body).status == 401
        assert call(body, authorization="Bearer s3cre").status == 401
        assert call(body, authorization="Bearer s3cret").status == 200
        assert call.get("/metrics").status == 401
        assert call.get("/ping").status == 200
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as line:
            line.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer s3cret\r\nContent-Length: 100\r\n\r\n{"
            )
            assert line.recv(100).startswith(b"HTTP/1.1 504")
