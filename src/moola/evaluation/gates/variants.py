"""Gates 5, 6 and 7: augmentation, the simpler model, the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from moola.config.evaluation import Thresholds
from moola.errors import BadInput
from moola.evaluation.gates.comparison import (
    compare,
    comparison_figures,
    reach,
    signed,
    thresholds_used,
)
from moola.evaluation.gates.report import GateReport, need, report
from moola.evaluation.metrics import compute_metrics

_VALIDATION = "validation"


def gate_5_augmentation(
    y: ArrayLike,
    proba_augmented: ArrayLike,
    baselines: Mapping[str, ArrayLike],
    *,
    quality: Mapping[str, Any],
    trial: bool = False,
    block_length: int,
    horizons_apart: bool = False,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Gate 5: training with augmented windows costs at most two points of accuracy.

    Parameters
    ----------
    y, proba_augmented
        Labels, shape (n,), and the augmented model's probabilities, shape (n, K).
    baselines
        Probabilities of the same model trained without augmentation, by its name in the report; of
        several models the most accurate one is the bar.
    quality
        ``passed`` and ``train_only`` (both bool), ``reasons`` where either is false or something
        was not tested.
    trial
        The candidate itself does not augment: the gate only warns.
    block_length, horizons_apart, thresholds
        As `gate_1_baseline`.

    Returns
    -------
    GateReport
        ``passed`` where the whole interval of the accuracy difference lies above
        ``-max_accuracy_loss``; ``failed`` where it lies below, or the quality test failed.

    Raises
    ------
    BadInput
        If there is no baseline, `quality` lacks a key, or as `paired_comparison`.
    """
    if not baselines:
        raise BadInput("there is no baseline", limit="the same model's without augmentation")
    need(quality, ("passed", "train_only"), "the synthetic data's quality report")
    limits = thresholds or Thresholds.load()
    scores = {name: _score(y, proba) for name, proba in baselines.items()}
    best = max(scores, key=lambda name: scores[name])
    comparison = compare(
        y,
        proba_augmented,
        baselines[best],
        block_length=block_length,
        horizons_apart=horizons_apart,
        thresholds=limits,
    )
    delta, bar = comparison.deltas["accuracy"], limits.max_accuracy_loss
    text = f"accuracy against {best}: {signed(comparison, 'accuracy')}"
    faults = [] if quality["passed"] is True else ["the synthetic windows failed their test"]
    told = list(map(str, quality.get("reasons", ())))
    if quality["train_only"] is not True:
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
    reasons += [*told, reach(comparison, "accuracy")]
    return report(5, verdict, reasons, figures=figures, thresholds=used)


def gate_6_simple(
    y: ArrayLike,
    proba: ArrayLike,
    proba_simple: ArrayLike,
    *,
    block_length: int,
    horizons_apart: bool = False,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Gate 6 (warns): the candidate's log-loss is significantly below SimpleLSTM's.

    Parameters
    ----------
    y
        Labels, shape (n,).
    proba, proba_simple
        Probabilities of the candidate and of SimpleLSTM, shape (n, K).
    block_length, horizons_apart, thresholds
        As `gate_1_baseline`.

    Returns
    -------
    GateReport
        ``passed``, ``failed`` where SimpleLSTM is significantly better, else ``inconclusive``.

    Raises
    ------
    BadInput
        As `moola.evaluation.compare.paired_comparison`.
    """
    limits = thresholds or Thresholds.load()
    comparison = compare(
        y,
        proba,
        proba_simple,
        block_length=block_length,
        horizons_apart=horizons_apart,
        thresholds=limits,
    )
    delta, text = comparison.deltas["log_loss"], signed(comparison, "log_loss")
    if delta.superior:
        verdict, first = "passed", f"the bigger model is better in log-loss: {text}"
    elif delta.inferior:
        verdict, first = "failed", f"warning: SimpleLSTM is better in log-loss: {text}"
    else:
        verdict = "inconclusive"
        first = f"warning: the bigger model is not shown to be needed; log-loss {text}"
    figures = comparison_figures(comparison)
    reasons = (first, reach(comparison, "log_loss"))
    return report(6, verdict, reasons, figures=figures, thresholds=thresholds_used(limits))


def gate_7_ensemble(
    y: ArrayLike,
    proba_ensemble: ArrayLike,
    members: Mapping[str, ArrayLike],
    *,
    temperature_part: str,
    temperatures: Sequence[float] = (),
    block_length: int,
    horizons_apart: bool = False,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Gate 7 (warns): the calibrated ensemble is not worse than its best member.

    Parameters
    ----------
    y, proba_ensemble
        Labels, shape (n,), and the ensemble's probabilities, shape (n, K).
    members
        Probabilities of each member, by name; the one of the lowest log-loss is the bar.
    temperature_part
        The part the temperature was fitted on; anything but ``"validation"`` fails.
    temperatures
        One a fold, for the report.
    block_length, horizons_apart, thresholds
        As `gate_1_baseline`.

    Returns
    -------
    GateReport
        ``passed`` where the whole interval of the log-loss difference lies below the margin.

    Raises
    ------
    BadInput
        If there is no member, or as `moola.evaluation.compare.paired_comparison`.
    """
    if not members:
        raise BadInput("the ensemble has no member", limit="at least one")
    limits = thresholds or Thresholds.load()
    losses = {name: compute_metrics(y, proba)["log_loss"] for name, proba in members.items()}
    best = min(losses, key=lambda name: losses[name] or 0.0)
    comparison = compare(
        y,
        proba_ensemble,
        members[best],
        block_length=block_length,
        horizons_apart=horizons_apart,
        thresholds=limits,
    )
    delta = comparison.deltas["log_loss"]
    text = f"log-loss against {best}: {signed(comparison, 'log_loss')}"
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
    used = thresholds_used(limits, "margin_log_loss")
    reasons = (first, reach(comparison, "log_loss"))
    return report(7, verdict, reasons, figures=figures, thresholds=used)


def _score(y: ArrayLike, proba: ArrayLike) -> tuple[float, float]:
    metrics = compute_metrics(y, proba)
    return metrics["accuracy"] or 0.0, -(metrics["log_loss"] or 0.0)
