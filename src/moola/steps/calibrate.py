"""The temperature a version is served with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moola.data.registry import DataContainer
from moola.errors import BadInput
from moola.evaluation.compare import block_length_from_overlap, paired_comparison
from moola.evaluation.temperature import apply_temperature, fit_temperature


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature a version is served with, the one that was fitted, and why they differ."""

    temperature: float
    fitted: float | None
    reason: str


def calibrate(data: DataContainer, proba_val: np.ndarray) -> Calibration:
    """Fit a temperature on the validation windows, and keep it only if it is proven to help.

    Neighbouring windows share bars: a few hundred are worth a few dozen, on which the best
    temperature is mostly noise. Unless the paired interval of the log-loss difference excludes 0,
    the probabilities stay as they are.
    """
    try:
        fitted = fit_temperature(data.y_val, proba_val)
    except BadInput as error:
        return Calibration(temperature=1.0, fitted=None, reason=str(error))
    block_length = block_length_of(data.metadata, len(data.y_val))
    scaled = apply_temperature(proba_val, fitted)
    delta = paired_comparison(data.y_val, scaled, proba_val, block_length=block_length).deltas[
        "log_loss"
    ]
    if delta.superior:
        return Calibration(temperature=fitted, fitted=fitted, reason="lowers the log-loss on val")
    return Calibration(
        temperature=1.0,
        fitted=fitted,
        reason=f"temperature {fitted:.3f} is not proven to lower the log-loss on "
        f"{len(data.y_val)} validation windows",
    )


def block_length_of(meta: Mapping[str, Any], num_windows: int) -> int:
    """Return how many neighbouring windows of a set may depend on each other."""
    return block_length_from_overlap(
        window_bars=int(meta["T"]),
        horizon_bars=int(meta["horizon_bars"]),
        step_bars=int(meta["step_bars"]),
        num_windows=num_windows,
    )
