"""A promotion that ends between two steps: the next call finds registry and ledger in agreement."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient
from promotion_kit import (
    KEY,
    NAME,
    Bench,
    ask_rollback,
    forget_connections,
    killed,
    production,
    trusting,
)

from moola.config.promotion import PromotionPolicy
from moola.errors import PromotionRefused
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.entry import Draft, Entry
from moola.promotion.ledger.lines import open_intent
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.moving import Precondition, move
from moola.promotion.recovery import recover
from moola.promotion.state import read_state


@pytest.fixture
def bench(template_db: Path, tmp_path: Path) -> Bench:
    """A plain store whose ledger is a database of its own, so that a move takes several steps."""
    return Bench(template_db, tmp_path, ledger="ledger.db")


OTHER = Ed25519PrivateKey.generate()


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

    class CrashingLedger(LocalLedger):
        def append(self, draft: Draft, **kwargs):
            if draft.event != "intent":
                return LocalLedger.append(self, draft, **kwargs)
            return write(lambda: LocalLedger.append(self, draft, **kwargs))

    return CrashingClient(bench.client.tracking_uri), CrashingLedger(bench.ledger_url)


REVOKED = replace(trusting(KEY, OTHER), revoked=frozenset({key_id(KEY.public_key())}))


def recovered(bench: Bench, *, keys: TrustedKeys | None = None, **policy: object) -> Entry | None:
    trusted, rules = keys or trusting(KEY), PromotionPolicy(**policy)
    ledger = bench.ledger.signing(OTHER if keys else KEY)
    parts = production(bench.client, ledger, trusted, policy=rules)
    return recover(parts, ledger.read(trusted))


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
    recovered(bench)
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
    ledger = LocalLedger(bench.ledger_url)
    bench.promote("2", client=MlflowClient(bench.client.tracking_uri), ledger=ledger)


def test_a_kill_at_random_moments_is_made_good(bench: Bench) -> None:
    moments = random.Random(9)
    bench.promote("1")
    kills = 0
    for _ in range(12):
        kills += killed(promote_and_kill_after, moments.uniform(0.005, 0.25), bench) != 0
        recovered(bench)
        assert closed(bench)
        if bench.champion() == "2":
            bench.rollback(to="1")
    assert kills
    bench.ledger.verify_chain()


def interrupted(bench: Bench, event: str = "promotion") -> None:
    """Leave a move to version 1 between stage and alias, with version 2 in Production before."""

    def crash() -> None:
        raise Crash

    client, ledger = crash_at(3, bench, crash)
    bench.promote("2")
    if event == "promotion":
        with pytest.raises(Crash):
            bench.promote("1", client=client, ledger=ledger)
    else:
        with pytest.raises(Crash):
            ask_rollback(client, ledger, KEY, to="1")


def test_an_interrupted_move_whose_version_vanished_is_undone(bench: Bench) -> None:
    def crash() -> None:
        raise Crash

    bench.promote("1")
    client, ledger = crash_at(1, bench, crash)
    with pytest.raises(Crash):
        bench.promote("2", client=client, ledger=ledger)
    bench.client.delete_model_version(NAME, "2")
    entry = recovered(bench)
    assert entry is not None
    assert entry.event == "abandoned"
    assert bench.champion() == "1"


def test_a_first_move_that_is_undone_leaves_production_empty(bench: Bench) -> None:
    def crash() -> None:
        raise Crash

    client, ledger = crash_at(5, bench, crash)
    with pytest.raises(Crash):
        bench.promote("1", client=client, ledger=ledger)
    assert read_state(bench.client, NAME).alias_version == "1"
    entry = recovered(bench, keys=REVOKED)
    assert entry is not None
    digest = bench.ledger.entries(NAME, events=("intent",))[-1].evidence_digest
    assert digest is not None
    assert (entry.event, entry.evidence_digest) == ("abandoned", digest)
    assert read_state(bench.client, NAME).alias_version is None
    assert bench.client.get_model_version(NAME, "1").current_stage != "Production"


@pytest.mark.parametrize("event", ["promotion", "rollback"])
def test_an_interrupted_move_is_proven_again_before_it_is_carried_out(
    bench: Bench, event: str
) -> None:
    if event == "rollback":
        bench.promote("1")
    interrupted(bench, event)
    bench.change_files()
    entry = recovered(bench)
    assert entry is not None
    assert (entry.event, bench.champion()) == ("abandoned", "2")
    assert "files were changed" in entry.reason


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"keys": REVOKED}, "a revoked key"),
        ({"required_gates": (0, 1, 2, 6)}, "gate 6 is absent"),
    ],
)
def test_an_interrupted_move_must_meet_the_keys_and_the_policy_of_today(
    bench: Bench, changes: dict, why: str
) -> None:
    interrupted(bench)
    entry = recovered(bench, **changes)
    assert entry is not None
    assert (entry.event, bench.champion()) == ("abandoned", "2")
    assert why in entry.reason


def test_what_a_ledger_does_not_know_of_yet_is_not_taken_out_of_production(bench: Bench) -> None:
    bench.promote("2")
    new = LocalLedger(f"sqlite:///{bench.folder}/new.db")
    draft = {"who": "ann", "name": NAME, "reason": "r", "version_from": "2", "version_to": "9"}
    precondition = Precondition(
        state=read_state(bench.client, NAME), last_move=None, check=lambda: None, keys=trusting(KEY)
    )
    with pytest.raises(PromotionRefused, match="does not exist"):
        move(bench.client, new, Draft(event="promotion", **draft), precondition=precondition)
    assert bench.champion() == "2"


def test_an_intent_written_past_moola_puts_nobody_into_production(bench: Bench) -> None:
    bench.promote("1")
    gone = {"host": "elsewhere", "pid": 1, "thread": 1, "lease_until": "2000-01-01T00:00:00+00:00"}
    forged = {"name": NAME, "version_from": "3", "version_to": "2", "evidence_digest": "0" * 64}
    payload = {"event": "promotion", "then": {"evidence": "{}"}, **gone}
    bench.ledger.append(Draft(event="intent", who="eve", reason="r", payload=payload, **forged))
    entry = recovered(bench)
    assert entry is not None
    assert (entry.event, bench.champion()) == ("abandoned", "1")
    assert "does not count: it is not signed" in entry.reason
