"""Gates 5, 6 and 7: augmentation, the simpler model, the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from moola.errors import BadInput
from moola.evaluation.gates.comparison import (
    GateContext,
    compare,
    comparison_figures,
    difference_text,
    power_text,
    takes_context,
    thresholds_used,
)
from moola.evaluation.gates.report import GateReport, Verdict, report
from moola.evaluation.metrics import compute_metrics

_VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True)
class AugmentationQuality:
    """The test of the synthetic windows a candidate is trained with.

    Attributes
    ----------
    passed, train_only
        Whether the test passed, and whether every window was made from the train part.
    reasons
        What failed or could not be tested.
    """

    passed: bool
    train_only: bool
    reasons: tuple[str, ...] = ()


@takes_context
def gate_5_augmentation(
    y: ArrayLike,
    proba_augmented: ArrayLike,
    baselines: Mapping[str, ArrayLike],
    *,
    context: GateContext,
    quality: AugmentationQuality,
    trial: bool = False,
) -> GateReport:
    """Gate 5: training with augmented windows costs at most two points of accuracy.

    Parameters
    ----------
    y, proba_augmented
        Labels, shape (n,), and the augmented model's probabilities, shape (n, K).
    baselines
        Probabilities of the same model trained without augmentation, by its name in the report; the
        most accurate of several is the baseline.
    context
        Overlap of the windows, and thresholds.
    quality
        The test of the synthetic windows.
    trial
        The candidate itself does not augment: the gate only warns.

    Returns
    -------
    GateReport
        ``passed`` if the whole interval of the accuracy difference lies above
        ``-max_accuracy_loss``; ``failed`` if it lies below, or the quality test failed.

    Raises
    ------
    BadInput
        If there is no baseline, or as `moola.evaluation.compare.paired_comparison`.
    """
    if not baselines:
        raise BadInput(
            "there is no baseline",
            limit="the same model's predictions without augmentation",
            remedy="Predict the folds once more without augmentation",
        )
    limits = context.thresholds
    scores = {name: _score(y, proba) for name, proba in baselines.items()}
    best = max(scores, key=lambda name: scores[name])
    comparison = compare(y, proba_augmented, baselines[best], context)
    verdict: Verdict
    delta, bar = comparison.deltas["accuracy"], limits.max_accuracy_loss
    text = f"accuracy against {best}: {difference_text(comparison, 'accuracy')}"
    faults = [] if quality.passed else ["the synthetic windows failed their test"]
    if not quality.train_only:
        faults.append("synthetic windows are not confined to the train part")
    if faults:
        verdict, reasons = "failed", [*faults, text]
    elif delta.non_inferior:
        verdict, reasons = "passed", [f"not more than {bar:.0%} lost; {text}"]
    elif delta.high is not None and delta.high < -bar:
        verdict, reasons = "failed", [f"more than {bar:.0%} lost; {text}"]
    else:
        verdict, reasons = "inconclusive", [f"a loss of more than {bar:.0%} is possible; {text}"]
    if trial:
        reasons[0] = f"a trial, the candidate does not augment: {reasons[0]}"
    figures = comparison_figures(comparison) | {"baseline": best, "trial": trial}
    used = thresholds_used(limits, "max_accuracy_loss")
    reasons += [*quality.reasons, power_text(comparison, "accuracy")]
    return report(5, verdict, reasons, figures=figures, thresholds=used)


@takes_context
def gate_6_simple(
    y: ArrayLike,
    proba: ArrayLike,
    proba_simple: ArrayLike,
    *,
    context: GateContext,
) -> GateReport:
    """Gate 6 (warns): the candidate's log-loss is significantly below SimpleLSTM's.

    Parameters
    ----------
    y
        Labels, shape (n,).
    proba, proba_simple
        Probabilities of the candidate and of SimpleLSTM, shape (n, K).
    context
        Overlap of the windows, and thresholds.

    Returns
    -------
    GateReport
        ``passed``, ``failed`` if SimpleLSTM is significantly better, else ``inconclusive``.

    Raises
    ------
    BadInput
        As `moola.evaluation.compare.paired_comparison`.
    """
    comparison = compare(y, proba, proba_simple, context)
    verdict: Verdict
    delta, text = comparison.deltas["log_loss"], difference_text(comparison, "log_loss")
    if delta.superior:
        verdict, first = "passed", f"the bigger model is better in log-loss: {text}"
    elif delta.inferior:
        verdict, first = "failed", f"warning: SimpleLSTM is better in log-loss: {text}"
    else:
        verdict = "inconclusive"
        first = f"warning: the bigger model is not shown to be needed; log-loss {text}"
    figures = comparison_figures(comparison)
    reasons = (first, power_text(comparison, "log_loss"))
    return report(
        6, verdict, reasons, figures=figures, thresholds=thresholds_used(context.thresholds)
    )


@takes_context
def gate_7_ensemble(
    y: ArrayLike,
    proba_ensemble: ArrayLike,
    members: Mapping[str, ArrayLike],
    *,
    context: GateContext,
    temperature_part: str,
    temperatures: Sequence[float] = (),
) -> GateReport:
    """Gate 7 (warns): the calibrated ensemble is not worse than its best member.

    Parameters
    ----------
    y, proba_ensemble
        Labels, shape (n,), and the ensemble's probabilities, shape (n, K).
    members
        Probabilities of each member, by name; the one with the lowest log-loss is the baseline.
    context
        Overlap of the windows, and thresholds.
    temperature_part
        The part the temperature was fitted on; anything but ``"validation"`` fails.
    temperatures
        One per fold, for the report.

    Returns
    -------
    GateReport
        ``passed`` if the whole interval of the log-loss difference lies below the margin.

    Raises
    ------
    BadInput
        If there is no member, or as `moola.evaluation.compare.paired_comparison`.
    """
    if not members:
        raise BadInput(
            "the ensemble has no member",
            limit="at least one",
            remedy="Pass the probabilities that were averaged, by model",
        )
    losses = {name: compute_metrics(y, proba)["log_loss"] for name, proba in members.items()}
    best = min(losses, key=lambda name: losses[name] or 0.0)
    comparison = compare(y, proba_ensemble, members[best], context)
    verdict: Verdict
    delta = comparison.deltas["log_loss"]
    text = f"log-loss against {best}: {difference_text(comparison, 'log_loss')}"
    if temperature_part != _VALIDATION:
        verdict = "failed"
        first = f"warning: the temperature was fitted on {temperature_part}, not on validation"
    elif delta.non_inferior:
        verdict, first = "passed", f"not worse than its best member; {text}"
    elif delta.inferior:
        verdict, first = "failed", f"warning: worse than its best member; {text}"
    else:
        verdict, first = "inconclusive", f"warning: may be worse than its best member; {text}"
    figures = comparison_figures(comparison) | {
        "best_member": best,
        "log_loss_members": losses,
        "temperatures": list(temperatures),
    }
    used = thresholds_used(context.thresholds, "margin_log_loss")
    reasons = (first, power_text(comparison, "log_loss"))
    return report(7, verdict, reasons, figures=figures, thresholds=used)


def _score(y: ArrayLike, proba: ArrayLike) -> tuple[float, float]:
    metrics = compute_metrics(y, proba)
    return metrics["accuracy"] or 0.0, -(metrics["log_loss"] or 0.0)
