"""Ask for Production: the locked test windows are looked at here, once, and the look is counted."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from moola.config import names
from moola.config.evaluation import Thresholds
from moola.config.promotion import TRUSTED_FOLDER, PromotionPolicy
from moola.data.registry import DataRegistry
from moola.evaluation.gates import CLASS_PRIOR, gate_promotion
from moola.hashing import atomic_file
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.keys import load_trusted_keys
from moola.promotion.ledger import Ledger
from moola.promotion.promote import promote as ask_registry
from moola.promotion.record import append_result, decision_record
from moola.steps.calibrate import block_length_of
from moola.steps.candidate import Candidate, find_candidate
from moola.steps.registry import ledger_of, signing_key
from moola.tracking.mlflow_run import TrackedRun, tracked_run
from moola.tracking.store import connect
from moola.training.crossval import class_frequencies

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
        Root of the data registry.
    project
        Folder that holds ``.moola``: policy, trusted keys, signing key.
    decisions
        Folder of the decision records; a refusal is recorded as well.
    thresholds
        Limits of the promotion gate; None takes those that come with Moola.
    who
        Who asks; None: the user of this process.
    dry_run
        Check everything but the locked test windows; change nothing.

    Returns
    -------
    PromotionSummary
        The decision and where its record stands.

    Raises
    ------
    PromotionRefused
        With every reason; the refusal stands in the ledger.
    """
    client = connect()
    candidate = find_candidate(client, name, version)
    with tracked_run(
        step="promote",
        experiment=names.EXPERIMENT_PROMOTION,
        name=f"promote-{name}-v{candidate.version}",
        params={"candidate": f"{name}/{candidate.version}", "dry_run": dry_run},
    ) as run:
        ledger = ledger_of(ledger_url)
        examiner = _Examiner(client, candidate, ledger, data_root, thresholds or Thresholds.load())
        try:
            decision = ask_registry(
                client=client,
                ledger=ledger,
                name=name,
                version=candidate.version,
                trusted_keys=load_trusted_keys(project / TRUSTED_FOLDER),
                policy=PromotionPolicy.in_force(project),
                promotion_gate=examiner.judge,
                who=who or getpass.getuser(),
                signing_key=signing_key(project),
                dry_run=dry_run,
            )
        except PromotionDenied as refusal:
            _record(run, refusal.decision, examiner.gate_report(), decisions)
            raise
        record = _record(run, decision, examiner.gate_report(), decisions)
    return PromotionSummary(run_id=run.run_id, decision=decision, record=record)


class _Examiner:
    """Scores candidate and champion on the locked test windows, when asked and not before."""

    def __init__(
        self,
        client: MlflowClient,
        candidate: Candidate,
        ledger: Ledger,
        data_root: Path | str,
        limits: Thresholds,
    ):
        self.client = client
        self.candidate = candidate
        self.ledger = ledger
        self.data_root = data_root
        self.limits = limits

    def gate_report(self) -> Mapping[str, Any] | None:
        """Return the candidate's gate report, None where it was never evaluated."""
        tags = self.client.get_model_version(self.candidate.name, self.candidate.version).tags
        run_id = tags.get(names.TAG_GATES_RUN)
        if run_id is None:
            return None
        try:
            folder = self.client.get_run(run_id).info.artifact_uri
            text = mlflow.artifacts.load_text(f"{folder}/{names.ARTIFACT_GATE_REPORT}")
        except MlflowException:
            return None
        report: Mapping[str, Any] = json.loads(text)
        return report

    def judge(self, champion: str | None) -> Mapping[str, Any]:
        """Answer the promotion gate against a champion version, or the class prior without one."""
        config = self.candidate.config
        data = DataRegistry(self.data_root).load_labeled(config.labeled, config.split)
        report = self.gate_report() or {"gates": [], "data": {}}
        prior = np.tile(
            class_frequencies(data.y_train, data.labeled.num_classes), (len(data.y_test), 1)
        )
        verdict = gate_promotion(
            data.y_test,
            self._score(self.candidate.version, data.X_test),
            prior if champion is None else self._score(champion, data.X_test),
            champion_name=CLASS_PRIOR if champion is None else f"version {champion}",
            gate_verdicts={g["gate"]: g["verdict"] for g in report["gates"]},
            uses_encoder=self.candidate.uses_encoder,
            uses_synthetic=config.augments,
            block_length=block_length_of(data.metadata, len(data.y_test)),
            prior=prior,
            num_looks=max(1, self.ledger.count_test_looks(data.split.digest())),
            thresholds=self.limits,
        )
        return verdict.to_dict()

    def _score(self, version: str, X: NDArray[np.float32]) -> NDArray[np.float64]:
        model = mlflow.pyfunc.load_model(f"models:/{self.candidate.name}/{version}")
        answer = model.predict(X)
        columns = [c for c in answer.columns if c.startswith("probability_")]
        return np.asarray(answer[columns].to_numpy(dtype=np.float64))


def _record(
    run: TrackedRun,
    decision: Decision,
    gate_report: Mapping[str, Any] | None,
    folder: Path,
) -> Path | None:
    """Write the decision record beside the runs and into the run; None without a gate report."""
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
