"""Gate 4: whether the encoder was loaded, trained as scheduled, and helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from moola.config.evaluation import Thresholds
from moola.errors import BadInput
from moola.evaluation.calibration import ece_null, surprise_persistence
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
from moola.evaluation.gates.report import GateReport, Verdict, report, require_keys
from moola.evaluation.metrics import compute_metrics

_TRAIN_AGAIN = "Train the candidate again"


@takes_context
def gate_4_transfer(
    y: ArrayLike,
    proba_transfer: ArrayLike,
    proba_scratch: ArrayLike,
    *,
    load_report: Mapping[str, Any],
    schedule_proof: Mapping[str, Any],
    context: GateContext,
) -> GateReport:
    """Gate 4: the encoder was loaded, trained as scheduled, and helps.

    Parameters
    ----------
    y
        Class indices, shape (n,).
    proba_transfer, proba_scratch
        Probabilities with the pretrained encoder and from scratch, shape (n, K).
    load_report
        ``match_ratio_encoder`` (0 to 1) and ``num_mismatched``.
    schedule_proof
        ``proven`` and, where it is false, ``reasons``.
    context
        Overlap of the windows, and thresholds.

    Returns
    -------
    GateReport
        ``passed`` if log-loss and Brier score are both significantly lower, PR-AUC is higher, and
        ECE is not higher. ``failed`` if the load or the schedule is not proven, the predictions
        equal those of the baseline ("no effect"), or either score is significantly worse; otherwise
        ``inconclusive``. ECE counts as higher only if the whole interval of the difference is above
        0 and the ECE itself exceeds the null band of a calibrated model.

    Raises
    ------
    BadInput
        If the load report or the proof lacks a key, or as
        `moola.evaluation.compare.paired_comparison`.
    """
    limits = context.thresholds
    comparison = compare(y, proba_transfer, proba_scratch, context)
    unproven = _load_faults(load_report, limits) + _schedule_faults(schedule_proof)
    figures = comparison_figures(comparison) | {
        "match_ratio_encoder": float(load_report["match_ratio_encoder"]),
        "num_mismatched": int(load_report["num_mismatched"]),
        "schedule_proven": bool(schedule_proof["proven"]),
    }
    verdict: Verdict
    if comparison.identical_predictions:
        verdict = "failed"
        reasons = [
            "no effect: the predictions are identical to the baseline's in all "
            f"{comparison.num_windows} windows, so the encoder changed nothing",
            *unproven,
        ]
    elif unproven:
        verdict, reasons = "failed", unproven
    else:
        verdict, reasons = _transfer_verdict(comparison, _ece_up(y, proba_transfer, comparison))
    reasons.append(power_text(comparison, "log_loss"))
    used = thresholds_used(limits, "min_match_ratio", "max_mismatched")
    return report(4, verdict, reasons, figures=figures, thresholds=used)


def _transfer_verdict(comparison: PairedComparison, ece_up: bool) -> tuple[Verdict, list[str]]:
    deltas = comparison.deltas
    texts = [
        f"{name.replace('_', '-')} {difference_text(comparison, name)}"
        for name in ("log_loss", "brier", "pr_auc", "ece")
    ]
    worse = [name for name in ("log_loss", "brier") if deltas[name].inferior]
    if worse:
        return "failed", [f"transfer harms: {' and '.join(worse)} worse", *texts]
    if not (deltas["log_loss"].superior and deltas["brier"].superior):
        return "inconclusive", ["the gain of transfer is not beyond doubt", *texts]
    against = []
    gain = deltas["pr_auc"].estimate
    if gain is None or not gain > 0:
        against.append("PR-AUC is not up")
    if ece_up:
        against.append("ECE is up")
    if against:
        return "inconclusive", [f"log-loss and Brier gain, but {', '.join(against)}", *texts]
    return "passed", ["transfer helps: log-loss and Brier score are lower beyond doubt", *texts]


def _ece_up(y: ArrayLike, proba: ArrayLike, comparison: PairedComparison) -> bool:
    ece = compute_metrics(y, proba)["ece"]
    null = ece_null(proba, persisting=surprise_persistence(y, proba))
    return comparison.deltas["ece"].inferior and (ece is None or ece > null.p95)


def _load_faults(load_report: Mapping[str, Any], limits: Thresholds) -> list[str]:
    require_keys(load_report, ("match_ratio_encoder", "num_mismatched"), "the load report")
    ratio, mismatched = load_report["match_ratio_encoder"], load_report["num_mismatched"]
    if not (math.isfinite(ratio) and 0 <= ratio <= 1):
        raise BadInput(
            f"match_ratio_encoder is {ratio}", limit="a number in [0, 1]", remedy=_TRAIN_AGAIN
        )
    if not (math.isfinite(mismatched) and mismatched >= 0):
        raise BadInput(
            f"num_mismatched is {mismatched}", limit="a number of at least 0", remedy=_TRAIN_AGAIN
        )
    faults = []
    if ratio < limits.min_match_ratio:
        faults.append(
            f"{ratio:.1%} of the encoder's tensors were loaded, at least "
            f"{limits.min_match_ratio:.0%} are needed"
        )
    if mismatched > limits.max_mismatched:
        faults.append(f"{mismatched} tensors have another shape than the model's")
    return faults


def _schedule_faults(proof: Mapping[str, Any]) -> list[str]:
    require_keys(proof, ("proven",), "the freeze schedule's proof")
    if proof["proven"] is True:
        return []
    return [f"freeze schedule: {text}" for text in proof.get("reasons") or ("not proven",)]
