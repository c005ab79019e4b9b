"""Gate 2: whether deep learning is needed, or a control does as well.

To pass, the candidate must be non-inferior to *every* control, each by its own interval. This
needs no correction (an intersection-union test, Berger 1982): if one control is ahead by the
margin, its own interval errs with the gate's error probability, however many others there are. To
stop, *one* better control is enough; the best of many looks better than it is, so there the
p-values are adjusted jointly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.config.evaluation import CONTROLS
from moola.errors import BadInput
from moola.evaluation.compare import window_differences
from moola.evaluation.compare_result import PairedComparison
from moola.evaluation.gates.comparison import (
    GateContext,
    compare,
    comparison_figures,
    difference_text,
    power_text,
    takes_context,
    thresholds_used,
)
from moola.evaluation.gates.family import joint_p_values
from moola.evaluation.gates.report import GateReport, Verdict, report
from moola.evaluation.predictions import clean_predictions

_JUDGED = ("log_loss", "accuracy")


@takes_context
def gate_2_control(
    y: ArrayLike,
    proba: ArrayLike,
    controls: Mapping[str, ArrayLike],
    *,
    context: GateContext,
) -> GateReport:
    """Gate 2: no control (MiniRocket, logistic regression, trees) is better by the margin.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and the candidate's probabilities, shape (n, K).
    controls
        Probabilities of each control on the same windows, by name.
    context
        Overlap of the windows, and thresholds.

    Returns
    -------
    GateReport
        ``passed`` if the candidate is non-inferior to every control: the whole interval of the
        log-loss difference lies below ``margin_log_loss`` and not wholly above 0. ``failed`` if a
        control wins: it is better in log-loss or accuracy, with a p-value below 1 - confidence
        after the joint adjustment over all controls and both metrics
        (`moola.evaluation.gates.family.joint_p_values`). Accuracy counts because a control with
        uncalibrated probabilities can never win on log-loss. Otherwise ``inconclusive``, with the
        largest lead the control may have.

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
    limits = context.thresholds
    comparisons = {name: compare(y, proba, control, context) for name, control in controls.items()}
    differences = _differences(y, proba, controls)
    p_values = {
        f"{name}/{metric}": comparison.deltas[metric].p_value
        for name, comparison in comparisons.items()
        for metric in _JUDGED
    }
    adjusted = joint_p_values(
        {key: 1.0 if value is None else value for key, value in p_values.items()},
        differences,
        # With horizons apart, shared bars add no dependence of the losses beyond what is measured.
        block_length=1 if context.horizons_apart else context.block_length,
        num_resamples=limits.num_resamples,
    )
    winners = [
        (name, metric)
        for name, comparison in comparisons.items()
        for metric in _JUDGED
        if adjusted[f"{name}/{metric}"] < 1.0 - limits.confidence
        and comparison.deltas[metric].inferior
    ]
    verdict, reasons = _control_verdict(comparisons, winners)
    figures: dict[str, Any] = {
        "controls": {name: comparison_figures(value) for name, value in comparisons.items()},
        "joint_p": adjusted,
        "winners": sorted({name for name, _ in winners}),
    }
    used = thresholds_used(limits, "margin_log_loss")
    return report(2, verdict, reasons, figures=figures, thresholds=used)


def _differences(
    y: ArrayLike, proba: ArrayLike, controls: Mapping[str, ArrayLike]
) -> dict[str, NDArray[np.float64]]:
    """Return the per-window differences to each control, shape (n,), by ``control/metric``."""
    labels, candidate = clean_predictions(y, proba)
    differences: dict[str, NDArray[np.float64]] = {}
    for name, control in controls.items():
        windows = window_differences(labels, candidate, clean_predictions(y, control)[1])
        differences |= {f"{name}/{metric}": windows[metric] for metric in _JUDGED}
    return differences


def _control_verdict(
    comparisons: Mapping[str, PairedComparison], winners: list[tuple[str, str]]
) -> tuple[Verdict, list[str]]:
    if winners:
        sentences = [
            f"STOP: {name} is better in {metric.replace('_', '-')}: "
            f"{difference_text(comparisons[name], metric)} (candidate less {name})"
            for name, metric in winners
        ]
        return "failed", [*sentences, "look into labels and splits before training further"]
    texts = [
        f"against {name}, log-loss {difference_text(c, 'log_loss')}"
        for name, c in comparisons.items()
    ]
    coarsest = max(
        comparisons.values(),
        key=lambda comparison: comparison.minimum_detectable["log_loss"] or 0.0,
    )
    texts.append(power_text(coarsest, "log_loss"))
    doubts = [_how_far(name, c) for name, c in comparisons.items() if not _shown_no_worse(c)]
    if doubts:
        return "inconclusive", [*doubts, *texts]
    margin = next(iter(comparisons.values())).deltas["log_loss"].margin
    return "passed", [f"no control is better by {margin:g} in log-loss", *texts]


def _shown_no_worse(comparison: PairedComparison) -> bool:
    loss = comparison.deltas["log_loss"]
    return loss.non_inferior and not loss.inferior


def _how_far(name: str, comparison: PairedComparison) -> str:
    """Return why there is no verdict against a control, and the lead it may have."""
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
