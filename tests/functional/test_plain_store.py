"""A plain store gives what it can: what was checked is compared at the move and looked at after."""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_kit import insert_rows
from mlflow import MlflowClient
from promotion_kit import (
    KEY,
    NAME,
    PASSED,
    Bench,
    ask_promotion,
    ask_rollback,
    evaluate,
    make_version,
    production,
    trusting,
)

from moola.config.promotion import POLICY_FILE, TRUSTED_FOLDER, PromotionPolicy
from moola.errors import BadInput, ConfigError, PromotionRefused, TrackingError
from moola.promotion.decision import PromotionDenied
from moola.promotion.evidence.attestation import load_evidence
from moola.promotion.evidence.keys import key_id, load_trusted_keys, revoke, trust
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.state import read_state
from moola.steps.serve import ProductionSource


def findings(bench: Bench) -> tuple[str, ...]:
    return bench.production().verify().findings


class Version(str, enum.Enum):  # noqa: UP042 - whose str() is not its value
    TWO = "2"


def test_versions_of_any_spelling_leave_a_whole_chain(bench: Bench) -> None:
    assert bench.promote(1).version == "1"  # type: ignore[arg-type]
    assert bench.promote(Version.TWO).champion_before == "1"
    assert bench.rollback(to=np.int64(1)).version == "1"
    with pytest.raises(PromotionDenied, match="already holds"):
        bench.promote(" 01")
    challenger = bench.production().challenger(np.uint8(3))
    assert challenger.version == "3"
    assert load_evidence(bench.client, NAME, 1).key_id == key_id(KEY.public_key())
    assert {e.version_to for e in bench.ledger.entries(NAME)} == {"1", "2", "3"}
    assert findings(bench) == ()


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "", "x", "1.0", None, "9" * 12, b"1", "²"])
def test_what_is_no_version(bench: Bench, version: Any) -> None:
    with pytest.raises(BadInput, match="version is"):
        bench.promote(version)
    assert bench.ledger.entries() == []


def put_by_client(bench: Bench, version: str) -> None:
    """Move Production past Moola, as anybody with the database can."""
    client = MlflowClient(bench.client.tracking_uri)
    client.transition_model_version_stage(NAME, version, "Production", True)
    client.set_registered_model_alias(NAME, "production", version)


def promote_while(
    bench: Bench, happens: Callable[[], object], version: str = "2", **changes: Any
) -> None:
    """Ask for Production; something happens after the look and before the move."""

    def gate(_champion: str | None) -> dict:
        happens()
        return dict(PASSED)

    bench.promote(version, promotion_gate=gate, **changes)


def folder_of(bench: Bench, version: str) -> Path:
    address = bench.client.get_model_version_download_uri(NAME, version)
    return Path(address.removeprefix("file://"))


def test_files_changed_between_look_and_move(bench: Bench) -> None:
    bench.promote("1")
    weights = folder_of(bench, "2") / "weights.safetensors"
    with pytest.raises(PromotionDenied, match="files were changed after the evaluation"):
        promote_while(bench, lambda: weights.write_text("better"))
    assert bench.champion() == "1"
    assert findings(bench) == ()


def test_a_key_that_ceased_to_count_between_look_and_move(bench: Bench) -> None:
    bench.promote("1")
    folder = bench.folder / TRUSTED_FOLDER
    path = trust(folder, KEY.public_key())
    for stops in (path.unlink, lambda: revoke(folder, key_id(KEY.public_key()))):
        trust(folder, KEY.public_key())
        with pytest.raises(PromotionDenied, match=r"unknown key|revoked key"):
            promote_while(bench, stops, keys=load_trusted_keys(folder))
    assert bench.champion() == "1"


def test_a_policy_that_asks_for_more_between_look_and_move(bench: Bench) -> None:
    policy = bench.folder / POLICY_FILE
    trust(bench.folder / TRUSTED_FOLDER, KEY.public_key())

    def ask_for_more() -> None:
        policy.write_text("required_gates: [0, 1, 2, 6]\n")

    with pytest.raises(PromotionDenied, match="gate 6 is absent"):
        promote_while(bench, ask_for_more, project=bench.folder)
    assert bench.champion() is None


@pytest.mark.parametrize("ledger", ["mlflow.db", "ledger.db"])
def test_production_moved_by_a_client_between_look_and_move(
    template_db: Path, tmp_path: Path, ledger: str
) -> None:
    bench = Bench(template_db, tmp_path, ledger=ledger)
    bench.promote("1")
    with pytest.raises(PromotionDenied, match="was moved by somebody else while this was checked"):
        promote_while(bench, lambda: put_by_client(bench, "3"))
    state = read_state(bench.client, NAME)
    assert state.champion == "3"  # what the client did is not undone in silence
    assert bench.ledger.champion_at(NAME) == "1"
    assert len(findings(bench)) == 1


def test_a_move_overwritten_right_after_is_not_called_done(
    template_db: Path, tmp_path: Path
) -> None:
    bench = Bench(template_db, tmp_path, ledger="ledger.db")
    bench.promote("1")

    class Overwritten(MlflowClient):
        def set_registered_model_alias(self, *args: Any, **kwargs: Any) -> None:
            super().set_registered_model_alias(*args, **kwargs)
            put_by_client(bench, "3")

    with pytest.raises(PromotionDenied, match="was moved by somebody else"):
        bench.promote("2", client=Overwritten(bench.client.tracking_uri))
    assert bench.ledger.champion_at(NAME) == "1"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"signing_key": None}, "there is no signing key"),
        ({"keys": trusting()}, "signs here, is not trusted"),
    ],
)
def test_without_a_key_that_counts_nothing_is_begun(
    bench: Bench, changes: dict[str, Any], why: str
) -> None:
    for ask in (lambda: bench.promote("1", **changes), lambda: bench.rollback(**changes)):
        with pytest.raises(ConfigError, match=why):
            ask()
    assert bench.ledger.entries() == []


def test_evidence_is_too_old_after_thirty_days(bench: Bench) -> None:
    later = LocalLedger(bench.ledger_url, clock=lambda: datetime.now(UTC) + timedelta(days=31))
    with pytest.raises(PromotionDenied, match=r"evidence is 31\.0 days old, at most 30 count"):
        bench.promote("1", ledger=later)


def test_a_broken_chain_ends_everything_and_names_the_line(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    with sqlite3.connect(bench.folder / "mlflow.db") as database:
        database.execute("DROP TRIGGER moola_ledger_no_update")
        database.execute("UPDATE moola_ledger SET reason = 'because' WHERE seq = 2")
    before = bench.events()
    trust(bench.folder / TRUSTED_FOLDER, KEY.public_key())
    source = ProductionSource(
        bench.client,
        bench.ledger,
        NAME,
        trusted_folder=bench.folder / TRUSTED_FOLDER,
        policy=PromotionPolicy(),
    )
    for ask in (
        lambda: bench.promote("3"),
        bench.rollback,
        lambda: bench.production().history(),
        lambda: source.load("2"),
    ):
        with pytest.raises(PromotionRefused, match=r"ledger entry 2 \(promotion of .*changed"):
            ask()
    assert (bench.events(), bench.champion()) == (before, "2")


DRAFT = Draft(event="refusal", who="ann", name=NAME, reason="r")


def test_times_go_on_and_never_far_back(tmp_path: Path) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    moments = [now, now - timedelta(minutes=4), now + timedelta(hours=1)]
    ledger = LocalLedger(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: moments.pop(0))
    times = [ledger.append(DRAFT).time for _ in range(3)]
    assert times == [now, now, now + timedelta(hours=1)]
    moments = [now - timedelta(days=396)]
    with pytest.raises(
        PromotionRefused, match="the clock says 2024-12-31 12:00, the ledger's last"
    ):
        ledger.append(DRAFT)
    assert len(ledger.entries()) == 3


def test_a_line_of_the_year_9999_ends_no_ledger(tmp_path: Path) -> None:
    ledger = LocalLedger(f"sqlite:///{tmp_path}/ledger.db").signing(KEY)
    ledger.append(DRAFT)
    odd = {
        "event": "refusal", "who": "eve", "name": NAME, "version_from": None, "version_to": None,
        "evidence_digest": None, "reason": "r", "payload": "{}",
    }  # fmt: skip
    times = ("9999-12-31T00:00:00+00:00", "never", "")
    insert_rows(tmp_path / "ledger.db", [{**odd, "at": at} for at in times])
    assert ledger.append(DRAFT).seq == 5


def test_what_the_database_gives_back_differently_is_not_written(tmp_path: Path) -> None:
    ledger = LocalLedger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.append(DRAFT)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("DROP TRIGGER moola_ledger_no_update")
        database.execute(
            "CREATE TRIGGER odd AFTER INSERT ON moola_ledger BEGIN "
            "UPDATE moola_ledger SET reason = 'else' WHERE seq = NEW.seq; END"
        )
    with pytest.raises(TrackingError, match="gives back another line than ledger entry 2"):
        ledger.append(DRAFT)
    assert len(ledger.entries()) == 1
    missing, odd = ledger.schema_findings()
    assert "trigger moola_ledger_no_update of the ledger is missing" in missing
    assert "has a trigger 'odd' that is not Moola's" in odd


def as_before_signatures(bench: Bench) -> None:
    """Take the ledger's table back to the form it had before lines were signed."""
    with sqlite3.connect(bench.folder / "mlflow.db") as database:
        database.execute("ALTER TABLE moola_ledger DROP COLUMN signature")


def test_old_unsigned_moves_count_up_to_a_signed_boundary(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    as_before_signatures(bench)
    bench.ledger = LocalLedger(bench.ledger_url)
    assert len(findings(bench)) == 3  # nobody vouches for them yet: two moves, and who is champion
    assert bench.promote("3").champion_before == "2"
    assert bench.events()[-2:] == ["test_look", "promotion"]
    [boundary] = bench.ledger.entries(events=("boundary",))
    assert boundary.payload == {"unsigned_up_to": 4}
    found = bench.production().verify()
    assert found.findings == ()
    said = "2 moves up to ledger entry 4 are from before lines were signed"
    looks = "2 of 3 looks at locked test windows do not count"
    assert said in found.notes
    assert looks not in found.notes  # looks bear a signature of their own
    assert bench.rollback().version == "2"
    forged = Draft(event="rollback", who="eve", name=NAME, reason="r", version_to="1")
    bench.ledger.append(forged)
    forged_boundary = Draft(
        event="boundary", who="eve", name="", reason="r", payload={"unsigned_up_to": 99}
    )
    bench.ledger.append(forged_boundary)
    [unsigned] = findings(bench)
    assert "(rollback of version 1) does not count: it is not signed" in unsigned


def test_no_boundary_in_a_ledger_that_was_always_signed(bench: Bench) -> None:
    bench.ledger.append(replace(DRAFT, event="promotion", version_to="1"))
    bench.promote("2")
    assert bench.ledger.entries(events=("boundary",)) == []
    [unsigned] = findings(bench)
    assert "(promotion of version 1) does not count" in unsigned


def test_one_transaction_on_postgresql(postgres: str, tmp_path: Path) -> None:
    client = MlflowClient(postgres)
    client.create_experiment("work", artifact_location=(tmp_path / "mlartifacts").as_uri())
    ledger = LocalLedger(postgres)
    for number in range(2):
        make_version(client, tmp_path, weights=f"w{number}")
        evaluate(client, KEY, str(number + 1))
        ask_promotion(client, ledger, KEY, str(number + 1))
    assert ask_rollback(client, ledger, KEY).version == "1"
    assert [e.event for e in ledger.entries(NAME)] == ["test_look", "promotion"] * 2 + ["rollback"]
    assert read_state(client, NAME).champion == ledger.champion_at(NAME, keys=trusting(KEY)) == "1"
    assert production(client, ledger).verify().findings == ()
