"""From windows in price units to an answer: one code path for every way of serving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from moola.config.base import check_range
from moola.models import get_model
from moola.models.checkpoint import read_config

MAX_WINDOWS = 100_000


@dataclass(frozen=True, kw_only=True)
class WindowScorer:
    """A trained classifier, its calibration and the version it was registered as."""

    model: Any
    temperature: float
    class_names: tuple[str, ...]
    version: str

    @classmethod
    def load(cls, checkpoint: Path, *, device: str = "cpu") -> WindowScorer:
        """Read a checkpoint folder that holds ``temperature`` and ``class_names``."""
        config = read_config(checkpoint)
        estimator = type(get_model(config["model"], **config["params"]))
        check_range("temperature", config["temperature"], low=0, open_low=True)
        return cls(
            model=estimator.load(checkpoint, device=device),
            temperature=float(config["temperature"]),
            class_names=tuple(config["class_names"]),
            version=_registered_version(checkpoint),
        )

    @property
    def window_bars(self) -> int:
        """Bars a window must have."""
        return int(self.model.window_bars_)

    def probabilities(self, X_NTC: NDArray, *, calibrated: bool = True) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K).

        Parameters
        ----------
        X_NTC
            OHLC windows in price units, shape (n, T, 4).
        calibrated
            Divide the logits by the temperature fitted on validation windows.

        Raises
        ------
        BadInput
            If shape or prices cannot be used.
        """
        logits = self.model.decision_function(X_NTC) / (self.temperature if calibrated else 1.0)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def answer(self, X_NTC: NDArray, *, calibrated: bool = True) -> pd.DataFrame:
        """Return one row a window: label, its name, a probability a class, the model version."""
        proba = self.probabilities(X_NTC, calibrated=calibrated)
        best = proba.argmax(axis=1)
        columns: dict[str, Any] = {
            "label": [int(self.model.classes_[k]) for k in best],
            "label_name": [self.class_names[k] for k in best],
        }
        for k, name in enumerate(self.class_names):
            columns[f"probability_{name}"] = proba[:, k]
        return pd.DataFrame({**columns, "model_version": self.version})


def _registered_version(checkpoint: Path) -> str:
    """Read the version from what MLflow writes beside a model loaded from the registry."""
    for folder in checkpoint.resolve().parents:
        if (folder / "MLmodel").exists():
            meta = folder / "registered_model_meta"
            if meta.exists():
                return str(yaml.safe_load(meta.read_text()).get("model_version", "unregistered"))
            return "unregistered"
    return "unregistered"
