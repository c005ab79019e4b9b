"""Gate 1: whether the model knows anything."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.evaluation.calibration import ece_null, surprise_persistence
from moola.evaluation.gates.collapse import COLLAPSE_THRESHOLDS, answer_warnings, collapse_reasons
from moola.evaluation.gates.comparison import (
    GateContext,
    compare,
    comparison_figures,
    difference_text,
    power_text,
    takes_context,
    thresholds_used,
)
from moola.evaluation.gates.label_arithmetic import LabelArithmetic
from moola.evaluation.gates.report import GateReport, Verdict, report
from moola.evaluation.gates.slow_constant import Knowledge, knowledge
from moola.evaluation.gates.suspicion import LEAKS, SUSPICION_THRESHOLDS, hold, suspicions
from moola.evaluation.metrics import compute_metrics, undefined_reasons
from moola.evaluation.predictions import clean_predictions

NO_NULL = "the caller gave predictions alone"


@takes_context
def gate_1_baseline(
    y: ArrayLike,
    proba: ArrayLike,
    prior: ArrayLike,
    *,
    context: GateContext,
    arithmetic: LabelArithmetic | str = NO_NULL,
    repaired_share: float | None = None,
) -> GateReport:
    """Gate 1: log-loss significantly below three uninformed forecasts; no collapse.

    These are the class prior, the best slowly varying constant, and the label's own arithmetic.

    Parameters
    ----------
    y
        Class indices, shape (n,), validation windows of all folds in time order.
    proba
        The model's probabilities, shape (n, K).
    prior
        Class frequencies of the train part of each window's fold, shape (n, K).
    context
        Overlap of the windows, and thresholds.
    arithmetic
        The surrogate null (`moola.evaluation.gates.label_arithmetic.forecast_by_arithmetic`), or
        the reason why it cannot be computed; a pass then states that it was not tested against it.
    repaired_share
        Share of the rows of the bar file that repairs changed; None if unknown.

    Returns
    -------
    GateReport
        ``failed`` if the model collapsed or is significantly worse than the prior.
        ``inconclusive`` if one of the intervals (corrected for skewness) contains 0: of the
        difference to the prior, to the best slowly varying constant in hindsight, or to the best
        use of the label's arithmetic. ``held`` if it would not fail but is too good to be true
        (`moola.evaluation.gates.suspicion`). Useless hard answers are only a warning.

    Raises
    ------
    BadInput
        As `moola.evaluation.compare.paired_comparison`.
    """
    limits = context.thresholds
    comparison = compare(y, proba, prior, context, constant=True)
    labels, matrix = clean_predictions(y, proba)
    metrics = compute_metrics(labels, matrix)
    collapse = collapse_reasons(y, proba, prior, thresholds=limits)
    delta = comparison.deltas["log_loss"]
    null = ece_null(matrix, persisting=surprise_persistence(labels, matrix))
    figures = comparison_figures(comparison) | {"metrics": metrics}
    slow = knowledge(y, proba, prior, context)
    figures |= slow.figures()
    figures["p_values"]["slow_constant"] = slow.delta.p_value
    beyond: Knowledge | None = None
    if isinstance(arithmetic, LabelArithmetic):
        beyond = knowledge(y, proba, prior, context, arithmetic=arithmetic.proba)
        figures |= _arithmetic_figures(arithmetic, beyond)
        figures["p_values"]["label_arithmetic"] = beyond.delta.p_value
    figures["ece_null"] = {"mean": null.mean, "p95": null.p95}
    verdict: Verdict
    difference = difference_text(comparison, "log_loss")
    warnings = answer_warnings(y, proba, thresholds=limits)
    notes = [*warnings, *_ece_note(metrics["ece"], null.p95), power_text(comparison, "log_loss")]
    if collapse:
        verdict, reasons = "failed", list(collapse)
    elif delta.superior:
        verdict, reasons = "passed", [f"log-loss is below the class prior's: {difference}"]
    elif delta.inferior:
        verdict, reasons = "failed", [f"log-loss is above the class prior's: {difference}"]
    else:
        verdict = "inconclusive"
        reasons = [f"log-loss cannot be told from the class prior's: {difference}"]
    if verdict == "passed":
        doubts = _doubts(labels, matrix, slow, beyond)
        if doubts:
            verdict, reasons = "inconclusive", [*doubts, *reasons]
        else:
            reasons += [f"not luck of the base rate: {slow.text()}", _beyond(beyond, arithmetic)]
    if verdict != "failed":
        odd = suspicions(labels, matrix, thresholds=limits, repaired_share=repaired_share)
        if odd:
            reasons = [*hold(odd, verdict), *reasons]
            figures[LEAKS] = {"suspicions": odd, "beneath": verdict}
            verdict = "held"
    used = thresholds_used(limits, *COLLAPSE_THRESHOLDS, *SUSPICION_THRESHOLDS)
    return report(1, verdict, reasons + notes, figures=figures, thresholds=used)


def _ece_note(ece: float | None, p95: float) -> list[str]:
    if ece is None or ece <= p95:
        return []
    return [f"probabilities are off: ECE {ece:.3f}, a calibrated model stays below {p95:.3f}"]


def _arithmetic_figures(arithmetic: LabelArithmetic, beyond: Knowledge) -> dict[str, Any]:
    return {
        **arithmetic.figures(),
        "delta_label_arithmetic": beyond.delta.interval(),
        "log_loss_label_arithmetic": beyond.log_loss,
        "power_label_arithmetic": beyond.delta.power,
    }


def _beyond(beyond: Knowledge | None, arithmetic: LabelArithmetic | str) -> str:
    if beyond is not None:
        return f"beyond what the label gives away by itself: {beyond.text()}"
    return (
        f"the surrogate null was not computed: {arithmetic}; so what is shown is more than class "
        "frequencies, and a part of it may be the label's own arithmetic"
    )


def _doubts(
    labels: NDArray[np.intp],
    matrix: NDArray[np.float64],
    slow: Knowledge,
    beyond: Knowledge | None,
) -> list[str]:
    """Return why a log-loss below the prior's does not yet show knowledge."""
    doubts = []
    absent = undefined_reasons(labels, matrix).get("balanced_accuracy")
    if absent:
        doubts.append(f"{absent}, so its recall is not known")
    if not slow.delta.superior:
        doubts.append(
            "the gain over the prior may be only a better guess of the class frequencies: "
            f"{slow.text()}"
        )
    if beyond is not None and not beyond.delta.superior:
        doubts.append(
            "the gain may be only what the label's own arithmetic gives away, on bars in no order "
            f"too: {beyond.text()}"
        )
    return doubts
