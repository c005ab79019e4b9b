"""The rivals of a candidate: its own variants and the controls, on the same folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moola.config.evaluation import CONTROLS, FURTHER_CONTROLS, EvaluateConfig
from moola.config.training import FinetuneConfig
from moola.data.splits import WalkForward
from moola.data.store.data_store import WindowSet
from moola.data.synthetic import SyntheticSet
from moola.evaluation.ensemble import Ensemble, calibrated_ensemble
from moola.judging.progress import Progress
from moola.training.crossval import (
    Trainee,
    Training,
    WalkForwardPredictions,
    walk_forward_predictions,
)
from moola.training.launchers import Launcher

SIMPLE = "simple_lstm"
_MEMBERS = ("minirocket", "logreg")  # of the ensemble, beside the candidate
_ALL_CONTROLS = (*CONTROLS, *FURTHER_CONTROLS)


def rival_config(candidate: FinetuneConfig, rival: str) -> FinetuneConfig:
    """Return the configuration of a candidate's rival.

    Parameters
    ----------
    candidate
        The candidate's own configuration.
    rival
        ``scratch`` (no encoder, no augmentation), ``transfer`` (with the encoder, no
        augmentation), ``augmented`` (the candidate with its own augmentation or, without any, the
        temporal one), ``simple_lstm`` (in its own size, else like ``scratch``) or a control, whose
        training does not depend on the candidate's.
    """
    if rival in _ALL_CONTROLS:
        return FinetuneConfig(model=rival, labeled=candidate.labeled)
    if rival == "augmented":
        return candidate if candidate.augments else replace(candidate, use_temporal_aug=True)
    plain = replace(
        candidate, use_temporal_aug=False, mixup_alpha=0.0, cutmix_alpha=0.0, synthetic=None
    )
    if rival == "transfer":
        return plain
    scratch = replace(plain, pretrained_encoder=None)
    if rival != SIMPLE:
        return scratch
    return replace(
        scratch, model=SIMPLE, preset="compact", hidden_size=None, num_layers=None, num_heads=None
    )


class Rivals:
    """Walk-forward predictions of the candidate and its rivals, each made on first use."""

    def __init__(
        self,
        candidate: FinetuneConfig,
        labeled: WindowSet,
        folds: WalkForward,
        *,
        config: EvaluateConfig,
        device: str,
        cache: Path,
        launcher: Launcher,
        progress: Progress,
        on_training: Callable[[str, Training], None],
        synthetic: SyntheticSet | None = None,
    ):
        self.candidate = candidate
        self.labeled = labeled
        self.folds = folds
        self.config = config
        self.device = device
        self.cache = cache
        self.launcher = launcher
        self.progress = progress
        self.on_training = on_training
        self.synthetic = synthetic
        self.finished: dict[str, WalkForwardPredictions] = {}
        self._ensemble: Ensemble | None = None

    @property
    def own(self) -> str:
        """Name of the rival that is the candidate itself."""
        if self.candidate.augments:
            return "augmented"
        return "transfer" if self.candidate.pretrained_encoder else "scratch"

    @property
    def controls(self) -> tuple[str, ...]:
        """The controls of gate 2: the obligatory and the configured ones, but not the candidate."""
        every = (*CONTROLS, *self.config.controls)
        return tuple(control for control in every if control != self.candidate.model)

    def predictions(self, rival: str) -> WalkForwardPredictions:
        """Return a rival's walk-forward predictions, averaged over seeds (controls: one seed).

        For questions about an ingredient, such as an encoder, that one seed may favour by chance.
        """
        self.prepare(rival)
        return self.finished[rival]

    def of_the_version(self, rival: str) -> WalkForwardPredictions:
        """Return a rival's predictions by the version's seed alone (controls: by their one seed).

        For questions about the promoted and served model, which is a single one: the mean over
        seeds is better than any of them.
        """
        predictions = self.predictions(rival)
        if rival in _ALL_CONTROLS:
            return predictions
        return replace(
            predictions,
            proba=predictions.proba_by_seed[self.config.seeds.index(self.candidate.seed)],
        )

    def prepare(self, *rivals: str) -> None:
        """Make the predictions of several rivals, trained in parallel."""
        trainees = {
            rival: Trainee(
                config=rival_config(self.candidate, rival),
                seeds=self.config.seeds[:1] if rival in _ALL_CONTROLS else self.config.seeds,
            )
            for rival in rivals
            if rival not in self.finished
        }
        if trainees:
            self.finished |= walk_forward_predictions(
                trainees,
                self.labeled,
                self.folds,
                device=self.device,
                cache=self.cache,
                launcher=self.launcher,
                on_done=lambda rival, *counts: self.progress(f"walk-forward: {rival}", *counts),
                on_training=self.on_training,
                synthetic=self.synthetic,
            )

    def probabilities(self) -> dict[str, NDArray[np.float64]]:
        """Return the probabilities predicted so far, the candidate's first."""
        candidate = [self.own] if self.own in self.finished else []
        names = dict.fromkeys([*candidate, *self.finished])
        probabilities = {name: self.of_the_version(name).proba for name in names}
        if self._ensemble is not None:
            probabilities |= {
                "ensemble, uncalibrated": self._ensemble.uncalibrated,
                "ensemble": self._ensemble.proba,
            }
        return probabilities

    def ensemble(self) -> tuple[Ensemble, dict[str, NDArray[np.float64]]]:
        """Return the calibrated ensemble of candidate, MiniRocket and logreg, and its members."""
        others = (member for member in _MEMBERS if member != self.candidate.model)
        members = {name: self.of_the_version(name).proba for name in (self.own, *others)}
        candidate, times = self.predictions(self.own), self.labeled.times
        fold = np.repeat(np.arange(len(self.folds.folds)), [len(f.val) for f in self.folds.folds])
        self._ensemble = calibrated_ensemble(
            candidate.y,
            list(members.values()),
            fold=fold,
            first_bar=times.first[candidate.rows],
            label_end=times.label_end[candidate.rows],
        )
        return self._ensemble, members
