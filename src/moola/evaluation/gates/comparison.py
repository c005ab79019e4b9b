"""Shared by the gates: their context, a comparison under it, its figures and sentences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moola.config.evaluation import Thresholds
from moola.errors import BadInput
from moola.evaluation.compare import paired_comparison
from moola.evaluation.compare_result import PairedComparison
from moola.evaluation.gates.report import GateReport
from moola.evaluation.mean_interval import constant_confidence


@dataclass(frozen=True, kw_only=True)
class GateContext:
    """The overlap of the windows under test, and the thresholds; the same for every gate.

    Attributes
    ----------
    block_length, horizons_apart
        See `moola.evaluation.compare.paired_comparison`.
    thresholds
        Moola's own by default.
    """

    block_length: int
    horizons_apart: bool = False
    thresholds: Thresholds = field(default_factory=Thresholds.load)


def takes_context(gate: Callable[..., GateReport]) -> Callable[..., GateReport]:
    """Let a gate be given the fields of its context by themselves: ``block_length=19``."""

    @functools.wraps(gate)
    def asked(*args: Any, context: GateContext | None = None, **options: Any) -> GateReport:
        fields = {k: options.pop(k) for k in GateContext.__dataclass_fields__ if k in options}
        if context is None:
            if fields.get("thresholds", True) is None:
                del fields["thresholds"]
            context = GateContext(**fields)
        elif fields:
            raise BadInput(
                f"{', '.join(fields)} is given beside a context",
                limit="a context, or its fields",
                remedy="Leave one of both out",
            )
        return gate(*args, context=context, **options)

    return asked


def compare(
    y: ArrayLike,
    candidate: ArrayLike,
    baseline: ArrayLike,
    context: GateContext,
    *,
    constant: bool = False,
) -> PairedComparison:
    """Return the paired comparison with the resamples, confidence and margins of the thresholds.

    If the baseline is a constant, intervals are corrected for skewness, and more effective windows
    or more confidence are required.
    """
    limits, block = context.thresholds, context.block_length
    min_windows, confidence = limits.min_effective_windows, limits.confidence
    if constant:
        enough = limits.min_effective_windows_constant
        min_windows = max(min_windows, enough)
        confidence = constant_confidence(confidence, len(np.asarray(y)) / block, block, enough)
    return paired_comparison(
        y,
        candidate,
        baseline,
        block_length=block,
        num_resamples=limits.num_resamples,
        confidence=confidence,
        margin={"log_loss": limits.margin_log_loss, "accuracy": limits.max_accuracy_loss},
        min_effective_windows=min_windows,
        skewed=constant,
        horizons_apart=context.horizons_apart,
    )


def comparison_figures(comparison: PairedComparison) -> dict[str, Any]:
    """Return the figures of a comparison for a gate report."""
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
    """Return the named thresholds, and those of every comparison."""
    common = ("confidence", "num_resamples", "min_effective_windows")
    return {name: getattr(limits, name) for name in (*common, *names)}


def difference_text(comparison: PairedComparison, metric: str) -> str:
    """Return ``-0.040 [-0.070, -0.015]``, or the difference and why it has no interval."""
    delta = comparison.deltas[metric]
    if delta.estimate is None:
        return f"undefined ({delta.reason})"
    if delta.low is None or delta.high is None:
        return f"{delta.estimate:+.4f}, no interval: {delta.reason}"
    return f"{delta.estimate:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}]"


def power_text(comparison: PairedComparison, metric: str) -> str:
    """Return the number of windows, and the power of the comparison on them, in words."""
    delta, name = comparison.deltas[metric], metric.replace("_", "-")
    blocks = f"{comparison.num_windows} windows, {_blocks(comparison.effective_windows)}"
    if delta.minimum_detectable is None:
        return f"{blocks}; no {name} difference of any size can be found here: {delta.reason}"
    rates = ", ".join(f"{size}: {power:.0%}" for size, power in delta.power.items())
    return (
        f"{blocks}; power at a true {name} difference of {rates}; "
        f"smallest detected with 80 % power: {delta.minimum_detectable:.3g}"
    )


def _blocks(effective: float) -> str:
    whole = max(1, round(effective))
    return f"{whole} block{'s' if whole > 1 else ''} that share no bar"
