"""The judge of one candidate, which runs the gates and provides their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.data.audit.trail import AuditTrail
from moola.data.labels import class_names
from moola.data.splits import Split, WalkForward
from moola.data.store.data_store import DataStore, WindowSet
from moola.data.store.review import audit_folds
from moola.evaluation import gates
from moola.evaluation.gates import GateContext, GateReport
from moola.evaluation.gates.family import with_tries
from moola.evaluation.gates.promotion import look_confidence
from moola.hashing import sha256_json
from moola.judging.calibrate import overlap_of
from moola.judging.candidate import Candidate
from moola.judging.folds import find_folds
from moola.judging.gate_inputs import RUNS, asked_gates, gates_without_subject
from moola.judging.progress import Progress
from moola.judging.rivals import Rivals
from moola.pretraining.stored_encoder import encoder_digest
from moola.promotion.ledger.tries import Tries
from moola.promotion.versions.classes import CLASSES
from moola.training.crossval import Training
from moola.training.finetune import encoder_claim
from moola.training.launchers import Launcher

ADAPTER = "adapter_lstm"


class Judge:
    """Runs the gates of one candidate; each prediction is made on first use, and once."""

    def __init__(
        self,
        *,
        candidate: Candidate,
        store: DataStore,
        folds: str | None,
        config: EvaluateConfig,
        limits: Thresholds,
        device_asked: str,
        device: str,
        cache: Path,
        launcher: Launcher,
        progress: Progress,
        on_training: Callable[[str, Training], None] = lambda rival, training: None,
    ):
        self.candidate = candidate
        self.store = store
        if candidate.config.seed not in config.seeds:  # the model of this seed is promoted
            config = replace(config, seeds=(candidate.config.seed, *config.seeds))
        self.config = config
        self.limits = limits
        self.device_asked, self.device = device_asked, device
        self.progress = progress
        self.tries = Tries()  # none until the step reads them from the ledger
        self.labeled: WindowSet = store.load_set(candidate.config.labeled)
        self.split: Split = store.load_split(candidate.config.split)
        self.folds: WalkForward = find_folds(store, self.labeled.name, folds)
        synthetic = candidate.config.synthetic
        self.synthetic = store.load_synthetic(synthetic) if synthetic else None
        rows = np.concatenate([f.val for f in self.folds.folds])
        self.num_windows = len(rows)
        self.overlap = overlap_of(self.labeled.times, rows)
        self.block_length = self.overlap["block_length"]
        self.gates = asked_gates(candidate, config.gates)
        self.rivals = Rivals(
            candidate.training,
            self.labeled,
            self.folds,
            config=config,
            device=device,
            cache=cache,
            launcher=launcher,
            progress=progress,
            on_training=on_training,
            synthetic=self.synthetic,
        )

    @cached_property
    def data_audit(self) -> AuditTrail:
        """The audit for gate 0."""
        return self.audit()

    @property
    def claims(self) -> Thresholds:
        """Thresholds of gates that claim superiority, stricter with every judgement and search."""
        confidence = look_confidence(
            self.limits.confidence, self.tries.judgement, num_doors=1 + self.tries.searched
        )
        return replace(self.limits, confidence=confidence)

    def context(self, gate: int) -> GateContext:
        """Return the context of a gate; one that claims superiority has the stricter thresholds."""
        thresholds = self.claims if gates.GATES[gate].claims else self.limits
        return GateContext(**self.overlap, thresholds=thresholds)

    def digest_of(self, candidate: Candidate) -> str:
        """Return a digest of configuration, encoder, data, seeds and thresholds."""
        encoder = candidate.training.pretrained_encoder
        return sha256_json(
            {
                "config": candidate.config.to_dict() | {"device": None},
                "encoder": encoder_digest(Path(encoder)) if encoder else None,
                "labeled": self.labeled.sha256,
                "folds": self.folds.digest(),
                "seeds": list(self.config.seeds),
                **({"synthetic": self.synthetic.sha256} if self.synthetic else {}),
                "thresholds": self.limits.digest(),
            }
        )

    def reports(self) -> tuple[GateReport, ...]:
        """Run the gates in order, except those that a verdict blocks."""
        reports: list[GateReport] = []
        for gate in self.gates:
            reason = gates.blocking_reason(gate, {r.gate: r.verdict for r in reports})
            reports.append(gates.blocked(gate, reason) if reason else RUNS[gate].run(self))
            if gates.GATES[gate].claims:
                reports[-1] = with_tries(
                    reports[-1], self.tries.judgement, self.tries.searched, self.claims.confidence
                )
            self.progress(
                "gates", len(reports), len(self.gates), f"gate {gate} {reports[-1].verdict}"
            )
        return gates.run_order(
            reports,
            num_labelled_windows=len(self.labeled),
            uses_adapter=self.candidate.config.model == ADAPTER,
            thresholds=self.limits,
        )

    def audit(self, *, with_features: bool = False) -> AuditTrail:
        """Audit the split and every fold; `with_features` also derives the stored features anew."""
        encoder = self.candidate.training.pretrained_encoder
        claim = encoder_claim(encoder) if encoder else None
        trails = (
            self.store.audit(self.labeled, self.split, corpus=claim),
            *audit_folds(self.store, self.labeled, self.folds, split=self.split, corpus=claim),
        )
        names = (self.split.name, *(fold.name for fold in self.folds.folds))
        parts = [(name, trail.checks) for name, trail in zip(names, trails, strict=True)]
        if with_features:
            lineage = self.store.lineage(self.labeled, with_features=True)
            parts.append((self.labeled.name, tuple(lineage)))
        checks = [replace(c, name=f"{name}: {c.name}") for name, checks in parts for c in checks]
        return AuditTrail(checks=tuple(checks), facts={})

    def gate_report(self, reports: tuple[GateReport, ...]) -> dict[str, Any]:
        """Return the document of the evaluation, which is logged and signed."""
        return {
            "schema_version": gates.SCHEMA_VERSION,
            "candidate": {
                "name": self.candidate.name,
                "version": self.candidate.version,
                "run_id": self.candidate.run_id,
                "model_sha256": self.candidate.model_sha256,
                "model": self.candidate.config.model,
                "config": self.candidate.config.to_dict(),
                "uses_encoder": self.candidate.uses_encoder,
                "uses_synthetic": self.candidate.config.augments,
            },
            "data": {
                "labeled": self.labeled.name,
                "labeled_sha256": self.labeled.sha256,
                CLASSES: list(class_names(self.labeled.recipe)),
                "split": self.split.name,
                "split_sha256": self.split.digest(),
                "folds": self.folds.name,
                "folds_sha256": self.folds.digest(),
                "num_windows": self.num_windows,
                "seeds": list(self.config.seeds),
            },
            "thresholds_sha256": self.limits.digest(),
            "gates": [r.to_dict() for r in reports],
            "does_not_apply": gates_without_subject(self.candidate),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
