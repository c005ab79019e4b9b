"""The state of the five proofs of a run, as its tags say it, and files that are logged again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moola.errors import AuditError, PromotionRefused
from moola.interrupt import Terminated
from moola.tracking.proofs import PROOFS, Pace, Proofs, killed_before
from moola.tracking.spool import Spool

PENDING = "pending: the run has not come so far"


class Store:
    """What a run would have logged."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self.proofs = Proofs(self.files.__setitem__, self.tags.update)

    def said(self, proof: str) -> str:
        return self.tags[f"moola.proof.{proof}"]


@pytest.fixture
def store() -> Store:
    made = Store()
    made.proofs.open({"schedule": "nothing is frozen"})
    return made


def test_all_five_are_stated_before_anything_is_known(store: Store) -> None:
    assert store.tags == {
        f"moola.proof.{proof}": PENDING for proof in PROOFS if proof != "schedule"
    } | {"moola.proof.schedule": "none: nothing is frozen"}


def test_what_is_logged_stays_logged_whatever_comes_after(store: Store) -> None:
    store.proofs.log("audit", {"passed": True})
    store.proofs.none("audit", "too late")
    store.proofs.log("schedule", {"schedule": {}})  # what was not expected came all the same
    store.proofs.close()
    assert store.said("audit") == "logged: audit/audit_trail.json"
    assert store.said("schedule") == "logged: freeze/schedule.json"
    assert store.said("split") == "none: the run finished without it"
    assert store.files == {
        "audit/audit_trail.json": {"passed": True},
        "freeze/schedule.json": {"schedule": {}},
    }


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Terminated("signal 15"), "none: stopped by SIGTERM before it was known"),
        (KeyboardInterrupt(), "none: stopped by Ctrl-C before it was known"),
        (AuditError("leak"), "none: refused before it was known: leak."),
        (ZeroDivisionError("division"), "none: failed before it was known: division"),
    ],
)
def test_how_a_run_ended_is_the_reason_of_what_is_missing(
    store: Store, error: BaseException, words: str
) -> None:
    store.proofs.log("split", {})
    store.proofs.close(error)
    assert store.said("audit") == store.said("calibration") == words
    assert store.said("split") == "logged: split/indices.json"
    assert store.said("schedule") == "none: nothing is frozen"


def test_the_proof_that_an_error_is_about_is_logged_also_from_its_cause(store: Store) -> None:
    cause = AuditError("leak")
    cause.proof = ("audit", {"passed": False})
    error = PromotionRefused("cannot be judged")
    error.__cause__ = cause
    store.proofs.close(error)
    assert store.files == {"audit/audit_trail.json": {"passed": False}}
    assert store.said("audit").startswith("logged: ")


def test_what_a_killed_process_left_pending_gets_its_reason(store: Store) -> None:
    store.proofs.log("audit", {})
    left = killed_before(store.tags)
    assert set(left) == {f"moola.proof.{p}" for p in ("split", "load_report", "calibration")}
    assert set(left.values()) == {"none: the process was killed before it was known"}
    assert killed_before({}) == {}  # a run that stated none, such as one of another program


def test_a_pace_lets_little_be_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("moola.tracking.proofs.time.monotonic", lambda: now)

    def work() -> None:
        nonlocal now
        now += 0.5

    pace = Pace(share=0.02)
    assert pace.run(work)
    now += 24.9
    assert not pace.run(work)  # half a second may be spent every 25
    now += 0.2
    assert pace.run(work)


def test_a_file_that_is_logged_again_replaces_the_one_that_waits(tmp_path: Path) -> None:
    spool = Spool.create("http://127.0.0.1:1", root=tmp_path)
    for number in range(5):
        entry = spool.append("r", "files", {}, {"freeze/schedule.json": b"%d" % number})
        spool.append("other", "files", {}, {"freeze/schedule.json": b"of another run"})
    left = sorted(p for p in (spool.folder / "files").rglob("*") if p.is_file())
    assert len(left) == 1 + 1
    assert (spool.files(entry) / "freeze" / "schedule.json").read_bytes() == b"4"
    spool.waiting.append(entry)
    spool.close()
