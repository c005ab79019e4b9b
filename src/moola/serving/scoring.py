"""From windows in price units to an answer: one code path for every way of serving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from moola.data.windows import check_windows
from moola.errors import BadInput, ProofError
from moola.models.weights.checkpoint import CONFIG
from moola.training.stored_config import read_stored

UNREGISTERED = "unregistered"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The answer to a batch.

    Attributes
    ----------
    label
        Label of the most probable class, shape (n,).
    name
        Its name, n of them.
    proba
        Class probabilities, shape (n, K).
    label_set
        Names of the classes in each window's conformal set; None if it was not asked for.
    """

    label: NDArray[Any]
    name: list[str]
    proba: NDArray[np.float64]
    label_set: list[list[str]] | None


@dataclass(frozen=True, kw_only=True)
class WindowScorer:
    """A trained classifier, its calibration and the version it was registered as.

    `conformal_threshold` is the least calibrated probability with which a class enters a window's
    set (split conformal prediction, see `moola.evaluation.conformal`); None if none is stored.
    `labeled` names the set it was trained on.
    """

    model: Any
    temperature: float
    class_names: tuple[str, ...]
    version: str
    conformal_threshold: float | None = None
    labeled: str | None = None

    @classmethod
    def load(
        cls, checkpoint: Path, *, device: str = "cpu", version: str | None = None
    ) -> WindowScorer:
        """Read a checkpoint folder that holds ``temperature`` and ``class_names``.

        Parameters
        ----------
        checkpoint
            The folder.
        device
            ``cpu`` or ``cuda``.
        version
            The registered version; None reads it from what MLflow writes beside the model.

        Returns
        -------
        WindowScorer
            The classifier, ready to answer.

        Raises
        ------
        CheckpointError
            If it is not a version's checkpoint as Moola writes it.
        """
        stored = read_stored((Path(checkpoint) / CONFIG).read_bytes())
        return cls(
            model=type(stored.estimator()).load(checkpoint, device=device),
            temperature=stored.temperature,
            class_names=stored.class_names,
            version=version or _registered_version(checkpoint),
            conformal_threshold=stored.conformal["threshold"],
            labeled=stored.config.labeled,
        )

    @property
    def window_bars(self) -> int:
        """Bars a window must have."""
        return int(self.model.window_bars_)

    def check(self, X_NTC: NDArray) -> NDArray[np.float32]:
        """Return windows as float32, shape (n, T, 4); raises BadInput naming the first fault."""
        return check_windows(X_NTC, window_bars=self.window_bars)

    def logits(self, X_NTC: NDArray) -> NDArray[np.float64]:
        """Return logits of windows in price units, shape (n, K)."""
        return np.asarray(self.model.logits(X_NTC))

    def probabilities(self, X_NTC: NDArray, *, calibrated: bool = True) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K).

        Parameters
        ----------
        X_NTC
            OHLC windows in price units, shape (n, T, 4).
        calibrated
            Divide the logits by the temperature fitted on validation windows.

        Returns
        -------
        ndarray
            Probabilities, shape (n, K); each row adds up to 1.

        Raises
        ------
        BadInput
            If shape or prices cannot be used.
        """
        return self._softmax(self.logits(X_NTC), calibrated=calibrated)

    def scores(
        self, logits_NK: NDArray, *, calibrated: bool = True, return_set: bool = False
    ) -> Scores:
        """Turn logits into labels, probabilities and, if asked for, conformal sets.

        The set is that of the calibrated probabilities, whatever `calibrated` says.
        """
        proba = self._softmax(logits_NK, calibrated=calibrated)
        best = proba.argmax(axis=1)
        return Scores(
            label=np.asarray(self.model.classes_)[best],
            name=[self.class_names[k] for k in best],
            proba=proba,
            label_set=self._sets(logits_NK) if return_set else None,
        )

    def answer(
        self, X_NTC: NDArray, *, calibrated: bool = True, return_set: bool = False
    ) -> pd.DataFrame:
        """Return one row a window: label, its name, a probability a class, the model version."""
        if return_set:
            self.require_conformal()
        scores = self.scores(self.logits(X_NTC), calibrated=calibrated, return_set=return_set)
        return pd.DataFrame(self.columns(scores))

    def columns(self, scores: Scores) -> dict[str, Any]:
        """Return the answer by column, as the model's signature states it."""
        columns: dict[str, Any] = {"label": scores.label.tolist(), "label_name": scores.name}
        for k, name in enumerate(self.class_names):
            columns[f"probability_{name}"] = scores.proba[:, k].tolist()
        if scores.label_set is not None:
            columns["label_set"] = scores.label_set
        return {**columns, "model_version": [self.version] * len(scores.name)}

    def require_conformal(self) -> float:
        """Return the conformal threshold; raises BadInput if the version stores none."""
        if self.conformal_threshold is None:
            raise BadInput(
                f"version {self.version} stores no conformal threshold",
                remedy="Ask without return_set, or train the version again",
            )
        return self.conformal_threshold

    def _softmax(self, logits: NDArray, *, calibrated: bool) -> NDArray[np.float64]:
        logits = logits / (self.temperature if calibrated else 1.0)
        if not np.isfinite(logits).all():
            raise ProofError(
                f"version {self.version} gives an answer that is not a number",
                remedy="Take it out of Production: `moola rollback`",
            )
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def _sets(self, logits: NDArray) -> list[list[str]]:
        threshold = self.require_conformal()
        inside = self._softmax(logits, calibrated=True) >= threshold
        return [[self.class_names[k] for k in np.flatnonzero(row)] for row in inside]


def _registered_version(checkpoint: Path) -> str:
    """Read the version from what MLflow writes beside a model loaded from the registry."""
    for folder in checkpoint.resolve().parents:
        if (folder / "MLmodel").exists():
            meta = folder / "registered_model_meta"
            if meta.exists():
                return str(yaml.safe_load(meta.read_text()).get("model_version", UNREGISTERED))
            return UNREGISTERED
    return UNREGISTERED
