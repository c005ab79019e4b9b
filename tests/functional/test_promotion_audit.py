"""`moola verify` and the noting of keys: what was changed past Moola is named."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from promotion_kit import KEY, NAME, Bench, trusting

from moola.cli.app import _run
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


def pem_text(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def test_keys_are_listed_and_made_only_where_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{bench.folder}/mlflow.db")
    assert _run(["keys"]) == 0
    assert "no key signs here" in capsys.readouterr().out
    assert not (bench.folder / ".moola" / "keys").exists()
    for _ in range(2):
        assert _run(["keys", "--make", "--json"]) == 0
        made = json.loads(capsys.readouterr().out)
        assert made["trusted"] == [made["signing"]]
    changes = [e.payload["change"] for e in bench.ledger.entries(events=("key_change",))]
    assert changes == ["trusted"]
    own = Ed25519PrivateKey.generate()
    monkeypatch.setenv("MOOLA_SIGNING_KEY", pem_text(own))
    assert _run(["keys"]) == 0
    assert f"{key_id(own.public_key())} signs here and is not trusted" in capsys.readouterr().out
    assert _run(["keys", "--make", "--revoke", made["signing"]]) == 2
    assert _run(["keys", "--revoke", made["signing"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trusted"] == []


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
