"""A promotion that ends between two steps: the next call finds registry and ledger in agreement."""

from __future__ import annotations

import os
import random
import signal

import pytest
from mlflow import MlflowClient
from promotion_kit import NAME, Bench, forget_connections, killed

from moola.promotion.ledger import Draft, Ledger, open_intent
from moola.promotion.recovery import recover


class Crash(BaseException):
    """Stands for the process ending here."""


def crash_at(point: int, bench: Bench, how) -> tuple[MlflowClient, Ledger]:
    """Return a client and a ledger that call `how` around the `point`-th write of a move."""
    seen = iter(range(100))

    def write(call):
        if next(seen) == point:
            how()
        result = call()
        if next(seen) == point:
            how()
        return result

    class CrashingClient(MlflowClient):
        def transition_model_version_stage(self, *args, **kwargs):
            return write(lambda: MlflowClient.transition_model_version_stage(self, *args, **kwargs))

        def set_registered_model_alias(self, *args, **kwargs):
            return write(lambda: MlflowClient.set_registered_model_alias(self, *args, **kwargs))

    class CrashingLedger(Ledger):
        def append(self, draft: Draft, **kwargs):
            if draft.event != "intent":
                return Ledger.append(self, draft, **kwargs)
            return write(lambda: Ledger.append(self, draft, **kwargs))

    return CrashingClient(bench.client.tracking_uri), CrashingLedger(
        f"sqlite:///{bench.folder}/mlflow.db"
    )


POINTS = range(6)  # before and after: intent, stage, alias


def closed(bench: Bench) -> bool:
    return open_intent(bench.ledger.entries(NAME)) is None


@pytest.mark.parametrize("point", POINTS)
def test_an_exception_between_any_two_steps_is_made_good(bench: Bench, point: int) -> None:
    def crash() -> None:
        raise Crash

    bench.promote("1")
    client, ledger = crash_at(point, bench, crash)
    with pytest.raises(Crash):
        bench.promote("2", client=client, ledger=ledger)
    recover(bench.client, bench.ledger, NAME)
    assert closed(bench)
    assert bench.champion() == ("1" if point == 0 else "2")
    bench.promote("3")
    assert bench.champion() == "3"
    bench.ledger.verify_chain()


def promote_and_kill_at(point: int, bench: Bench) -> None:
    forget_connections(bench.folder)
    client, ledger = crash_at(point, bench, lambda: os.kill(os.getpid(), signal.SIGKILL))
    bench.promote("2", client=client, ledger=ledger)


@pytest.mark.parametrize("point", POINTS)
def test_kill_9_between_any_two_steps_is_made_good(bench: Bench, point: int) -> None:
    bench.promote("1")
    assert killed(promote_and_kill_at, point, bench) == -signal.SIGKILL
    decision = bench.promote("3")
    assert closed(bench)
    assert bench.champion() == "3"
    assert decision.champion_before == ("1" if point == 0 else "2")
    bench.ledger.verify_chain()


def promote_and_kill_after(seconds: float, bench: Bench) -> None:
    forget_connections(bench.folder)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, like kill -9
    signal.setitimer(signal.ITIMER_REAL, seconds)
    ledger = Ledger(f"sqlite:///{bench.folder}/mlflow.db")
    bench.promote("2", client=MlflowClient(bench.client.tracking_uri), ledger=ledger)


def test_a_kill_at_random_moments_is_made_good(bench: Bench) -> None:
    moments = random.Random(9)
    bench.promote("1")
    kills = 0
    for _ in range(12):
        kills += killed(promote_and_kill_after, moments.uniform(0.005, 0.25), bench) != 0
        recover(bench.client, bench.ledger, NAME)
        assert closed(bench)
        if bench.champion() == "2":
            bench.rollback(to="1")
    assert kills
    bench.ledger.verify_chain()


def test_an_interrupted_move_whose_version_vanished_is_undone(bench: Bench) -> None:
    def crash() -> None:
        raise Crash

    bench.promote("1")
    client, ledger = crash_at(1, bench, crash)
    with pytest.raises(Crash):
        bench.promote("2", client=client, ledger=ledger)
    bench.client.delete_model_version(NAME, "2")
    entry = recover(bench.client, bench.ledger, NAME)
    assert entry is not None
    assert entry.event == "abandoned"
    assert bench.champion() == "1"
