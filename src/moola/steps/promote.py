"""Ask for Production: the locked test windows are looked at here, once, and the look is counted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from moola.config import names
from moola.config.evaluation import Thresholds
from moola.errors import MoolaError
from moola.hashing import atomic_file
from moola.judging.candidate import Candidate, find_candidate, find_version, refusals_noted
from moola.judging.examine import Examiner, signed_report
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence.attestation import load_evidence, verify
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.production import Production
from moola.promotion.record import append_result, decision_record
from moola.tracking.mlflow_run import TrackedRun, tracked_run
from moola.tracking.store import connect

DECISIONS = Path("artifacts/decisions")


@dataclass(frozen=True, kw_only=True)
class PromotionSummary:
    """A promotion that was carried out (or, dry, would not be refused so far)."""

    run_id: str
    decision: Decision
    record: Path | None


def promote(
    *,
    version: str | None = None,
    name: str = names.REGISTERED_MODEL,
    ledger_url: str | None = None,
    data_root: Path | str = "data",
    project: Path = Path(),
    decisions: Path = DECISIONS,
    thresholds: Thresholds | None = None,
    who: str | None = None,
    dry_run: bool = False,
    fresh_windows_only: bool = False,
) -> PromotionSummary:
    """Move Production to a version if its signed evidence and the locked test windows allow it.

    Parameters
    ----------
    version
        Version of `name`; None takes the newest.
    name
        Registered model.
    ledger_url
        Database or guarded server that keeps the ledger; None takes the registry's own.
    data_root
        Root of the data store.
    project
        Folder that holds ``.moola``: policy, trusted keys, signing key.
    decisions
        Folder of the decision records; a refusal is recorded as well.
    thresholds
        Limits of the promotion gate, the same as of the evaluation; None takes those that come with
        Moola.
    who
        Who asks; None: the user of this process.
    dry_run
        Check everything but the locked test windows; change nothing.
    fresh_windows_only
        Judge by those test windows alone that nobody has looked at, under whatever name; the
        policy may ask for it as well.

    Returns
    -------
    PromotionSummary
        The decision and where its record is.

    Raises
    ------
    PromotionRefused
        With every reason; the ledger holds the refusal.
    """
    client = connect()
    number = find_version(client, name, version)
    with nullcontext() if dry_run else refusals_noted(name, number, ledger_url):
        candidate = find_candidate(client, name, number)
    with tracked_run(
        step="promote",
        experiment=names.EXPERIMENT_PROMOTION,
        name=f"promote-{name}-v{candidate.version}",
        params={"candidate": f"{name}/{candidate.version}", "dry_run": dry_run},
        without=_without(candidate.run_id, dry_run=dry_run),
    ) as run:
        production = Production.of_project(
            client, name, ledger_url=ledger_url, project=project, who=who
        )
        examiner = Examiner(
            client, production.ledger, candidate, data_root=data_root,
            limits=thresholds or Thresholds.load(), keys=production.keys, run=run,
            fresh_only=fresh_windows_only or production.policy.fresh_windows_only,
        )  # fmt: skip
        try:
            decision = production.promote(candidate.version, examiner, dry_run=dry_run)
        except PromotionDenied as refusal:
            report = _vouched_report(client, candidate, production.keys)
            _record(run, refusal.decision, report, decisions)
            raise
        report = _vouched_report(client, candidate, production.keys)
        record = _record(run, decision, report, decisions)
    return PromotionSummary(run_id=run.run_id, decision=decision, record=record)


def _without(trained_by: str, *, dry_run: bool) -> dict[str, str]:
    """Return which proofs a promotion does not have, and why; `trained_by` is a run."""
    reasons = dict.fromkeys(
        ("load_report", "schedule"),
        f"nothing is trained here; the version was trained by run {trained_by}",
    )
    if dry_run:
        reasons["calibration"] = "a dry run does not look at the locked test windows"
    return reasons


def _vouched_report(
    client: MlflowClient, candidate: Candidate, trusted: TrustedKeys
) -> Mapping[str, Any] | None:
    """Return the gate report that signed evidence vouches for; None where there is none."""
    try:
        signed = load_evidence(client, candidate.name, candidate.version)
        return signed_report(client, verify(signed, trusted))
    except MoolaError:  # the ledger holds the decision either way
        return None


def _record(
    run: TrackedRun,
    decision: Decision,
    gate_report: Mapping[str, Any] | None,
    folder: Path,
) -> Path | None:
    """Write the decision record beside the runs and into the run.

    Returns None without a gate report that was signed, and for a dry run.
    """
    if gate_report is None or decision.dry_run:
        return None
    page = decision_record(decision, gate_report)
    stamp = decision.decided_at[:19].replace(":", "")
    path = folder / f"{stamp}-{decision.name}-v{decision.version}.md"
    with atomic_file(path) as temporary:
        temporary.write_text(page)
    append_result(folder / "experiment_results.jsonl", decision, gate_report)
    run.log_bytes(names.ARTIFACT_DECISION, page.encode())
    verdict = "promoted" if decision.allowed else "refused"
    run.set_tags({names.TAG_VERDICT: verdict, names.TAG_NOTE: page})
    if decision.promotion_gate is not None:
        run.log_json(names.ARTIFACT_GATE_REPORT, decision.promotion_gate)
    return path
