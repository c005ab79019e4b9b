"""What the gates share: a comparison under their thresholds, its figures, its words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moola.config.evaluation import Thresholds
from moola.evaluation.compare import paired_comparison
from moola.evaluation.compare_result import PairedComparison
from moola.evaluation.mean_interval import constant_confidence


def compare(
    y: ArrayLike,
    candidate: ArrayLike,
    baseline: ArrayLike,
    *,
    block_length: int,
    thresholds: Thresholds,
    confidence: float | None = None,
    skewed: bool = False,
    horizons_apart: bool = False,
) -> PairedComparison:
    """Return the paired comparison under the thresholds' resamples, confidence and margins.

    `skewed` says that the baseline is a constant: the intervals are corrected for skewness, and
    more effective windows, or more confidence, are needed.
    """
    least, asked = thresholds.min_effective_windows, confidence or thresholds.confidence
    if skewed:
        enough = thresholds.min_effective_windows_constant
        least = max(least, enough)
        asked = constant_confidence(asked, len(np.asarray(y)) / block_length, block_length, enough)
    return paired_comparison(
        y,
        candidate,
        baseline,
        block_length=block_length,
        num_resamples=thresholds.num_resamples,
        confidence=asked,
        margin={
            "log_loss": thresholds.margin_log_loss,
            "accuracy": thresholds.max_accuracy_loss,
        },
        min_effective_windows=least,
        skewed=skewed,
        horizons_apart=horizons_apart,
    )


def comparison_figures(comparison: PairedComparison) -> dict[str, Any]:
    """Return a comparison's figures as a gate report holds them."""
    figures: dict[str, Any] = {
        "num_windows": comparison.num_windows,
        "block_length": comparison.block_length,
        "effective_windows": comparison.effective_windows,
        "persistence": comparison.persistence,
        "horizons_apart": comparison.horizons_apart,
        "confidence": comparison.confidence,
        "mcnemar_p": comparison.mcnemar_p,
        "identical_predictions": comparison.identical_predictions,
        "minimum_detectable": comparison.minimum_detectable,
        "power": {name: delta.power for name, delta in comparison.deltas.items() if delta.power},
        "p_values": {name: delta.p_value for name, delta in comparison.deltas.items()},
    }
    return figures | {
        f"delta_{name}": delta.interval() for name, delta in comparison.deltas.items()
    }


def thresholds_used(limits: Thresholds, *names: str) -> dict[str, Any]:
    """Return the thresholds named, and those every comparison rests on."""
    common = ("confidence", "num_resamples", "min_effective_windows")
    return {name: getattr(limits, name) for name in (*common, *names)}


def signed(comparison: PairedComparison, metric: str) -> str:
    """Return ``-0.040 [-0.070, -0.015]``, or the difference and why it has no interval."""
    delta = comparison.deltas[metric]
    if delta.estimate is None:
        return f"undefined ({delta.reason})"
    if delta.low is None or delta.high is None:
        return f"{delta.estimate:+.4f}, no interval: {delta.reason}"
    return f"{delta.estimate:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}]"


def reach(comparison: PairedComparison, metric: str) -> str:
    """Say how many windows the verdict rests on and how small a difference they can show."""
    delta, name = comparison.deltas[metric], metric.replace("_", "-")
    blocks = f"{comparison.num_windows} windows, {_blocks(comparison.effective_windows)}"
    if delta.minimum_detectable is None:
        return f"{blocks}; no {name} difference of any size can be found here: {delta.reason}"
    found = ", ".join(f"{size} in {power:.0%}" for size, power in delta.power.items())
    return (
        f"{blocks}; of such windows a true {name} difference of {found} would show it; "
        f"smallest {name} difference found with 80 % power: {delta.minimum_detectable:.3g}"
    )


def _blocks(effective: float) -> str:
    whole = max(1, round(effective))
    return f"{whole} block{'s' if whole > 1 else ''} that share no bar"
