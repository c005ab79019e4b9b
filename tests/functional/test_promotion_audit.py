"""`moola verify` and the noting of keys: what was changed past Moola is named."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from promotion_kit import KEY, NAME, Bench, trusting

from moola.promotion.audit import audit_registry
from moola.promotion.key_changes import note_key_change, note_key_changes
from moola.promotion.keys import TrustedKeys, key_id
from moola.promotion.ledger import Ledger


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
