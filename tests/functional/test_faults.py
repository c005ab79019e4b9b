"""A tracking server that dies, hangs, resets or answers 500: nothing lost, nothing doubled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_kit import MlflowServer, Proxy, check_known_run, known_run

from moola.tracking.spool import left_spools
from moola.tracking.sync import sync

LONGEST_BLOCK_SECONDS = 2.0
NUM_KILLS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[MlflowServer]:
    import shutil

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template_db, folder / "server.db")
    server = MlflowServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def proxy(server: MlflowServer) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty spool, and the tracking store of other tests back afterwards."""
    import mlflow

    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MOOLA_SPOOL", str(tmp_path / "spool"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "spool"
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def healthy(server: MlflowServer, proxy: Proxy) -> tuple[float, int]:
    """Seconds and requests of the run over a server in order."""
    known_run(proxy.url, "first")  # what a process does once
    before = proxy.count
    return known_run(proxy.url, "second"), proxy.count - before


def sync_all() -> None:
    for report in sync():
        assert report.num_waiting == 0, report
        assert not report.refused
    assert left_spools() == []


def test_a_server_in_order_has_everything_at_the_end(
    server: MlflowServer, healthy: tuple[float, int]
) -> None:
    assert left_spools() == []
    check_known_run(server.store, "second", int(time.time() * 1000) - 50_000)


def run_beside(
    server: MlflowServer, proxy: Proxy, rule: Callable[[int], str], name: str, usual: float
) -> float:
    """Run while the proxy follows a rule; then, all in order again, send what waits and check.

    Returns the seconds the run was held up.
    """
    began_ms = int(time.time() * 1000)
    proxy.misbehave(rule)
    seconds = known_run(proxy.url, name)
    proxy.behave()
    if server.poll() is not None:
        server.start()
    sync_all()
    check_known_run(server.store, name, began_ms)
    held_up = seconds - usual
    assert held_up <= LONGEST_BLOCK_SECONDS, f"{name}: {seconds:.2f} s, usually {usual:.2f} s"
    return held_up


SOME = {("500", 1), ("reset", 12), ("lost", 2), ("hang", 2), ("hang", 12)}


@pytest.mark.parametrize(
    ("action", "first"),
    [
        pytest.param(a, n, marks=() if (a, n) in SOME else pytest.mark.slow)
        for a in ("500", "reset", "lost", "hang")
        for n in (1, 2, 12, 25)
    ],
)
def test_a_server_out_of_order_loses_and_doubles_nothing(
    server: MlflowServer, proxy: Proxy, healthy: tuple[float, int], action: str, first: int
) -> None:
    name = f"{action}-{first}"
    run_beside(server, proxy, lambda n: action if n >= first else "pass", name, healthy[0])


@pytest.mark.parametrize("action", ["500", "lost"])
def test_a_moment_out_of_order_leaves_nothing_to_send(
    server: MlflowServer, proxy: Proxy, healthy: tuple[float, int], action: str
) -> None:
    began_ms = int(time.time() * 1000)
    proxy.misbehave(lambda n: action if n % 7 == 3 else "pass")
    known_run(proxy.url, f"moment-{action}")
    proxy.behave()
    sync_all()
    check_known_run(server.store, f"moment-{action}", began_ms)


def test_the_next_run_sends_what_the_last_one_left(
    server: MlflowServer, proxy: Proxy, healthy: tuple[float, int]
) -> None:
    began_ms = int(time.time() * 1000)
    proxy.misbehave(lambda n: "reset")
    known_run(proxy.url, "left")
    assert len(left_spools()) == 1
    proxy.behave()
    known_run(proxy.url, "next")
    assert left_spools() == []
    for name in ("left", "next"):
        check_known_run(server.store, name, began_ms)


def test_a_killed_server_loses_and_doubles_nothing(
    server: MlflowServer, proxy: Proxy, healthy: tuple[float, int]
) -> None:
    at = random.Random(17).randint(2, healthy[1])
    run_beside(server, proxy, lambda n: "kill" if n == at else "pass", f"kill-{at}", healthy[0])


@pytest.mark.slow
def test_a_server_killed_at_twenty_points_loses_and_doubles_nothing(
    server: MlflowServer, proxy: Proxy, healthy: tuple[float, int]
) -> None:
    usual, requests = healthy
    draw = random.Random(8)
    held_up = {}
    for point in range(NUM_KILLS):
        at = draw.randint(1, requests)
        rule = {at: "kill"}
        name = f"{point}: killed at request {at} of {requests}"
        held_up[name] = run_beside(server, proxy, lambda n, r=rule: r.get(n, "pass"), name, usual)
    worst = max(held_up, key=lambda name: held_up[name])
    print(f"\nlongest block {held_up[worst]:.2f} s ({worst}); usually {usual:.2f} s")
