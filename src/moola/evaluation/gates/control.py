"""Gate 2: is deep learning needed, or does a control do as well.

To pass is to be shown no worse than *every* control, each by its own interval. That holds jointly
as it stands (an intersection-union test, Berger 1982): where one control is ahead by the margin,
its own interval alone errs with the gate's probability, however many others are there. To stop is
to find *one* control that is better; there the best of many looks better than it is, so the
p-values are adjusted jointly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.config.evaluation import CONTROLS, Thresholds
from moola.errors import BadInput
from moola.evaluation.compare import window_differences
from moola.evaluation.compare_result import PairedComparison
from moola.evaluation.gates.comparison import (
    compare,
    comparison_figures,
    reach,
    signed,
    thresholds_used,
)
from moola.evaluation.gates.family import joint_p_values
from moola.evaluation.gates.report import GateReport, report
from moola.evaluation.predictions import clean_predictions

_JUDGED = ("log_loss", "accuracy")


def gate_2_control(
    y: ArrayLike,
    proba: ArrayLike,
    controls: Mapping[str, ArrayLike],
    *,
    block_length: int,
    horizons_apart: bool = False,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Gate 2: no control (MiniRocket, logistic regression, trees) is better by the margin.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and the candidate's probabilities, shape (n, K).
    controls
        Probabilities of each control on the same windows, by name.
    block_length, horizons_apart, thresholds
        As `gate_1_baseline`.

    Returns
    -------
    GateReport
        ``passed`` where the candidate is shown not to be worse than any control: the whole interval
        of the log-loss difference lies below ``margin_log_loss`` and not wholly above 0. ``failed``
        where a control wins: it is better in log-loss or in accuracy with a p-value, adjusted
        jointly over all controls and both metrics
        (`moola.evaluation.gates.family.joint_p_values`), below 1 - confidence. Accuracy counts too
        because a control with uncalibrated probabilities can never win on log-loss. Otherwise
        ``inconclusive``, with how far the control may be ahead.

    Raises
    ------
    BadInput
        If there is no control, or as `moola.evaluation.compare.paired_comparison`.
    """
    if not controls:
        raise BadInput(
            "there is no control to compare with",
            limit=f"at least one of {', '.join(CONTROLS)}",
            remedy="Fit the controls on the same folds",
        )
    limits = thresholds or Thresholds.load()
    found = {
        name: compare(
            y,
            proba,
            control,
            block_length=block_length,
            horizons_apart=horizons_apart,
            thresholds=limits,
        )
        for name, control in controls.items()
    }
    differences = _differences(y, proba, controls)
    p_values = {
        f"{name}/{metric}": comparison.deltas[metric].p_value
        for name, comparison in found.items()
        for metric in _JUDGED
    }
    adjusted = joint_p_values(
        {key: 1.0 if value is None else value for key, value in p_values.items()},
        differences,
        # Whatever their bars, where horizons lie apart losses remember no more than is measured.
        block_length=1 if horizons_apart else block_length,
        num_resamples=limits.num_resamples,
    )
    winners = [
        (name, metric)
        for name, comparison in found.items()
        for metric in _JUDGED
        if adjusted[f"{name}/{metric}"] < 1.0 - limits.confidence
        and comparison.deltas[metric].inferior
    ]
    verdict, reasons = _control_verdict(found, winners)
    figures: dict[str, Any] = {
        "controls": {name: comparison_figures(value) for name, value in found.items()},
        "joint_p": adjusted,
        "winners": sorted({name for name, _ in winners}),
    }
    used = thresholds_used(limits, "margin_log_loss")
    return report(2, verdict, reasons, figures=figures, thresholds=used)


def _differences(
    y: ArrayLike, proba: ArrayLike, controls: Mapping[str, ArrayLike]
) -> dict[str, NDArray[np.float64]]:
    """Return candidate less control in each window, shape (n,), by ``control/metric``."""
    labels, candidate = clean_predictions(y, proba)
    found: dict[str, NDArray[np.float64]] = {}
    for name, control in controls.items():
        windows = window_differences(labels, candidate, clean_predictions(y, control)[1])
        found |= {f"{name}/{metric}": windows[metric] for metric in _JUDGED}
    return found


def _control_verdict(
    found: Mapping[str, PairedComparison], winners: list[tuple[str, str]]
) -> tuple[str, list[str]]:
    if winners:
        sentences = [
            f"STOP: {name} is better in {metric.replace('_', '-')}: "
            f"{signed(found[name], metric)} (candidate less {name})"
            for name, metric in winners
        ]
        return "failed", [*sentences, "look into labels and splits before training further"]
    texts = [f"against {name}, log-loss {signed(c, 'log_loss')}" for name, c in found.items()]
    coarsest = max(
        found.values(), key=lambda comparison: comparison.minimum_detectable["log_loss"] or 0.0
    )
    texts.append(reach(coarsest, "log_loss"))
    open_ = [_how_far(name, c) for name, c in found.items() if not _shown_no_worse(c)]
    if open_:
        return "inconclusive", [*open_, *texts]
    margin = next(iter(found.values())).deltas["log_loss"].margin
    return "passed", [f"no control is better by {margin:g} in log-loss", *texts]


def _shown_no_worse(comparison: PairedComparison) -> bool:
    loss = comparison.deltas["log_loss"]
    return loss.non_inferior and not loss.inferior


def _how_far(name: str, comparison: PairedComparison) -> str:
    """Say why there is no verdict against a control, and how far it may be ahead."""
    loss = comparison.deltas["log_loss"]
    if loss.high is None:
        return f"no verdict against {name}: {loss.reason}"
    if loss.inferior:
        return (
            f"{name} is ahead, by up to {loss.high:.4f} in log-loss, though not beyond doubt among "
            "all comparisons"
        )
    return (
        f"not shown to be as good as {name}, which may be ahead by up to {loss.high:.4f} in "
        f"log-loss (margin {loss.margin:g})"
    )
