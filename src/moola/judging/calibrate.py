"""The temperature a version is served with, and the overlap of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from moola.data.store.data_store import DataContainer
from moola.data.windows import WindowTimes
from moola.errors import BadInput
from moola.evaluation.compare import paired_comparison
from moola.evaluation.temperature import apply_temperature, fit_temperature


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature a version is served with, the fitted one, and why they differ."""

    temperature: float
    fitted: float | None
    reason: str


def calibrate(data: DataContainer, proba_val: np.ndarray) -> Calibration:
    """Fit a temperature on the validation windows, and use it only if it is shown to help.

    Neighbouring windows share bars: a few hundred are worth a few dozen independent ones, on which
    the best temperature is mostly noise. Unless the paired interval of the log-loss difference
    excludes 0, the probabilities stay unchanged.
    """
    try:
        fitted = fit_temperature(data.y_val, proba_val)
    except BadInput as error:
        return Calibration(temperature=1.0, fitted=None, reason=str(error))
    scaled = apply_temperature(proba_val, fitted)
    overlap = overlap_of(data.labeled.times, data.split.val)
    delta = paired_comparison(data.y_val, scaled, proba_val, **overlap).deltas["log_loss"]
    if delta.superior:
        return Calibration(temperature=fitted, fitted=fitted, reason="lowers the log-loss on val")
    return Calibration(
        temperature=1.0,
        fitted=fitted,
        reason=f"temperature {fitted:.3f} is not proven to lower the log-loss on "
        f"{len(data.y_val)} validation windows",
    )


class Overlap(TypedDict):
    """The overlap of windows, as arguments of `paired_comparison` and `GateContext`."""

    block_length: int
    horizons_apart: bool


def overlap_of(times: WindowTimes, rows: NDArray[np.int64]) -> Overlap:
    """Measure the overlap of the ascending `rows` by their own bars and label ends."""
    return Overlap(block_length=times.gap_windows(rows), horizons_apart=times.horizons_apart(rows))
