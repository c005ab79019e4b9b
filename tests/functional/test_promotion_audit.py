"""`moola verify` and the noting of keys: what was changed past Moola is named."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from promotion_kit import KEY, NAME, Bench, evaluate, trusting

from moola.cli.app import _run
from moola.config.promotion import TAG_EVIDENCE, PromotionPolicy
from moola.promotion.decision import PromotionDenied
from moola.promotion.evidence.attestation import SignedEvidence, sign, verify
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.key_changes import note_key_change, note_key_changes
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.state import put_in_production


def test_an_audit_names_what_is_wrong(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    note_key_change(bench.ledger, who="ann", key_id="k", change="trusted")

    def audit(keys: TrustedKeys | None = None) -> tuple[str, ...]:
        return bench.production(keys).verify().findings

    assert audit() == ()
    untrusted = audit(trusting())
    assert len(untrusted) == 3
    assert all("unknown key" in finding for finding in untrusted[:2])
    assert untrusted[2].startswith("the ledger has version None in Production")
    bench.change_files()
    bench.client.transition_model_version_stage(NAME, "2", "Archived")
    files, state = audit()
    assert files.startswith("version 1: version 1 is not proven: the model's files were changed")
    assert state.endswith("the alias names 2, the stage is held by none")


def evidence_of(bench: Bench, at: str, **changes: object) -> SignedEvidence:
    """Return evidence of a version as it stands at its tag, signed again after some changes."""
    tag = bench.client.get_model_version(NAME, at).tags[TAG_EVIDENCE]
    evidence = verify(SignedEvidence.from_json(tag), trusting(KEY))
    return sign(dataclasses.replace(evidence, **changes), KEY)


AUTHOR = {"host": "h", "pid": 1, "thread": 1, "lease_until": "2999-01-01T00:00:00+00:00"}
FAILED = {"0": "passed", "1": "failed", "2": "blocked"}
FORGERIES = {
    "about version 9 of Other": {"name": "Other", "version": "9"},
    "about run x": {"run_id": "x"},
    "files were changed": {"model_sha256": "0" * 64},
    "gate 1 is failed, not passed; gate 2 is blocked": {"verdicts": FAILED},
    "promotion gate is failed": {"purpose": "promotion", "promotion_verdict": "failed"},
    "evidence of a rollback": {"purpose": "rollback", "promotion_verdict": "passed"},
    "carries other evidence than it names": {},
}


@pytest.mark.parametrize("found", FORGERIES)
def test_a_promotion_written_past_moola_proves_nothing(bench: Bench, found: str) -> None:
    bench.promote("1")
    signed = evidence_of(bench, "2", **FORGERIES[found])
    draft = Draft(
        event="promotion",
        who="eve",
        name=NAME,
        reason="all passed",
        version_from="1",
        version_to="2",
        evidence_digest=verify(signed, trusting(KEY)).digest if FORGERIES[found] else "0" * 64,
        payload={"evidence": signed.to_json()},
    )
    bench.ledger.append(draft)
    [unsigned] = bench.production().verify().findings
    assert "(promotion of version 2) does not count: it is not signed" in unsigned
    bench.ledger.signing(KEY).append(draft)
    put_in_production(bench.client, NAME, "2")
    _, finding = bench.production().verify().findings
    assert found in finding
    bench.rollback()
    with pytest.raises(PromotionDenied, match=found):
        bench.rollback(to="2")
    assert bench.champion() == "1"


def test_what_was_required_then_is_asked_by_an_audit_and_now_by_a_rollback(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    assert bench.production().verify().findings == ()
    with pytest.raises(PromotionDenied, match="gate 6 is absent, not passed"):
        bench.rollback(policy=PromotionPolicy(required_gates=(0, 1, 2, 6)))
    lax = PromotionPolicy(required_gates=(0, 1))
    evaluate(bench.client, KEY, "3", verdicts=("passed", "passed", "inconclusive"), policy=lax)
    bench.promote("3", policy=lax)
    assert bench.production().verify().findings == ()


def test_key_changes_are_noted_once(tmp_path: Path) -> None:
    ledger = LocalLedger(f"sqlite:///{tmp_path}/keys.db")
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
    found = bench.production().verify()
    assert (found.name, found.champion, found.findings) == (NAME, "1", ())
    assert found.head == bench.ledger.verify_chain() == bench.ledger.entries()[-1].entry_hash
    assert found.num_entries == len(bench.ledger.entries(NAME))
    bench.client.create_registered_model("Other")
    elsewhere = bench.production(name="Other").verify()
    assert (elsewhere.champion, elsewhere.num_entries) == (None, 0)


def test_an_audit_names_a_move_that_was_not_ended(bench: Bench) -> None:
    bench.promote("1")
    draft = Draft(
        event="intent",
        who="ann",
        name=NAME,
        reason="all passed",
        version_to="2",
        payload={"event": "promotion", "then": {}, **AUTHOR},
    )
    begun = bench.ledger.signing(KEY).append(draft)
    findings = bench.production().verify().findings
    assert findings == (f"a promotion begun at {begun.at} was not ended",)


def test_an_audit_names_a_changed_line_and_has_no_head(bench: Bench) -> None:
    bench.promote("1")
    with sqlite3.connect(bench.folder / "mlflow.db") as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE moola_ledger SET reason = 'because' WHERE seq = 1")
    found = bench.production().verify()
    assert found.head is None
    assert found.findings[0].startswith("ledger entry 1 (")
    assert "was changed" in found.findings[0]
