"""The gates of one candidate: what each needs is made when it is asked for, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.data.audit_synthetic import synthetic_checks
from moola.data.labels import class_names
from moola.data.registry import DataRegistry, WindowSet
from moola.data.registry_review import audit_folds
from moola.data.splits import Split, WalkForward
from moola.data.synthetic import make_synthetic
from moola.errors import ConfigError
from moola.evaluation import gates as rules
from moola.evaluation.family import CLAIMS, with_tries
from moola.evaluation.gate_promotion import look_confidence
from moola.evaluation.gates import GateReport
from moola.hashing import sha256_json
from moola.models.augmentation import Augmentation, augment_windows
from moola.models.checkpoint import read_config
from moola.pretraining.corpus import split_by_time
from moola.pretraining.evidence import encoder_evidence
from moola.pretraining.stored_encoder import encoder_digest
from moola.promotion.classes import CLASSES
from moola.promotion.tries import Tries
from moola.steps.calibrate import overlap_of
from moola.steps.candidate import Candidate
from moola.steps.folds import find_folds
from moola.steps.null import label_arithmetic, repaired_share
from moola.steps.progress import Progress
from moola.steps.rivals import SIMPLE, Rivals
from moola.training.crossval import Training
from moola.training.finetune import encoder_claim
from moola.training.launchers import Launcher

ADAPTER = "adapter_lstm"
_MIXED = "mixed windows (mixup, cutmix) have no test: they are no bars"


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
        on_training: Callable[[str, Training], None] = lambda rival, training: None,
    ):
        self.candidate = candidate
        self.registry = registry
        self.config = config
        self.limits = limits
        self.device_asked, self.device = device_asked, device
        self.progress = progress
        self.tries = Tries()  # as if nobody had judged on these windows before
        self.labeled: WindowSet = registry.load_set(candidate.config.labeled)
        self.split: Split = registry.load_split(candidate.config.split)
        self.folds: WalkForward = find_folds(registry, self.labeled.name, folds)
        judged = np.concatenate([f.val for f in self.folds.folds])
        self.num_windows = len(judged)
        self.overlap = overlap_of(self.labeled.times, judged)
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
        )

    @cached_property
    def data_audit(self) -> dict[str, Any]:
        """The audit that gate 0 judges."""
        return self.audit()

    @property
    def claims(self) -> Thresholds:
        """Limits of the gates that claim superiority: stricter with every judgement and search."""
        confidence = look_confidence(
            self.limits.confidence, self.tries.judgement, num_doors=1 + self.tries.searched
        )
        return replace(self.limits, confidence=confidence)

    def digest_of(self, candidate: Candidate) -> str:
        """Return a digest of what is judged: configuration, encoder, data, seeds, thresholds."""
        encoder = candidate.training.pretrained_encoder
        return sha256_json(
            {
                "config": candidate.config.to_dict() | {"device": None},
                "encoder": encoder_digest(Path(encoder)) if encoder else None,
                "labeled": self.labeled.sha256,
                "folds": self.folds.digest(),
                "seeds": list(self.config.seeds),
                "thresholds": self.limits.digest(),
            }
        )

    def reports(self) -> tuple[GateReport, ...]:
        """Run the gates in order; what a verdict blocks is not run."""
        found: list[GateReport] = []
        for gate in self.gates:
            reason = rules.blocking_reason(gate, {r.gate: r.verdict for r in found})
            run = getattr(self, f"_gate_{gate}")
            found.append(rules.blocked(gate, reason) if reason else run())
            if gate in CLAIMS:
                found[-1] = with_tries(
                    found[-1], self.tries.judgement, self.tries.searched, self.claims.confidence
                )
            self.progress("gates", len(found), len(self.gates), f"gate {gate} {found[-1].verdict}")
        return rules.run_order(
            found,
            num_labelled_windows=len(self.labeled),
            uses_adapter=self.candidate.config.model == ADAPTER,
            thresholds=self.limits,
        )

    def audit(self, *, with_features: bool = False) -> dict[str, Any]:
        """Audit the split and every fold; `with_features` derives the stored features again too."""
        encoder = self.candidate.training.pretrained_encoder
        claim = encoder_claim(encoder) if encoder else None
        checks: list[dict[str, Any]] = []
        trails = (
            self.registry.audit(self.labeled, self.split, corpus=claim),
            *audit_folds(self.registry, self.labeled, self.folds, split=self.split, corpus=claim),
        )
        for split, trail in zip((self.split, *self.folds.folds), trails, strict=True):
            checks += [
                {**c, "name": f"{split.name}: {c['name']}"} for c in trail.to_dict()["checks"]
            ]
        if with_features:
            again = self.registry.lineage(self.labeled, with_features=True)
            checks += [
                {"name": f"{self.labeled.name}: {c.name}", "passed": c.passed, "detail": c.detail}
                for c in again
            ]
        return {"passed": all(c["passed"] for c in checks), "checks": checks}

    def _gate_0(self) -> GateReport:
        return rules.gate_0_data(
            audit=self.data_audit,
            device_asked=self.device_asked,
            device_used=self.device,
            thresholds=self.limits,
        )

    def _gate_1(self) -> GateReport:
        if 2 in self.gates:
            self.rivals.prepare(
                "scratch", *self.rivals.controls
            )  # side by side with what gate 2 needs
        scratch = self.rivals.predictions("scratch")
        return rules.gate_1_baseline(
            scratch.y,
            scratch.proba,
            scratch.prior,
            **self.overlap,
            thresholds=self.claims,
            arithmetic=label_arithmetic(
                self.registry,
                self.labeled,
                scratch.rows,
                num_surrogates=self.limits.num_surrogates,
                seed=self.config.seeds[0],
            ),
            repaired_share=repaired_share(self.registry, self.labeled.source),
        )

    def _gate_2(self) -> GateReport:
        scratch = self.rivals.predictions("scratch")
        return rules.gate_2_control(
            scratch.y,
            scratch.proba,
            {name: self.rivals.predictions(name).proba for name in self.rivals.controls},
            **self.overlap,
            thresholds=self.limits,
        )

    def _gate_3(self) -> GateReport:
        encoder = Path(str(self.candidate.training.pretrained_encoder))
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
        transfer, scratch = (self.rivals.predictions(r) for r in ("transfer", "scratch"))
        return rules.gate_4_transfer(
            transfer.y,
            transfer.proba,
            scratch.proba,
            load_report=transfer.load_report or {},
            schedule_proof=transfer.proof or {},
            **self.overlap,
            thresholds=self.claims,
        )

    def _gate_5(self) -> GateReport:
        augmented = self.rivals.predictions("augmented")
        bars = ("scratch", "transfer") if self.candidate.uses_encoder else ("scratch",)
        return rules.gate_5_augmentation(
            augmented.y,
            augmented.proba,
            {name: self.rivals.predictions(name).proba for name in bars},
            quality=self._augmentation_quality(),
            trial=not self.candidate.config.augments,
            **self.overlap,
            thresholds=self.limits,
        )

    def _gate_6(self) -> GateReport:
        own = self.rivals.predictions(self.rivals.own)
        return rules.gate_6_simple(
            own.y,
            own.proba,
            self.rivals.predictions(SIMPLE).proba,
            **self.overlap,
            thresholds=self.claims,
        )

    def _gate_7(self) -> GateReport:
        ensemble, members = self.rivals.ensemble()
        return rules.gate_7_ensemble(
            self.rivals.predictions(self.rivals.own).y,
            ensemble.proba,
            members,
            temperature_part="validation",
            temperatures=ensemble.temperatures,
            **self.overlap,
            thresholds=self.limits,
        )

    def _augmentation_quality(self) -> dict[str, Any]:
        """Augment the train part once and test it as a stored synthetic set is tested.

        Mixed windows (mixup, cutmix) lie between real ones by construction and are never windows
        in price units; that they are not tested is said.
        """
        config = self.candidate.config
        mixed = [_MIXED] if config.mixup_alpha or config.cutmix_alpha else []
        if mixed and not config.use_temporal_aug:
            return {"passed": True, "train_only": True, "reasons": mixed}
        made = make_synthetic(
            self.labeled,
            self.split,
            lambda X, rng: augment_windows(X, Augmentation(temporal=True), rng),
            name="temporal augmentation",
            config={"use_temporal_aug": True},
            random_state=self.config.seeds[0],
        )
        checks, _ = synthetic_checks(made, self.labeled, self.split)
        return {
            "passed": all(c.passed for c in checks),
            "train_only": bool(np.isin(made.parent, self.split.train).all()),
            "reasons": [*(f"{c.name}: {c.detail}" for c in checks if not c.passed), *mixed],
        }

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
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def gates_about(candidate: Candidate) -> tuple[int, ...]:
    """Return the gates that have something to ask about a candidate, in order."""
    encoder = (3, 4) if candidate.uses_encoder else ()
    bigger = () if candidate.config.model == SIMPLE else (6,)
    return (0, 1, 2, *encoder, 5, *bigger, 7)


def asked_gates(candidate: Candidate, asked: tuple[int, ...]) -> tuple[int, ...]:
    """Return the gates to run for a candidate, in order: those asked for, or all.

    Parameters
    ----------
    candidate
        The version.
    asked
        Numbers of gates; empty: all that have something to ask.

    Returns
    -------
    tuple of int
        Numbers of gates, in order.

    Raises
    ------
    ConfigError
        If a gate is asked for that has nothing to ask about this candidate.
    """
    possible = gates_about(candidate)
    for gate in asked:
        if gate not in possible:
            what = "its encoder" if gate in (3, 4) else "a model bigger than SimpleLSTM"
            raise ConfigError(
                f"gate {gate} asks about {what}, and version {candidate.version} has none",
                limit=f"one of {', '.join(map(str, possible))}",
            )
    return asked or possible
