"""Promotion on a real store without a server: checks, order, rollback, and crashes at any point."""

from __future__ import annotations

import json
import os
import random
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient
from promotion_kit import (
    FAILED,
    NAME,
    PASSED,
    copied_client,
    evaluate,
    forget_connections,
    gate_report,
    killed,
    make_version,
    template_store,
    trusting,
)

from moola.config.promotion import TAG_EVIDENCE, PromotionPolicy
from moola.errors import PromotionRefused, TrackingError
from moola.promotion.audit import audit_registry
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.key_changes import note_key_change, note_key_changes
from moola.promotion.keys import TrustedKeys, key_id
from moola.promotion.ledger import Draft, Ledger, open_intent
from moola.promotion.promote import promote
from moola.promotion.record import append_result, decision_record
from moola.promotion.recovery import recover
from moola.promotion.rollback import history, rollback, set_challenger
from moola.promotion.state import read_state

KEY = Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template_store(tmp_path_factory.mktemp("template"))


class Bench:
    """A store, its ledger, and three evaluated versions."""

    def __init__(self, template: Path, folder: Path):
        self.folder = folder
        self.client = copied_client(template, folder)
        self.ledger = Ledger(f"sqlite:///{folder}/mlflow.db")
        for number in range(3):
            make_version(self.client, folder, weights=f"w{number}")
            evaluate(self.client, KEY, str(number + 1))

    def promote(self, version: str, gate=PASSED, **changes) -> Decision:
        self.asked: list[str | None] = []

        def promotion_gate(champion: str | None) -> dict:
            self.asked.append(champion)
            return dict(gate)

        arguments = {
            "client": self.client,
            "ledger": self.ledger,
            "name": NAME,
            "version": version,
            "trusted_keys": trusting(KEY),
            "policy": PromotionPolicy(),
            "promotion_gate": promotion_gate,
            "who": "ann",
            **changes,
        }
        return promote(**arguments)

    def rollback(self, **changes) -> Decision:
        arguments = {
            "client": self.client,
            "ledger": self.ledger,
            "name": NAME,
            "trusted_keys": trusting(KEY),
            "who": "bob",
            "reason": "drift",
            **changes,
        }
        return rollback(**arguments)

    def stages(self) -> dict[str, str]:
        versions = self.client.search_model_versions(f"name='{NAME}'")
        return {str(v.version): v.current_stage for v in versions}

    def champion(self) -> str | None:
        state = read_state(self.client, NAME)
        assert state.agrees, state
        assert state.champion == self.ledger.champion_at(NAME)
        return state.champion

    def events(self) -> list[str]:
        return [entry.event for entry in self.ledger.entries(NAME)]


@pytest.fixture
def bench(template: Path, tmp_path: Path) -> Bench:
    return Bench(template, tmp_path)


def test_alias_and_stage_move_together_and_the_old_version_is_archived(bench: Bench) -> None:
    first = bench.promote("1")
    assert (first.allowed, first.champion_before, first.test_looks) == (True, None, 1)
    assert bench.champion() == "1"
    second = bench.promote("2", signing_key=KEY)
    assert bench.asked == ["1"]
    assert (second.champion_before, second.test_looks) == ("1", 2)
    assert bench.champion() == "2"
    assert bench.stages() == {"1": "Archived", "2": "Production", "3": "None"}
    assert bench.events() == ["test_look", "intent", "promotion"] * 2
    entry = bench.ledger.entries(NAME)[-1]
    assert (entry.seq, entry.evidence_digest) == (second.ledger_seq, second.evidence_digest)
    bench.ledger.verify_chain()


def test_the_ledger_may_be_older_than_the_store(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/new.db")
    MlflowClient(f"sqlite:///{tmp_path}/new.db").create_experiment("x")
    assert ledger.entries() == []


def change_files(bench: Bench) -> None:
    source = bench.client.get_model_version_download_uri(NAME, "1").removeprefix("file://")
    (Path(source) / "weights.safetensors").write_text("better weights")


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
        (change_files, "files were changed after the evaluation"),
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
    assert bench.ledger.count_test_looks("5" * 64) == 3
    assert bench.champion() is None
    assert bench.promote("1").test_looks == 4


def test_a_dry_run_leaves_no_trace(bench: Bench) -> None:
    decision = bench.promote("1", dry_run=True)
    assert decision.allowed
    assert "not looked at" in decision.notes[-1]
    change_files(bench)
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


def test_rollback_goes_back_step_by_step_and_verifies_again(bench: Bench) -> None:
    for version in ("1", "2", "3"):
        bench.promote(version)
    assert bench.rollback().version == "2"
    assert bench.champion() == "2"
    change_files(bench)
    with pytest.raises(PromotionDenied, match="changed since it was promoted"):
        bench.rollback()
    assert bench.rollback(to="3").champion_before == "2"
    assert bench.champion() == "3"
    assert bench.stages() == {"1": "Archived", "2": "Archived", "3": "Production"}
    with pytest.raises(PromotionDenied, match="unknown key"):
        bench.rollback(to="2", trusted_keys=trusting(Ed25519PrivateKey.generate()))
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
        set_challenger(
            client=bench.client, ledger=bench.ledger, name=NAME, version=version, who="ann"
        )
    assert bench.stages() == {"1": "Production", "2": "Archived", "3": "Staging"}
    assert str(bench.client.get_model_version_by_alias(NAME, "challenger").version) == "3"
    with pytest.raises(PromotionDenied, match="it holds Production"):
        set_challenger(client=bench.client, ledger=bench.ledger, name=NAME, version="1", who="a")


def test_history_tells_who_was_in_production(bench: Bench) -> None:
    bench.promote("1")
    between = datetime.now(UTC)
    bench.promote("2")
    assert history(bench.ledger, NAME, between).champion == "1"
    now = history(bench.ledger, NAME)
    assert (now.champion, len(now.entries)) == ("2", 6)


def test_an_audit_names_what_is_wrong(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    note_key_change(bench.ledger, who="ann", key_id="k", change="trusted")

    def audit(keys: TrustedKeys | None = None) -> tuple[str, ...]:
        return audit_registry(bench.client, bench.ledger, NAME, keys or trusting(KEY)).findings

    assert audit() == ()
    assert all("unknown key" in finding for finding in audit(trusting()))
    change_files(bench)
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


def test_a_plain_store_says_that_nothing_guards_it(bench: Bench) -> None:
    assert "`moola server`" in bench.promote("1").notes[-1]


def test_the_decision_is_written_for_people_and_machines(bench: Bench, tmp_path: Path) -> None:
    report = gate_report(bench.client, "2", verdicts=("passed", "passed", "passed", "failed"))
    bench.promote("1")
    decision = bench.promote("2")
    page = decision_record(decision, report)
    for text in (
        "# Production Model Decision Log",
        "was promoted to Production",
        "| gate 1: log_loss | 1.65 |",
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


# Crashes. After each, the next call must find registry and ledger in agreement.


class Crash(BaseException):
    """Stands for the process ending here."""


def crash_at(point: int, bench: Bench, how) -> tuple[MlflowClient, Ledger]:
    """Return a client and a ledger that call `how` around the `point`-th write of a move."""
    seen = iter(range(100))

    def write(call):
        if next(seen) == point:
            how()
        result = call()
        if next(seen) == point:
            how()
        return result

    class CrashingClient(MlflowClient):
        def transition_model_version_stage(self, *args, **kwargs):
            return write(lambda: MlflowClient.transition_model_version_stage(self, *args, **kwargs))

        def set_registered_model_alias(self, *args, **kwargs):
            return write(lambda: MlflowClient.set_registered_model_alias(self, *args, **kwargs))

    class CrashingLedger(Ledger):
        def append(self, draft: Draft, **kwargs):
            if draft.event != "intent":
                return Ledger.append(self, draft, **kwargs)
            return write(lambda: Ledger.append(self, draft, **kwargs))

    return CrashingClient(bench.client.tracking_uri), CrashingLedger(
        f"sqlite:///{bench.folder}/mlflow.db"
    )


POINTS = range(6)  # before and after: intent, stage, alias


def closed(bench: Bench) -> bool:
    return open_intent(bench.ledger.entries(NAME)) is None


@pytest.mark.parametrize("point", POINTS)
def test_an_exception_between_any_two_steps_is_made_good(bench: Bench, point: int) -> None:
    def crash() -> None:
        raise Crash

    bench.promote("1")
    client, ledger = crash_at(point, bench, crash)
    with pytest.raises(Crash):
        bench.promote("2", client=client, ledger=ledger)
    recover(bench.client, bench.ledger, NAME)
    assert closed(bench)
    assert bench.champion() == ("1" if point == 0 else "2")
    bench.promote("3")
    assert bench.champion() == "3"
    bench.ledger.verify_chain()


def promote_and_kill_at(point: int, bench: Bench) -> None:
    forget_connections(bench.folder)
    client, ledger = crash_at(point, bench, lambda: os.kill(os.getpid(), signal.SIGKILL))
    bench.promote("2", client=client, ledger=ledger)


@pytest.mark.parametrize("point", POINTS)
def test_kill_9_between_any_two_steps_is_made_good(bench: Bench, point: int) -> None:
    bench.promote("1")
    assert killed(promote_and_kill_at, point, bench) == -signal.SIGKILL
    decision = bench.promote("3")
    assert closed(bench)
    assert bench.champion() == "3"
    assert decision.champion_before == ("1" if point == 0 else "2")
    bench.ledger.verify_chain()


def promote_and_kill_after(seconds: float, bench: Bench) -> None:
    forget_connections(bench.folder)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, like kill -9
    signal.setitimer(signal.ITIMER_REAL, seconds)
    ledger = Ledger(f"sqlite:///{bench.folder}/mlflow.db")
    bench.promote("2", client=MlflowClient(bench.client.tracking_uri), ledger=ledger)


def test_a_kill_at_random_moments_is_made_good(bench: Bench) -> None:
    moments = random.Random(9)
    bench.promote("1")
    kills = 0
    for _ in range(12):
        kills += killed(promote_and_kill_after, moments.uniform(0.005, 0.25), bench) != 0
        recover(bench.client, bench.ledger, NAME)
        assert closed(bench)
        if bench.champion() == "2":
            bench.rollback(to="1")
    assert kills
    bench.ledger.verify_chain()


def test_an_interrupted_move_whose_version_vanished_is_undone(bench: Bench) -> None:
    def crash() -> None:
        raise Crash

    bench.promote("1")
    client, ledger = crash_at(1, bench, crash)
    with pytest.raises(Crash):
        bench.promote("2", client=client, ledger=ledger)
    bench.client.delete_model_version(NAME, "2")
    entry = recover(bench.client, bench.ledger, NAME)
    assert entry is not None
    assert entry.event == "abandoned"
    assert bench.champion() == "1"


def test_a_move_under_way_is_not_disturbed(bench: Bench) -> None:
    lease = "2999-01-01T00:00:00+00:00"
    author = {"host": "elsewhere", "pid": 1, "thread": 1, "lease_until": lease}
    bench.ledger.append(
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
