"""The gates of one candidate: what each needs is made when it is asked for, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.data.registry import DataRegistry, WindowSet
from moola.data.splits import Split, WalkForward
from moola.errors import DataError
from moola.evaluation import gates as rules
from moola.evaluation.gates import GateReport
from moola.models.checkpoint import read_config
from moola.pretraining.masked_lstm_pretrain import split_by_time
from moola.pretraining.quality import encoder_evidence
from moola.steps.calibrate import block_length_of
from moola.steps.candidate import Candidate
from moola.steps.progress import Progress
from moola.training.crossval import Trainee, WalkForwardPredictions, walk_forward_predictions
from moola.training.finetune import encoder_claim
from moola.training.launchers import Launcher

CONTROLS = ("minirocket", "logreg")


class Judge:
    """Everything the gates of one candidate are judged by; predictions are made once."""

    def __init__(
        self,
        *,
        candidate: Candidate,
        registry: DataRegistry,
        folds: str | None,
        config: EvaluateConfig,
        limits: Thresholds,
        device_asked: str,
        device: str,
        cache: Path,
        launcher: Launcher,
        progress: Progress,
    ):
        self.candidate = candidate
        self.registry = registry
        self.config = config
        self.limits = limits
        self.device_asked, self.device = device_asked, device
        self.cache = cache
        self.launcher = launcher
        self.progress = progress
        self.labeled: WindowSet = registry.load_set(candidate.config.labeled)
        self.split: Split = registry.load_split(candidate.config.split)
        self.folds: WalkForward = find_folds(registry, self.labeled.name, folds)
        self.block_length = block_length_of(
            self.labeled.meta, sum(len(f.val) for f in self.folds.folds)
        )
        self._predictions: dict[str, WalkForwardPredictions] = {}

    @property
    def uses_encoder(self) -> bool:
        """Whether the candidate started from a pretrained encoder."""
        return self.candidate.config.pretrained_encoder is not None

    def predictions(self, model: str) -> WalkForwardPredictions:
        """Return walk-forward predictions of ``scratch``, ``transfer`` or a control."""
        if model not in self._predictions:
            base = self.candidate.config
            if model != "transfer":
                base = replace(base, pretrained_encoder=None)
            seeds = self.config.seeds
            if model in CONTROLS:
                base, seeds = replace(base, model=model), (self.config.seeds[0],)
            self._predictions |= walk_forward_predictions(
                {model: Trainee(config=base, seeds=seeds)},
                self.labeled,
                self.folds,
                device=self.device,
                cache=self.cache,
                launcher=self.launcher,
                on_done=lambda name, *counts: self.progress(f"walk-forward: {name}", *counts),
            )
        return self._predictions[model]

    def candidate_predictions(self) -> WalkForwardPredictions:
        """Return the candidate's own walk-forward predictions."""
        return self.predictions("transfer" if self.uses_encoder else "scratch")

    def predictions_made(self) -> dict[str, NDArray[np.float64]]:
        """Return the probabilities every gate so far was judged by, the candidate's first."""
        own = "transfer" if self.uses_encoder else "scratch"
        ordered = {own: self.candidate_predictions(), **self._predictions}
        return {name: found.proba for name, found in ordered.items()}

    def reports(self) -> tuple[GateReport, ...]:
        """Run the gates in order; what a verdict blocks is not run."""
        found: list[GateReport] = []
        applicable = (0, 1, 2, 3, 4) if self.uses_encoder else (0, 1, 2)
        for gate in applicable:
            verdicts = {r.gate: r.verdict for r in found}
            reason = rules.blocking_reason(gate, verdicts)
            run = (self._gate_0, self._gate_1, self._gate_2, self._gate_3, self._gate_4)[gate]
            found.append(rules.blocked(gate, reason) if reason else run())
            self.progress("gates", len(found), len(applicable), f"gate {gate} {found[-1].verdict}")
        return rules.run_order(found)

    def _gate_0(self) -> GateReport:
        encoder = self.candidate.config.pretrained_encoder
        claim = encoder_claim(encoder) if encoder else None
        checks: list[dict[str, Any]] = []
        for split in (self.split, *self.folds.folds):
            audit = self.registry.audit(self.labeled, split, corpus=claim).to_dict()
            checks += [{**c, "name": f"{split.name}: {c['name']}"} for c in audit["checks"]]
        audit = {"passed": all(c["passed"] for c in checks), "checks": checks}
        return rules.gate_0_data(
            audit=audit,
            device_asked=self.device_asked,
            device_used=self.device,
            thresholds=self.limits,
        )

    def _gate_1(self) -> GateReport:
        scratch = self.predictions("scratch")
        return rules.gate_1_baseline(
            scratch.y,
            scratch.proba,
            scratch.prior,
            block_length=self.block_length,
            thresholds=self.limits,
        )

    def _gate_2(self) -> GateReport:
        scratch = self.predictions("scratch")
        return rules.gate_2_control(
            scratch.y,
            scratch.proba,
            {name: self.predictions(name).proba for name in CONTROLS},
            block_length=self.block_length,
            thresholds=self.limits,
        )

    def _gate_3(self) -> GateReport:
        encoder = Path(str(self.candidate.config.pretrained_encoder))
        claim = encoder_claim(encoder)
        corpus = self.registry.load_set(claim.name)
        val_split = read_config(encoder)["pretraining"]["val_split"]
        _, held = split_by_time(len(corpus), corpus.X_ohlc.shape[1], val_split)
        X, y = self.labeled.X_ohlc, self.labeled.y
        assert y is not None
        train, val = self.split.train, self.split.val
        step = max(1, int(corpus.meta["step_bars"]))
        evidence = encoder_evidence(
            encoder,
            np.asarray(corpus.X_ohlc[held]),
            (X[train], y[train], X[val], y[val]),
            corpus_block=-(-corpus.X_ohlc.shape[1] // step),
            probe_block=self.block_length,
        )
        return rules.gate_3_encoder(evidence, thresholds=self.limits)

    def _gate_4(self) -> GateReport:
        transfer, scratch = self.predictions("transfer"), self.predictions("scratch")
        return rules.gate_4_transfer(
            transfer.y,
            transfer.proba,
            scratch.proba,
            load_report=transfer.load_report or {},
            schedule_proof=transfer.proof or {},
            block_length=self.block_length,
            thresholds=self.limits,
        )

    def gate_report(self, reports: tuple[GateReport, ...]) -> dict[str, Any]:
        """Return the document that is logged and signed."""
        return {
            "schema_version": rules.SCHEMA_VERSION,
            "candidate": {
                "name": self.candidate.name,
                "version": self.candidate.version,
                "run_id": self.candidate.run_id,
                "model_sha256": self.candidate.model_sha256,
                "model": self.candidate.config.model,
                "config": self.candidate.config.to_dict(),
                "uses_encoder": self.uses_encoder,
                "uses_synthetic": False,
            },
            "data": {
                "labeled": self.labeled.name,
                "labeled_sha256": self.labeled.sha256,
                "split": self.split.name,
                "split_sha256": self.split.digest(),
                "folds": self.folds.name,
                "folds_sha256": self.folds.digest(),
                "num_windows": len(self.candidate_predictions().y),
                "seeds": list(self.config.seeds),
            },
            "thresholds_sha256": self.limits.digest(),
            "gates": [r.to_dict() for r in reports],
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def find_folds(registry: DataRegistry, labeled: str, name: str | None) -> WalkForward:
    """Return a fold file by name, or the one in the registry that was made for a labelled set."""
    if name is not None:
        return registry.load_folds(name)
    for found in registry.names():
        if not found.startswith("splits/"):
            continue
        try:
            folds = registry.load_folds(found)
        except DataError:
            continue
        if folds.labeled == labeled:
            return folds
    raise DataError(
        f"no walk-forward folds of {labeled} in {registry.data_root}",
        remedy="Make them with `moola data build`",
    )
