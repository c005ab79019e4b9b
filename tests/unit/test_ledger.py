"""The ledger: a chain that shows every change, safe among processes."""

from __future__ import annotations

import multiprocessing
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE

from moola.config.policy import Policy
from moola.config.promotion import PromotionPolicy
from moola.errors import BadInput, ConfigError, PromotionRefused, TrackingError
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.guard.core import Guard
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.belief import GENESIS, signed_look
from moola.promotion.ledger.checkpoint import address_of
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.lines import open_intent
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.moving import close_intent

KEY, SERVER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TRUSTED = TrustedKeys(
    keys={key_id(KEY.public_key()): KEY.public_key()},
    servers={key_id(SERVER.public_key()): SERVER.public_key()},
)
START = datetime(2024, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


def draft(event: str = "refusal", **changes) -> Draft:
    return Draft(**{"event": event, "who": "ann", "name": "M", "reason": "why", **changes})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return LocalLedger(f"sqlite:///{tmp_path}/ledger.db", clock=Clock())


def test_entries_are_numbered_timed_and_chained(ledger: Ledger) -> None:
    first = ledger.append(draft(payload={"x": 0.1, "y": [1, 2]}))
    second = ledger.append(draft("promotion", version_to="2"))
    assert (first.seq, second.seq) == (1, 2)
    assert first.previous_hash == GENESIS
    assert second.previous_hash == first.entry_hash == first.computed_hash()
    assert second.at == "2024-01-01T02:00:00.000000+00:00"
    assert ledger.entries() == [first, second]
    assert ledger.verify_chain() == second.entry_hash


def test_an_empty_ledger_verifies(ledger: Ledger) -> None:
    assert ledger.verify_chain() == GENESIS
    assert ledger.champion_at("M") is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE moola_ledger SET who = 'eve'",
        "DELETE FROM moola_ledger",
        "INSERT OR REPLACE INTO moola_ledger SELECT * FROM moola_ledger WHERE seq = 1",
    ],
)
def test_the_database_refuses_changes(ledger: Ledger, tmp_path: Path, statement: str) -> None:
    ledger.append(draft())
    ledger.append(draft())
    with (
        sqlite3.connect(tmp_path / "ledger.db") as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE moola_ledger SET reason = 'else' WHERE seq = 2", "entry 2 .*was changed"),
        ("UPDATE moola_ledger SET payload = '{}' WHERE seq = 3", "entry 3 .*was changed"),
        ("UPDATE moola_ledger SET payload = 'no json' WHERE seq = 1", "entry 1 .*was changed"),
        ("DELETE FROM moola_ledger WHERE seq = 2", "entry 2 is missing"),
    ],
)
def test_a_change_past_the_triggers_is_named(
    ledger: Ledger, tmp_path: Path, statement: str, found: str
) -> None:
    for number in range(4):
        ledger.append(draft(payload={"number": number}))
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        for trigger in ("update", "delete", "replace"):
            connection.execute(f"DROP TRIGGER moola_ledger_no_{trigger}")
        connection.execute(statement)
    with pytest.raises(PromotionRefused, match=found):
        ledger.verify_chain()


def test_champion_at_any_moment(ledger: Ledger) -> None:
    ledger.append(draft("promotion", version_to="1"))  # 01:00
    ledger.append(draft("refusal", version_to="9"))  # 02:00
    ledger.append(draft("promotion", version_to="2"))  # 03:00
    ledger.append(draft("rollback", version_to="1"))  # 04:00
    ledger.append(draft("promotion", name="other", version_to="7"))
    at = [ledger.champion_at("M", START + timedelta(hours=h)) for h in (0.5, 1, 2.5, 3, 4.5)]
    assert at == [None, "1", "1", "2", "1"]
    assert ledger.champion_at("M") == "1"


def test_the_last_entry_of_some_events(ledger: Ledger) -> None:
    assert ledger.last_seq(("promotion",)) == 0
    for event in ("promotion", "test_look", "refusal"):
        ledger.append(draft(event))
    assert [ledger.last_seq((e,)) for e in ("promotion", "refusal", "rollback")] == [1, 3, 0]


def look(ledger: Ledger, windows: dict, *, key: Ed25519PrivateKey = KEY, **changes) -> Draft:
    """A look as the gate runner signs it; `changes` are made afterwards."""
    about = {"name": "M", "version": "1", "evidence_digest": "e" * 64}
    first, _ = ledger.ends()
    ledger_id = first.entry_hash if first else GENESIS
    payload = signed_look(windows, **about, ledger_id=ledger_id, key=key)
    asked = {"version_to": "1", "evidence_digest": "e" * 64, "payload": payload, **changes}
    return draft("test_look", **asked)


def test_test_looks_count_by_split(ledger: Ledger) -> None:
    for split in ("a", "b", "a"):
        ledger.append(look(ledger, {"split_sha256": split}))
    counts = [len(ledger.looks_at({"split_sha256": split}, TRUSTED)) for split in ("a", "c")]
    assert counts == [2, 0]


def span(first: str, last: str | None, source: str = "btc", **more: str) -> dict:
    times = {"first_bar": first} if last is None else {"first_bar": first, "last_bar": last}
    return {"source": source, **times, **more}


def test_test_looks_count_by_the_bars_they_share(ledger: Ledger) -> None:
    seen = [
        {"split_sha256": "old"},  # as entries were before they held bars
        span("2019-05", "2019-08", split_sha256="a"),
        span("2019-07", "2019-10", split_sha256="b"),
        span("2019-05", "2019-10", "eur", split_sha256="c"),
        span("2019-05", None, split_sha256="d"),
    ]
    for windows in seen:
        ledger.append(look(ledger, windows))

    def count(windows: dict) -> int:
        return len(ledger.looks_at(windows, TRUSTED))

    assert count(span("2019-06", "2019-06", split_sha256="new")) == 2  # a, and what d may have seen
    assert count(span("2019-08", "2019-09", split_sha256="new")) == 3
    assert count(span("2019-11", "2019-12", split_sha256="new")) == 1
    assert count(span("2019-11", "2019-12", split_sha256="old")) == 2
    assert count(span("2019-01", "2019-12", "gbp", split_sha256="c")) == 1
    assert count({}) == 0


def test_a_look_counts_only_as_it_was_signed_and_once(ledger: Ledger, tmp_path: Path) -> None:
    elsewhere = LocalLedger(f"sqlite:///{tmp_path}/elsewhere.db", clock=Clock())
    elsewhere.append(draft(who="bob"))
    ledger.append(draft())
    windows = span("2019-05", "2019-08", split_sha256="a")
    honest = look(ledger, windows)
    moved = honest.payload
    forged = [
        draft("test_look", version_to="1", payload=windows),  # not signed
        look(ledger, windows, key=Ed25519PrivateKey.generate()),  # by a stranger
        look(ledger, windows, key=SERVER),  # a server's key signs lines and no looks
        look(elsewhere, windows),  # for another ledger
        replace(honest, name="Other"),
        replace(honest, version_to="2"),
        replace(honest, evidence_digest="d" * 64),
        replace(honest, payload={**moved, "split_sha256": "b"}),
        replace(honest, payload={**moved, "last_bar": "2029-08"}),
        replace(honest, payload={**moved, "nonce": "0" * 32}),
        replace(honest, payload={k: v for k, v in moved.items() if k != "nonce"}),
    ]
    for one in forged:
        ledger.append(one)
    assert len(ledger.looks_at(windows, TRUSTED)) == 0
    for _ in range(30):
        ledger.append(honest)
    assert len(ledger.looks_at(windows, TRUSTED)) == 1
    revoked = replace(TRUSTED, revoked=frozenset(TRUSTED.keys))
    assert len(ledger.looks_at(windows, revoked)) == 0


def test_only_if_may_refuse_inside_the_transaction(ledger: Ledger) -> None:
    def no(_connection: object) -> None:
        raise PromotionRefused("not now")

    with pytest.raises(PromotionRefused, match="not now"):
        ledger.append(draft(), only_if=no)
    assert ledger.entries() == []


ANNOUNCED = {
    "event": "promotion", "then": {"test_looks": 1},
    "host": "h", "pid": 1, "thread": 1, "lease_until": "2999-01-01T00:00:00+00:00",
}  # fmt: skip


def test_an_intent_is_open_until_an_entry_names_it(ledger: Ledger) -> None:
    intent = ledger.append(draft("intent", version_to="1", payload=ANNOUNCED))
    assert open_intent(ledger.entries()) == intent
    for stranger in (
        draft("promotion", version_to="2", payload={"intent": intent.seq}),
        draft("promotion", version_to="1", name="Other", payload={"intent": intent.seq}),
        draft("rollback", version_to="1", payload={"intent": intent.seq}),
        draft("refusal", version_to="1", payload={"intent": intent.seq}),
        draft("promotion", version_to="1", payload={"intent": True}),
        draft("abandoned", version_to="1", payload={"intent": [intent.seq]}),
    ):
        ledger.append(stranger)
    assert open_intent(ledger.entries()) == intent
    ledger.append(draft("promotion", version_to="1", payload={"intent": intent.seq}))
    assert open_intent(ledger.entries()) is None


def test_an_unsigned_line_closes_no_intent(ledger: Ledger) -> None:
    signing = ledger.signing(KEY)
    intent = signing.append(draft("intent", version_to="1", payload=ANNOUNCED))
    closing = draft("abandoned", version_to="1", payload={"intent": intent.seq})
    ledger.append(closing)
    assert open_intent(ledger.entries(), ledger.belief(TRUSTED)) == intent
    signing.append(closing)
    assert open_intent(ledger.entries(), ledger.belief(TRUSTED)) is None


def test_an_intent_is_closed_once_whoever_comes_second(ledger: Ledger) -> None:
    intent = ledger.append(draft("intent", version_to="1", payload=ANNOUNCED))
    with ledger.transaction() as connection:
        first = close_intent(connection, ledger, intent)
        assert close_intent(connection, ledger, intent) == first
    assert ledger.entries() == [intent, first]
    assert (first.event, first.payload) == ("promotion", {"test_looks": 1, "intent": intent.seq})


def test_bad_drafts_and_addresses(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="event is 'party'"):
        draft("party")
    with pytest.raises(BadInput, match="not plain JSON"):
        draft(payload={"x": float("nan")})
    with pytest.raises(ConfigError, match="sqlite: or postgresql:"):
        LocalLedger("http://127.0.0.1:1")
    with pytest.raises(TrackingError, match="database fails"):
        LocalLedger(f"sqlite:///{tmp_path}/absent/ledger.db")


def _append_some(url: str, who: str) -> None:
    ledger = LocalLedger(url)
    for _ in range(10):
        ledger.append(draft(who=who))


@pytest.mark.medium
def test_processes_create_and_append_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_some, args=(url, str(i))) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    ledger = LocalLedger(url)
    assert [entry.seq for entry in ledger.entries()] == list(range(1, 61))
    ledger.verify_chain()


@pytest.mark.medium
def test_what_cannot_be_asked_counts_as_frozen(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that fails for a moment must not thaw the files of what held Production."""
    from mlflow.server import handlers  # seconds to import
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{tmp_path}/runs.db", str(tmp_path / "artifacts"))
    monkeypatch.setattr(handlers, "_get_tracking_store", lambda: store)
    ledger.append(draft("promotion", version_to="1"))
    guard = Guard(
        policy=Policy.for_ohlc(PromotionPolicy()), trusted_folder=tmp_path, ledger=ledger,
        artifacts_destination=str(tmp_path), artifact_root=str(tmp_path),
        lock_file=tmp_path / "lock",
    )  # fmt: skip

    class Registry:
        code = TEMPORARILY_UNAVAILABLE

        def get_model_version(self, name: str, version: str) -> None:
            raise MlflowException("no answer", error_code=self.code)

    monkeypatch.setattr(handlers, "_get_model_registry_store", Registry)
    for _ in range(2):
        with pytest.raises(MlflowException, match="no answer"):
            guard.frozen()
    Registry.code = RESOURCE_DOES_NOT_EXIST  # deleted: nothing is left to freeze
    assert guard.frozen().places == frozenset()


def test_one_ledger_has_one_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGHOST", "db")
    monkeypatch.setenv("PGDATABASE", "moola")
    assert address_of("sqlite:///x.db") == address_of(f"sqlite:///{tmp_path}/x.db")
    assert address_of("http://ann:secret@h:5000/") == "http://h:5000"
    given = address_of("postgresql+psycopg://ann:secret@db:5432/moola?sslmode=require")
    assert given == address_of("postgresql+psycopg://")
    assert "secret" not in given
    with pytest.raises(ConfigError, match="is no address of a ledger"):
        address_of("no address")
