"""`moola verify` and the noting of keys: what was changed past Moola is named."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from promotion_kit import KEY, NAME, Bench, trusting

from moola.promotion.audit import audit_registry
from moola.promotion.key_changes import note_key_change, note_key_changes
from moola.promotion.keys import TrustedKeys, key_id
from moola.promotion.ledger import Draft, Ledger


def test_an_audit_names_what_is_wrong(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    note_key_change(bench.ledger, who="ann", key_id="k", change="trusted")

    def audit(keys: TrustedKeys | None = None) -> tuple[str, ...]:
        return audit_registry(bench.client, bench.ledger, NAME, keys or trusting(KEY)).findings

    assert audit() == ()
    untrusted = audit(trusting())
    assert len(untrusted) == 2
    assert all("unknown key" in finding for finding in untrusted)
    bench.change_files()
    bench.client.transition_model_version_stage(NAME, "2", "Archived")
    files, state = audit()
    assert files == "the files of version 1 were changed since it was promoted"
    assert state.endswith("the alias names 2, the stage is held by none")


def test_key_changes_are_noted_once(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/keys.db")
    first, second = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    one, two = (key_id(key.public_key()) for key in (first, second))

    def noted(trusted: TrustedKeys) -> list[tuple[str, str]]:
        entries = note_key_changes(ledger, trusted, who="server")
        return [(e.payload["key_id"], e.payload["change"]) for e in entries]

    assert noted(trusting(first)) == [(one, "trusted")]
    assert noted(trusting(first)) == []
    both = trusting(first, second)
    assert noted(both) == [(two, "trusted")]
    assert noted(TrustedKeys(keys=both.keys, revoked=frozenset({one}))) == [(one, "revoked")]
    assert noted(trusting(second)) == [(one, "removed")]
    ledger.verify_chain()


def test_an_audit_says_where_the_ledger_ends_and_who_is_in_production(bench: Bench) -> None:
    bench.promote("1")
    found = audit_registry(bench.client, bench.ledger, NAME, trusting(KEY))
    assert (found.name, found.champion, found.findings) == (NAME, "1", ())
    assert found.head == bench.ledger.verify_chain() == bench.ledger.entries()[-1].entry_hash
    assert found.num_entries == len(bench.ledger.entries(NAME))
    bench.client.create_registered_model("Other")
    elsewhere = audit_registry(bench.client, bench.ledger, "Other", trusting(KEY))
    assert (elsewhere.champion, elsewhere.num_entries) == (None, 0)


def test_an_audit_names_a_move_that_was_not_ended(bench: Bench) -> None:
    bench.promote("1")
    draft = Draft(
        event="intent",
        who="ann",
        name=NAME,
        reason="all passed",
        version_to="2",
        payload={"event": "promotion"},
    )
    begun = bench.ledger.append(draft)
    findings = audit_registry(bench.client, bench.ledger, NAME, trusting(KEY)).findings
    assert findings == (f"a promotion begun at {begun.at} was not ended",)


def test_an_audit_names_a_changed_line_and_has_no_head(bench: Bench) -> None:
    bench.promote("1")
    with sqlite3.connect(bench.folder / "mlflow.db") as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE moola_ledger SET reason = 'because' WHERE seq = 1")
    found = audit_registry(bench.client, bench.ledger, NAME, trusting(KEY))
    assert found.head is None
    assert found.findings[0].startswith("ledger entry 1 (")
    assert "was changed" in found.findings[0]
