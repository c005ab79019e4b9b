"""Going back to an earlier champion, the challenger, and who was in Production when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from promotion_kit import KEY, NAME, Bench, trusting

from moola.config.promotion import TAG_PROMOTION_EVIDENCE
from moola.promotion.decision import PromotionDenied
from moola.promotion.evidence.attestation import SignedEvidence, verify
from moola.promotion.state import clear_production, read_state


def test_rollback_goes_back_step_by_step_and_verifies_again(bench: Bench) -> None:
    for version in ("1", "2", "3"):
        bench.promote(version)
    assert bench.rollback().version == "2"
    assert bench.champion() == "2"
    bench.change_files()
    with pytest.raises(
        PromotionDenied, match="version 1 is not proven: the model's files were changed"
    ):
        bench.rollback()
    assert bench.rollback(to="3").champion_before == "2"
    assert bench.champion() == "3"
    assert bench.stages() == {"1": "Archived", "2": "Archived", "3": "Production"}
    other = Ed25519PrivateKey.generate()
    with pytest.raises(PromotionDenied, match="unknown key"):
        bench.rollback(to="2", signing_key=other, keys=trusting(other))
    assert bench.champion() == "3"


def test_rollback_needs_an_earlier_champion(bench: Bench) -> None:
    with pytest.raises(PromotionDenied, match="no earlier version"):
        bench.rollback()
    bench.promote("1")
    with pytest.raises(PromotionDenied, match="never held Production"):
        bench.rollback(to="2")
    with pytest.raises(PromotionDenied, match="already holds"):
        bench.rollback(to="1")


def test_challenger(bench: Bench) -> None:
    bench.promote("1")
    for version in ("2", "3"):
        decision = bench.production().challenger(version)
        assert decision.ledger_seq == bench.ledger.entries(NAME)[-1].seq
    assert bench.stages() == {"1": "Production", "2": "Archived", "3": "Staging"}
    assert str(bench.client.get_model_version_by_alias(NAME, "challenger").version) == "3"
    with pytest.raises(PromotionDenied, match="it holds Production"):
        bench.production().challenger("1")


def test_history_tells_who_was_in_production(bench: Bench) -> None:
    bench.promote("1")
    between = datetime.now(UTC)
    bench.promote("2")
    assert bench.production().history(between).champion == "1"
    now = bench.production().history()
    assert (now.name, now.champion, len(now.entries)) == (NAME, "2", 4)


def test_a_refused_rollback_is_a_decision_and_a_line_of_the_ledger(bench: Bench) -> None:
    bench.promote("1")
    with pytest.raises(PromotionDenied) as caught:
        bench.rollback(to="2")
    said = f"version 2 of {NAME} is not put back into Production: version 2 never held Production"
    assert str(caught.value).startswith(said)
    decision, line = caught.value.decision, bench.ledger.entries(NAME)[-1]
    assert (decision.allowed, decision.action, decision.ledger_seq) == (False, "rollback", line.seq)
    assert decision.reasons == ("version 2 never held Production by Moola's ledger",)
    assert (line.event, line.version_from, line.version_to) == ("refusal", "1", "2")
    assert line.reason == "rollback: version 2 never held Production by Moola's ledger"
    with pytest.raises(PromotionDenied) as caught:
        bench.rollback(to="2", dry_run=True)
    assert caught.value.decision.ledger_seq is None
    assert bench.ledger.entries(NAME)[-1].seq == line.seq


def test_a_signed_order_to_go_back_says_who_when_and_why(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    before = datetime.now(UTC)
    done = bench.rollback(signing_key=KEY)
    tag = bench.client.get_model_version(NAME, "1").tags[TAG_PROMOTION_EVIDENCE]
    order = verify(SignedEvidence.from_json(tag), trusting(KEY))
    assert (order.purpose, order.version, order.champion) == ("rollback", "1", "2")
    assert (order.asked_by, order.reason) == ("bob", "drift")
    assert before <= datetime.fromisoformat(order.created_at) <= datetime.now(UTC)
    line = bench.ledger.entries(NAME)[-1]
    assert (line.event, line.version_from, line.version_to) == ("rollback", "2", "1")
    assert done.evidence_digest == line.evidence_digest == order.digest


def test_a_first_promotion_that_vanished_leaves_production_empty(bench: Bench) -> None:
    """There was no champion before: what the interrupted move had set is taken back."""
    bench.promote("1")
    clear_production(bench.client, NAME)
    state = read_state(bench.client, NAME)
    assert (state.champion, state.alias_version, state.stage_versions) == (None, None, ())
    assert bench.stages()["1"] == "Archived"
    clear_production(bench.client, NAME)  # may be repeated
