"""No body holds up another request: they are read elsewhere, and reading has an end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hostile_bodies import HOSTILE_BODIES, HostileBody
from serve_kit import Stand, as_json, calling, copy_of, moola_serve, random_windows

SIZES = (40_000, 1_900_000)  # for the process of small bodies, and for that of large ones
GOOD = as_json(random_windows(1))


def reading_processes(server: int) -> list[int]:
    """Return the processes that read bodies for a server."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, line in lines.items() if b"moola.serving.reader" in line]


@contextlib.contextmanager
def stopped(processes: list[int]) -> Iterator[None]:
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
                os.kill(pid, signal.SIGCONT)


def sent(url: str, body: bytes, content_type: str) -> http.client.HTTPConnection:
    """Send a request and do not wait for its answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", "/invocations", body, {"content-type": content_type})
    return connection


def assert_refused(status: int, body: bytes) -> None:
    assert status in (400, 413), (status, body)
    content = json.loads(body)
    assert set(content) == {"error_code", "message", "request_id"}
    assert 0 < len(content["message"]) <= 200
    assert "\n" not in content["message"]
    assert "Traceback" not in content["message"]


@pytest.mark.parametrize("hostile", HOSTILE_BODIES, ids=lambda hostile: hostile.name)
def test_it_is_refused_by_a_process_of_its_own_and_others_are_answered(
    server: tuple[str, int], hostile: HostileBody
) -> None:
    url, pid = server
    processes = reading_processes(pid)
    assert len(processes) == 2
    bodies = [hostile.make(size) for size in SIZES]
    with calling(url) as call:
        with stopped(processes):  # so nobody reads bodies, and whatever the server does is its own
            waiting = [sent(url, body, hostile.content_type) for body in bodies]
            for _ in range(3):
                assert call.get("/ping").status == 200
            assert select.select([line.sock for line in waiting], [], [], 0)[0] == []
        for line in waiting:
            answer = line.getresponse()
            assert_refused(answer.status, answer.read())
            line.close()
        assert call(GOOD).status == 200
    assert reading_processes(pid) == processes  # none of them took too long, or memory


def test_reading_ends_with_the_time_limit(stand: Stand, tmp_path: Path) -> None:
    own = copy_of(stand, tmp_path)
    with moola_serve(own, "--timeout", "2") as (url, pid), calling(url) as call:
        assert call(GOOD).status == 200
        before = reading_processes(pid)
        with stopped(before):
            late = call(GOOD)
        assert late.status == 504
        assert json.loads(late.body)["message"] == "not answered within 2 s"
        assert call.get("/ping").status == 200
        assert 200 in (call(GOOD).status for _ in range(30))  # once a new process has started
        assert len(set(before) - set(reading_processes(pid))) == 1


def test_processes_that_died_are_replaced_unnoticed_and_all_end_with_the_server(
    stand: Stand, tmp_path: Path
) -> None:
    with moola_serve(copy_of(stand, tmp_path)) as (url, pid):
        with calling(url) as call:
            for dead in reading_processes(pid):
                os.kill(dead, signal.SIGKILL)
            assert call(GOOD).status == 200
            assert call(b" " * (1 << 21)).status == 400
        ends = [os.pidfd_open(process) for process in reading_processes(pid)]
        assert len(ends) == 2
        os.kill(pid, signal.SIGKILL)
        for end in ends:
            assert select.select([end], [], [], 30)[0], "it outlives the server"
            os.close(end)
