"""Promotion on a real store without a server: checks, their order, what is refused and noted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient
from promotion_kit import (
    FAILED,
    KEY,
    NAME,
    PASSED,
    Bench,
    evaluate,
    gate_report,
    trusting,
)

from moola.config.names import TAG_GATES_RUN
from moola.config.promotion import TAG_EVIDENCE, TAG_PROMOTION_EVIDENCE
from moola.errors import PromotionRefused, TrackingError
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence.attestation import SignedEvidence, verify
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.record import append_result, decision_record


def test_alias_and_stage_move_together_and_the_old_version_is_archived(bench: Bench) -> None:
    first = bench.promote("1")
    assert (first.allowed, first.champion_before, first.test_looks) == (True, None, 1)
    assert bench.champion() == "1"
    second = bench.promote("2", signing_key=KEY)
    assert bench.asked == ["1"]
    assert (second.champion_before, second.test_looks) == ("1", 2)
    assert bench.champion() == "2"
    assert bench.stages() == {"1": "Archived", "2": "Production", "3": "None"}
    assert bench.events() == ["test_look", "promotion"] * 2
    entry = bench.ledger.entries(NAME)[-1]
    assert (entry.seq, entry.evidence_digest) == (second.ledger_seq, second.evidence_digest)
    bench.ledger.verify_chain()


@pytest.mark.parametrize(
    ("action", "what"),
    [
        ("promotion", "promoted to"),
        ("rollback", "put back into"),
        ("challenger", "set as challenger of"),
    ],
)
def test_a_refusal_names_version_deed_reasons_and_remedy(action: str, what: str) -> None:
    asked = {"name": "M", "version": "7", "who": "ann", "decided_at": "2026-01-31T00:00:00"}
    decision = Decision(
        action=action, allowed=False, champion_before=None, reasons=("a", "b"), **asked
    )
    refusal = PromotionDenied(decision, remedy="Do this")
    assert str(refusal) == f"version 7 of M is not {what} Production: a; b. Do this."
    assert refusal.decision is decision


def test_a_promotion_says_when_its_evaluation_was(bench: Bench) -> None:
    bench.promote("1", signing_key=KEY)
    tags = bench.client.get_model_version(NAME, "1").tags
    evaluation, promotion = (
        verify(SignedEvidence.from_json(tags[tag]), trusting(KEY))
        for tag in (TAG_EVIDENCE, TAG_PROMOTION_EVIDENCE)
    )
    assert tags[TAG_GATES_RUN] == evaluation.gates_run_id
    assert promotion.evaluated_at == evaluation.created_at < promotion.created_at
    bench.promote("2")
    bench.rollback(signing_key=KEY)
    order = bench.client.get_model_version(NAME, "1").tags[TAG_PROMOTION_EVIDENCE]
    assert verify(SignedEvidence.from_json(order), trusting(KEY)).evaluated_at is None


def test_the_ledger_may_be_older_than_the_store(tmp_path: Path) -> None:
    ledger = LocalLedger(f"sqlite:///{tmp_path}/new.db")
    MlflowClient(f"sqlite:///{tmp_path}/new.db").create_experiment("x")
    assert ledger.entries() == []


def drop_evidence(bench: Bench) -> None:
    bench.client.delete_model_version_tag(NAME, "1", TAG_EVIDENCE)


def evidence_of_another_version(bench: Bench) -> None:
    text = bench.client.get_model_version(NAME, "2").tags[TAG_EVIDENCE]
    bench.client.set_model_version_tag(NAME, "1", TAG_EVIDENCE, text)


def signed_by_a_stranger(bench: Bench) -> None:
    evaluate(bench.client, Ed25519PrivateKey.generate(), "1")


def changed_verdict(bench: Bench) -> None:
    evaluate(bench.client, KEY, "1", verdicts=("passed", "failed", "passed"))
    text = bench.client.get_model_version(NAME, "1").tags[TAG_EVIDENCE]
    forged = text.replace("failed", "passed")
    bench.client.set_model_version_tag(NAME, "1", TAG_EVIDENCE, forged)


def a_gate_failed(bench: Bench) -> None:
    evaluate(bench.client, KEY, "1", verdicts=("passed", "failed", "blocked"))


def encoder_without_its_gates(bench: Bench) -> None:
    evaluate(bench.client, KEY, "1", uses_encoder=True)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (drop_evidence, "carries no evidence"),
        (evidence_of_another_version, "about version 2"),
        (signed_by_a_stranger, "unknown key"),
        (changed_verdict, "changed after signing"),
        (Bench.change_files, "files were changed after the evaluation"),
        (a_gate_failed, "gate 1 is failed, not passed; gate 2 is blocked"),
        (encoder_without_its_gates, "gate 3 is absent, not passed; gate 4 is absent"),
    ],
)
def test_what_is_not_proven_is_refused_before_the_test_set_is_seen(
    bench: Bench, attack, reason: str
) -> None:
    attack(bench)
    with pytest.raises(PromotionDenied, match=reason) as caught:
        bench.promote("1")
    assert caught.value.exit_code == 1
    assert caught.value.decision.ledger_seq == 1
    assert bench.asked == []
    assert bench.events() == ["refusal"]
    assert bench.champion() is None


def test_the_promotion_gate_decides_last_and_every_look_counts(bench: Bench) -> None:
    with pytest.raises(PromotionDenied, match="promotion gate is inconclusive; the interval"):
        bench.promote("1", gate=FAILED)
    with pytest.raises(PromotionDenied, match="not finite"):
        bench.promote("1", gate=PASSED | {"figures": {"x": float("nan")}})
    with pytest.raises(PromotionDenied, match="promotion gate is absent"):
        bench.promote("1", gate={})
    assert len(bench.ledger.looks_at({"split_sha256": "5" * 64}, trusting(KEY))) == 3
    assert bench.champion() is None
    assert bench.promote("1").test_looks == 4


def test_a_dry_run_leaves_no_trace(bench: Bench) -> None:
    decision = bench.promote("1", dry_run=True)
    assert decision.allowed
    assert "not looked at" in decision.notes[-1]
    bench.change_files()
    with pytest.raises(PromotionDenied, match="changed"):
        bench.promote("1", dry_run=True)
    assert bench.asked == []
    assert bench.events() == []


def test_odd_requests(bench: Bench) -> None:
    with pytest.raises(PromotionRefused, match="does not exist"):
        bench.promote("9")
    with pytest.raises(PromotionRefused, match="does not exist"):
        bench.promote("1", name="Unknown")
    bench.promote("1")
    with pytest.raises(PromotionDenied, match="already holds Production"):
        bench.promote("1")
    bench.client.transition_model_version_stage(NAME, "2", "Production")
    with pytest.raises(PromotionDenied, match="names version 1, stage Production is held by 1, 2"):
        bench.promote("3")
    bench.rollback(to="1")
    assert bench.champion() == "1"


def test_an_unreachable_server_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="cannot get registered model") as caught:
        bench.promote("1", client=MlflowClient("http://127.0.0.1:9"))
    assert "\n" not in str(caught.value)


def test_a_plain_store_says_that_nothing_guards_it(bench: Bench) -> None:
    assert "`moola server`" in bench.promote("1").notes[-1]


def test_the_decision_is_written_for_people_and_machines(bench: Bench, tmp_path: Path) -> None:
    report = gate_report(bench.client, "2", verdicts=("passed", "passed", "passed", "failed"))
    first = bench.promote("1")
    assert "scored beside the class prior, as nothing is in Prod" in decision_record(first, report)
    decision = bench.promote("2")
    page = decision_record(decision, report)
    for text in (
        "# Production Model Decision Log",
        "was promoted to Production",
        "| gate 1: log_loss | 1.65 |",
        "| 0 g0 | ? | passed |  |",
        "| 3 g3 | ? | failed | too few windows |",
        f"| SHA-256 of the files | {report['candidate']['model_sha256']} |",
        "| replaces | version 1 |",
        "look number 2 at this test set",
        "Gate 3 is failed: too few windows.",
        "`moola rollback --to 1`",
    ):
        assert text in page
    path = tmp_path / "out" / "experiment_results.jsonl"
    append_result(path, decision, report)
    append_result(path, decision, report)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["version"] for line in lines] == ["2", "2"]
    assert (lines[0]["champion_before"], lines[0]["who"], lines[0]["test_looks"]) == ("1", "ann", 2)
    allowed = decision_record(bench.promote("3", dry_run=True), report)
    assert (
        "version 3 of EnhancedSimpleLSTM may be promoted as far as the gates go (dry run)."
        in allowed
    )


def test_a_move_under_way_is_not_disturbed(bench: Bench) -> None:
    lease = "2999-01-01T00:00:00+00:00"
    author = {"host": "elsewhere", "pid": 1, "thread": 1, "lease_until": lease}
    bench.ledger.signing(KEY).append(
        Draft(
            event="intent",
            who="zoe",
            name=NAME,
            reason="r",
            version_to="2",
            payload={"event": "promotion", "then": {}, **author},
        )
    )
    with pytest.raises(PromotionDenied, match="is under way"):
        bench.promote("1")


def test_of_two_who_checked_against_one_champion_only_one_wins(bench: Bench) -> None:
    def slow_gate(_champion: str | None) -> dict:
        bench.promote("2")  # somebody else is faster
        return dict(PASSED)

    with pytest.raises(PromotionDenied, match="moved by somebody else"):
        bench.promote("1", promotion_gate=slow_gate)
    assert bench.champion() == "2"
