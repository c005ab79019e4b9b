"""The look at the locked test windows, prepared against the signed evidence, then taken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from numpy.typing import NDArray

from moola.config import names
from moola.config.evaluation import Thresholds
from moola.data.labels import class_names
from moola.data.store.data_store import DataContainer, DataStore, OnProof
from moola.errors import MoolaError, PromotionRefused, one_line
from moola.evaluation import gates
from moola.evaluation.calibration import calibration_bins
from moola.evaluation.gates.report import report
from moola.hashing import sha256_json
from moola.judging.calibrate import overlap_of
from moola.judging.candidate import Candidate, require_answers
from moola.judging.seen import bars_seen, sketch_of
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import GateDict, Look
from moola.promotion.evidence.attestation import Evidence
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.content import Move
from moola.promotion.versions.classes import require_classes
from moola.promotion.versions.fetched import fetched
from moola.promotion.versions.inspection import inspect, require_distribution
from moola.serving.pyfunc import checkpoint_of
from moola.serving.scoring import WindowScorer
from moola.tracking.lineage import part_input
from moola.tracking.mlflow_run import TrackedRun
from moola.training.crossval import class_frequencies

MIN_FRESH = 20  # fewer non-overlapping windows give no verdict; overlapping ones need more
_EVALUATE = "Run `moola evaluate` on this version again"


class Examiner:
    """Prepares the look at the test windows for `moola.promotion.promote`.

    Everything that could refuse it is checked first, against the signed evidence, because a look
    counts once it is taken. Data, audit and calibration are logged into the run.
    """

    def __init__(
        self,
        client: MlflowClient,
        ledger: Ledger,
        candidate: Candidate,
        *,
        data_root: Path | str,
        limits: Thresholds,
        keys: TrustedKeys,
        run: TrackedRun,
        fresh_only: bool = False,
    ):
        self.client = client
        self.ledger = ledger
        self.keys = keys
        self.candidate = candidate
        self.data_root = data_root
        self.limits = limits
        self.run = run
        self.fresh_only = fresh_only

    def __call__(self, evidence: Evidence, champion: str | None) -> Look:
        """Check gates, thresholds, data and the files of both versions; return the look."""
        _require_same_candidate(evidence, self.candidate)
        verdicts = {int(g): v for g, v in evidence.verdicts.items() if g.isdigit()}
        uses = {"uses_encoder": evidence.uses_encoder, "uses_synthetic": evidence.uses_synthetic}
        if missing := gates.promotion_prerequisites(verdicts, **uses):
            raise PromotionRefused("; ".join(missing), remedy=_EVALUATE)
        _require_thresholds(evidence, self.limits)
        signed_report(self.client, evidence)  # the record of the decision needs it
        data = evaluated_data(evidence, self.data_root, on_proof=self.run.proofs.log)
        self.run.log_inputs([part_input(data, "test", "test")])
        require_answers(self.client, self.candidate, data.labeled, data.split)
        candidate = load_checked(
            self.client, evidence.name, evidence.version, evidence.model_sha256
        )
        opponent = None
        if champion is not None:
            promoted = promoted_digest(self.ledger, evidence.name, champion, self.keys)
            opponent = load_checked(self.client, evidence.name, champion, promoted, beside=data)
        rows = np.arange(len(data.y_test))
        market = sketch_of(data.labeled, self.data_root)
        windows = bars_seen(data.labeled, data.split.test, market)
        if self.fresh_only:
            rows = fresh_rows(data, self.ledger.looks_at(windows, self.keys))
            windows = bars_seen(data.labeled, data.split.test[rows], market)

        def take(num_looks: int) -> GateDict:
            return self._verdict(
                data, candidate, opponent, champion, verdicts,
                rows=rows, num_looks=num_looks, **uses,
            )  # fmt: skip

        return Look(windows=windows, take=take)

    def _verdict(
        self,
        data: DataContainer,
        candidate: WindowScorer,
        opponent: WindowScorer | None,
        champion: str | None,
        verdicts: Mapping[int, str],
        *,
        rows: NDArray[np.int64],
        num_looks: int,
        **uses: bool,
    ) -> GateDict:
        """Score both versions on the locked test windows; every look ends in a verdict."""
        X, y = data.X_test[rows], data.y_test[rows]
        shape = (len(y), data.labeled.num_classes)
        prior = np.tile(class_frequencies(data.y_train, shape[1]), (shape[0], 1))
        try:
            answers = candidate.probabilities(X)
            others = prior if opponent is None else opponent.probabilities(X)
            for proba in (answers, others):
                require_distribution(proba, shape)
        except Exception as error:  # untrusted weights; the look is already in the ledger
            why = f"the locked test windows cannot be scored: {one_line(error)}"
            return report("promotion", "failed", [why]).to_dict()
        self.run.proofs.log("calibration", calibration_bins(y, answers).to_dict())
        return gates.gate_promotion(
            y,
            answers,
            others,
            champion_name=gates.CLASS_PRIOR if champion is None else f"version {champion}",
            gate_verdicts=verdicts,
            **uses,
            context=gates.GateContext(
                **overlap_of(data.labeled.times, data.split.test[rows]), thresholds=self.limits
            ),
            prior=prior,
            num_looks=num_looks,
        ).to_dict()


def load_checked(
    client: MlflowClient,
    name: str,
    version: str,
    sha256: str | None,
    *,
    beside: DataContainer | None = None,
) -> WindowScorer:
    """Build a version's model on the CPU from one copy of its files, as `moola serve` does.

    The copy is first inspected in a separate process with limits. The weights are loaded into a
    class of Moola's own; no code that came with the version is run.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.
    version
        Its version.
    sha256
        The digest its files must have; None if no evidence states one.
    beside
        The data for a comparison with another version: the classes must be those of the set, and
        the version must predict the validation windows. None: not checked.

    Raises
    ------
    PromotionRefused
        If the files have another digest, are not exactly Moola's packaging, or do not predict.
    TrackingError
        If the server or store cannot be reached.
    """
    try:
        with fetched(client, name, version) as folder:
            windows = None if beside is None else (beside.X_val, beside.y_val)
            inspection = inspect(folder, windows=windows, calibrated_on_them=False)
            if beside is not None:
                wanted = class_names(beside.labeled.recipe)
                require_classes(inspection.class_names, wanted, beside.labeled.name)
            scorer = WindowScorer.load(checkpoint_of(folder), version=version)
    except MoolaError as error:
        raise PromotionRefused(
            f"version {version} cannot be scored ({error.problem})",
            limit=error.limit or "a version that Moola wrote",
            remedy="A champion of another make has to be taken out of Production first",
        ) from None
    if sha256 not in (None, inspection.sha256):
        raise PromotionRefused(
            f"the files of version {version} have SHA-256 {inspection.sha256[:12]}",
            limit=str(sha256)[:12],
            remedy="Promote only files that were evaluated; evaluate this version again",
        )
    return scorer


def promoted_digest(ledger: Ledger, name: str, version: str, keys: TrustedKeys) -> str | None:
    """Return the digest of a version at its last promotion; None if it was never promoted."""
    digests = [
        entry.content.model_sha256
        for entry in ledger.moves(name, keys=keys)
        if entry.event == "promotion"
        and entry.version_to == version
        and isinstance(entry.content, Move)
    ]
    return digests[-1] if digests else None


def signed_report(client: MlflowClient, evidence: Evidence) -> Mapping[str, Any]:
    """Read the gate report whose digest the evidence signs.

    Parameters
    ----------
    client
        Client of the tracking store.
    evidence
        Verified evidence of the evaluation.

    Raises
    ------
    PromotionRefused
        If it is absent or was changed after it was signed.
    TrackingError
        If the store cannot be reached.
    """
    what = f"the gate report of run {evidence.gates_run_id}"
    with mlflow_call(what):
        folder = client.get_run(evidence.gates_run_id).info.artifact_uri
        text = mlflow.artifacts.load_text(f"{folder}/{names.ARTIFACT_GATE_REPORT}")
    try:
        report: Mapping[str, Any] = json.loads(text)
        digest = sha256_json(report)
    except (ValueError, RecursionError):
        digest = "not JSON"
    if digest != evidence.report_sha256:
        raise PromotionRefused(
            f"{what} was changed after it was signed: SHA-256 {digest[:12]}",
            limit=evidence.report_sha256[:12],
            remedy=_EVALUATE,
        )
    return report


def evaluated_data(
    evidence: Evidence,
    data_root: Path | str,
    *,
    on_proof: OnProof = lambda proof, content: None,
) -> DataContainer:
    """Load the labelled set and split that an evaluation was made on.

    Parameters
    ----------
    evidence
        Verified evidence of the evaluation.
    data_root
        Root of the data store.
    on_proof
        Called with the split and the audit, even if it is refused.

    Returns
    -------
    DataContainer
        The audited set under the split, test windows included.

    Raises
    ------
    PromotionRefused
        If the set or split of that name has another digest here, or the evidence names none.
    MoolaError
        As `DataStore.load_labeled`.
    """
    named = {key: str(evidence.data.get(key) or "") for key in ("labeled", "split")}
    for key, name in named.items():
        if not name:
            raise PromotionRefused(f"the evidence names no {key}", remedy=_EVALUATE)
    data = DataStore(data_root).load_labeled(named["labeled"], named["split"], on_proof=on_proof)
    for key, digest in (("labeled", data.labeled.sha256), ("split", data.split.digest())):
        stated = str(evidence.data.get(f"{key}_sha256"))
        if digest != stated:
            raise PromotionRefused(
                f"{named[key]} below {data_root} has SHA-256 {digest[:12]}",
                limit=f"{stated[:12]}, on which the gates were judged",
                remedy="Give the --data-root of the evaluation, or evaluate the version again",
            )
    return data


def fresh_rows(data: DataContainer, looks: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    """Return the test windows that share no bar with earlier looks.

    Raises
    ------
    PromotionRefused
        If there are fewer than `MIN_FRESH`, too few for any gate.
    """
    clock = data.labeled.clock[data.split.test]
    fresh = np.ones(len(clock), dtype=bool)
    for look in looks:
        try:
            first, last = (np.datetime64(str(look[k])) for k in ("first_bar", "last_bar"))
        except (KeyError, ValueError):
            fresh[:] = False  # a look at unknown bars may have seen all of them
            break
        fresh &= (clock[:, 2] < first) | (clock[:, 0] > last)
    if fresh.sum() < MIN_FRESH:
        raise PromotionRefused(
            f"{fresh.sum()} of {len(fresh)} test windows were not looked at before",
            limit=f"at least {MIN_FRESH} with --fresh-windows-only",
            remedy="Ingest newer bars, build a set and a split of them, and evaluate on these",
        )
    return np.flatnonzero(fresh)


def _require_same_candidate(evidence: Evidence, candidate: Candidate) -> None:
    """Refuse unless the version's files agree with the evidence about its training."""
    compared = {
        "SHA-256": (evidence.model_sha256, candidate.model_sha256),
        "encoder": (evidence.uses_encoder, candidate.uses_encoder),
        "augmentation": (evidence.uses_synthetic, candidate.config.augments),
        "labelled set": (evidence.data.get("labeled"), candidate.config.labeled),
    }
    for what, (stated, actual) in compared.items():
        if stated != actual:
            raise PromotionRefused(
                f"{what} of version {candidate.version} is {str(actual)[:40]} by its own files",
                limit=f"{str(stated)[:40]}, as the evidence says",
                remedy=_EVALUATE,
            )


def _require_thresholds(evidence: Evidence, limits: Thresholds) -> None:
    if limits.digest() != evidence.thresholds_sha256:
        raise PromotionRefused(
            f"the promotion gate would judge by thresholds {limits.digest()[:12]}",
            limit=f"{evidence.thresholds_sha256[:12]}, by which the other gates were judged",
            remedy="Give the --thresholds of the evaluation, or evaluate the version again",
        )
