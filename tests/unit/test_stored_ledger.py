"""A ledger and evidence written by an earlier release (0.1.0) still verify, byte for byte.

`tests/stored` holds a look, two promotions, a refusal, a rollback and a challenger as that release
stored them, and the public key of its gate runner.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from moola.errors import PromotionRefused
from moola.promotion.evidence.attestation import SignedEvidence, verify
from moola.promotion.evidence.keys import load_trusted_keys
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.local import LocalLedger

STORED = Path(__file__).resolve().parents[1] / "stored"
NAME = "EnhancedSimpleLSTM"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.executescript((STORED / "ledger.sql").read_text())
    return LocalLedger(f"sqlite:///{tmp_path}/ledger.db")


def test_the_chain_and_every_signature(ledger: Ledger) -> None:
    keys = load_trusted_keys(STORED)
    ledger.verify_chain()
    entries = ledger.entries(NAME)
    assert [entry.event for entry in entries] == [
        "test_look", "promotion", "test_look", "refusal", "test_look", "promotion", "rollback",
        "challenger",
    ]  # fmt: skip
    belief = ledger.belief(keys)
    assert [entry.seq for entry in entries if belief.why_not(entry)] == []
    assert [entry.version_to for entry in ledger.moves(NAME, keys=keys)] == ["1", "2", "1"]
    assert ledger.champion_at(NAME, keys=keys) == "1"


def test_the_evidence(ledger: Ledger) -> None:
    keys = load_trusted_keys(STORED)
    evidence = verify(SignedEvidence.from_json((STORED / "evidence.json").read_text()), keys)
    assert (evidence.name, evidence.version, evidence.purpose) == (NAME, "1", "evaluation")
    promotions = [entry for entry in ledger.entries(NAME) if entry.event == "promotion"]
    for entry in promotions:
        carried = verify(SignedEvidence.from_json(entry.payload["evidence"]), keys)
        assert carried.digest == entry.evidence_digest


def test_a_changed_letter_is_found(ledger: Ledger, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("DROP TRIGGER IF EXISTS moola_ledger_no_update")
        database.execute("UPDATE moola_ledger SET reason = 'because' WHERE seq = 2")
    with pytest.raises(PromotionRefused, match="ledger entry 2"):
        ledger.verify_chain()
    text = json.loads((STORED / "evidence.json").read_text())
    text["payload"] = text["payload"].replace('"version":"1"', '"version":"2"')
    with pytest.raises(PromotionRefused):
        verify(SignedEvidence.from_json(json.dumps(text)), load_trusted_keys(STORED))
