"""Gate 2: is deep learning needed, or does a control do as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from moola.config.evaluation import Thresholds
from moola.errors import BadInput
from moola.evaluation.compare_result import PairedComparison
from moola.evaluation.family import holm
from moola.evaluation.gate_comparison import (
    compare,
    comparison_figures,
    reach,
    signed,
    thresholds_used,
)
from moola.evaluation.gate_report import GateReport, report


def gate_2_control(
    y: ArrayLike,
    proba: ArrayLike,
    controls: Mapping[str, ArrayLike],
    *,
    block_length: int,
    horizons_apart: bool = False,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Gate 2: no control (MiniRocket, logistic regression) is significantly better.

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
        ``failed`` where a control wins: it is better in log-loss or in accuracy with a
        Holm-adjusted p-value (over all controls and both metrics) below 1 - confidence. Accuracy
        counts too because a control with uncalibrated probabilities can never win on log-loss.

    Raises
    ------
    BadInput
        If there is no control, or as `moola.evaluation.compare.paired_comparison`.
    """
    if not controls:
        raise BadInput(
            "there is no control to compare with",
            limit="at least one of minirocket, logreg",
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
    raw = {
        f"{name}/{metric}": comparison.deltas[metric].p_value
        for name, comparison in found.items()
        for metric in ("log_loss", "accuracy")
    }
    adjusted = holm({key: 1.0 if value is None else value for key, value in raw.items()})
    winners = [
        (name, metric)
        for name, comparison in found.items()
        for metric in ("log_loss", "accuracy")
        if adjusted[f"{name}/{metric}"] < 1.0 - limits.confidence
        and comparison.deltas[metric].inferior
    ]
    blind = [name for name, value in found.items() if value.deltas["log_loss"].low is None]
    verdict, reasons = _control_verdict(found, winners, blind)
    figures: dict[str, Any] = {
        "controls": {name: comparison_figures(value) for name, value in found.items()},
        "holm_p": adjusted,
        "winners": sorted({name for name, _ in winners}),
    }
    return report(2, verdict, reasons, figures=figures, thresholds=thresholds_used(limits))


def _control_verdict(
    found: Mapping[str, PairedComparison], winners: list[tuple[str, str]], blind: list[str]
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
    if blind:
        return "inconclusive", [f"no verdict against {', '.join(blind)}", *texts]
    return "passed", ["no control is significantly better", *texts]
