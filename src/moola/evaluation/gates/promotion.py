"""The promotion gate: candidate and champion side by side on the locked test windows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from moola.config.evaluation import Thresholds
from moola.errors import BadInput
from moola.evaluation.compare_result import PairedComparison
from moola.evaluation.gates.collapse import COLLAPSE_THRESHOLDS, answer_warnings, collapse_reasons
from moola.evaluation.gates.comparison import (
    compare,
    comparison_figures,
    reach,
    signed,
    thresholds_used,
)
from moola.evaluation.gates.report import GateReport, report
from moola.evaluation.gates.slow_constant import Knowledge, best_constant_loss, knowledge
from moola.evaluation.metrics import compute_metrics

CLASS_PRIOR = "class prior"
REQUIRED_GATES = (0, 1, 2)
ENCODER_GATES = (3, 4)
SYNTHETIC_GATES = (5,)


def promotion_prerequisites(
    gate_verdicts: Mapping[int, str], *, uses_encoder: bool, uses_synthetic: bool
) -> tuple[str, ...]:
    """Return what forbids a look at the test windows.

    Parameters
    ----------
    gate_verdicts
        Verdict by gate; a gate that is absent counts as not run.
    uses_encoder, uses_synthetic
        Whether the candidate has a pretrained encoder, or was trained with synthetic windows.

    Returns
    -------
    tuple
        One sentence for each required gate that has not passed; empty where nothing is missing.
    """
    needed = REQUIRED_GATES + (ENCODER_GATES if uses_encoder else ())
    needed += SYNTHETIC_GATES if uses_synthetic else ()
    held = tuple(g for g, v in gate_verdicts.items() if v == "held" and g not in needed)
    return tuple(
        f"gate {gate} must have passed, it is {gate_verdicts.get(gate, 'not run')}"
        for gate in needed + held
        if gate_verdicts.get(gate) != "passed"
    )


def gate_promotion(
    y_test: ArrayLike,
    proba_candidate: ArrayLike,
    proba_champion: ArrayLike,
    *,
    champion_name: str,
    gate_verdicts: Mapping[int, str],
    uses_encoder: bool,
    uses_synthetic: bool,
    block_length: int,
    horizons_apart: bool = False,
    prior: ArrayLike | None = None,
    num_looks: int = 1,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Decide whether the candidate may replace the champion.

    Parameters
    ----------
    y_test
        Class indices of the locked test windows, shape (n,), in time order.
    proba_candidate, proba_champion
        Probabilities of both on these windows, shape (n, K). Where nothing is in Production, pass
        the class prior and call it ``"class prior"``.
    champion_name
        Shown in the reasons; ``"class prior"`` (`CLASS_PRIOR`) selects the stricter rule.
    gate_verdicts, uses_encoder, uses_synthetic
        As `promotion_prerequisites`.
    block_length, horizons_apart
        See `moola.evaluation.compare.paired_comparison`.
    prior
        Class frequencies of the train part, shape (n, K). Where None, those of the test windows
        themselves: the best constant in hindsight, which is harder to beat.
    num_looks
        How often these test windows have been looked at, this look included; see
        `look_confidence`.
    thresholds
        Moola's own where None.

    Returns
    -------
    GateReport
        ``blocked`` where a required gate has not passed (nothing is computed then). ``failed``
        where the candidate collapsed, its log-loss is not below the prior's, its predictions are
        the champion's, or its log-loss is significantly above the champion's. ``passed`` where
        its log-loss is significantly below the champion's, or, against a real champion, not more
        than ``margin_log_loss`` above it (whole interval) and its ECE significantly lower.
        Whatever the champion, its log-loss must
        also be below that of the best slowly varying constant, by the interval, as in gate 1.
        ``inconclusive`` otherwise: Production stays. Against the class prior only "better" counts,
        since to be as good as no model is no merit.

    Raises
    ------
    BadInput
        If `num_looks` is below 1, or as `moola.evaluation.compare.paired_comparison`.
    """
    limits = thresholds or Thresholds.load()
    if num_looks < 1:
        raise BadInput(f"num_looks is {num_looks}", limit="at least 1, this look included")
    missing = promotion_prerequisites(
        gate_verdicts, uses_encoder=uses_encoder, uses_synthetic=uses_synthetic
    )
    if missing:
        return report("promotion", "blocked", missing)
    doors = 1 if champion_name == CLASS_PRIOR else 2  # better, or as good and better calibrated
    confidence = look_confidence(limits.confidence, num_looks, num_doors=doors)
    comparison = compare(
        y_test,
        proba_candidate,
        proba_champion,
        block_length=block_length,
        horizons_apart=horizons_apart,
        thresholds=limits,
        confidence=confidence,
        skewed=champion_name == CLASS_PRIOR,
    )
    first = compute_metrics(y_test, proba_candidate)
    second = compute_metrics(y_test, proba_champion)
    prior_loss = _prior_loss(y_test, proba_champion, prior, champion_name)
    refusals = [
        *_prior_refusal(first["log_loss"], prior_loss),
        *collapse_reasons(y_test, proba_candidate, thresholds=limits),
    ]
    slow = knowledge(
        y_test,
        proba_candidate,
        None,
        block_length=block_length,
        horizons_apart=horizons_apart,
        thresholds=limits,
        confidence=confidence,
    )
    verdict, sentence = _known(*_decide(comparison, champion_name), slow)
    if refusals:
        verdict = "failed"
    warnings = answer_warnings(y_test, proba_candidate, thresholds=limits)
    reach_ = reach(comparison, "log_loss")
    reasons = [*refusals, sentence, *warnings, reach_, _looks(num_looks, confidence)]
    figures = comparison_figures(comparison) | {
        "champion": champion_name,
        "metrics": first,
        "metrics_champion": second,
        "log_loss_prior": prior_loss,
        "num_looks": num_looks,
        **slow.figures(),
    }
    used = thresholds_used(limits, "margin_log_loss", *COLLAPSE_THRESHOLDS)
    return report("promotion", verdict, reasons, figures=figures, thresholds=used)


def look_confidence(confidence: float, num_looks: int, *, num_doors: int = 1) -> float:
    """Return the two-sided confidence of one look at test windows that were looked at before.

    A false "better" lies on one side of an interval. Look k may err there with probability
    ``alpha / (k (k + 1))``, alpha being ``1 - confidence``; these add up to at most alpha over any
    number of looks (union bound, "alpha spending"). The ways in which a look may pass share what
    it may err. The first look with one way keeps `confidence` itself.

    Parameters
    ----------
    confidence
        Two-sided, of the first look, in (0, 1).
    num_looks
        k, this look included, at least 1.
    num_doors
        d, in how many ways a look may pass: two against a champion (better; or not worse and better
        calibrated), one against the class prior.

    Returns
    -------
    float
        ``1 - 2 alpha / (d k (k + 1))``.
    """
    return 1.0 - 2.0 * (1.0 - confidence) / (num_doors * num_looks * (num_looks + 1))


def _decide(comparison: PairedComparison, champion: str) -> tuple[str, str]:
    loss, ece = comparison.deltas["log_loss"], comparison.deltas["ece"]
    text = f"log-loss against {champion} {signed(comparison, 'log_loss')}"
    calibration = f"ECE {signed(comparison, 'ece')}"
    if comparison.identical_predictions:
        return "failed", f"no effect: the predictions are those of {champion}"
    if loss.superior:
        return "passed", f"better than {champion}: {text}"
    if loss.inferior:
        return "failed", f"worse than {champion}: {text}"
    if champion != CLASS_PRIOR and loss.non_inferior and ece.superior:
        margin = f"{loss.margin:g}"
        return (
            "passed",
            f"within {margin} of {champion} and better calibrated: {text}; {calibration}",
        )
    return "inconclusive", f"not shown to be better than {champion}: {text}; {calibration}"


def _known(verdict: str, sentence: str, slow: Knowledge) -> tuple[str, str]:
    """Take a pass back where the gain may be only a better guess of the class frequencies."""
    if verdict != "passed":
        return verdict, sentence
    if slow.delta.superior:
        return "passed", f"{sentence}; {slow.text()}"
    return (
        "inconclusive",
        "not shown to know more than how often each class occurs: the gain may be only a better "
        f"guess of the class frequencies: {slow.text()}; {sentence}",
    )


def _prior_loss(
    y: ArrayLike, proba_champion: ArrayLike, prior: ArrayLike | None, champion: str
) -> float:
    if prior is None and champion != CLASS_PRIOR:
        num_classes = np.asarray(proba_champion).shape[1]
        return best_constant_loss(np.asarray(y, dtype=np.intp), num_classes)
    given = proba_champion if prior is None else prior
    return float(compute_metrics(y, given)["log_loss"] or 0.0)


def _prior_refusal(loss: float | None, prior_loss: float) -> list[str]:
    if loss is not None and loss < prior_loss:
        return []
    return [
        f"log-loss {loss if loss is None else f'{loss:.4f}'} is not below the class prior's "
        f"{prior_loss:.4f}"
    ]


def _looks(num_looks: int, confidence: float) -> str:
    if num_looks == 1:
        return f"first look at these test windows: intervals of {confidence:.2%}"
    return (
        f"look number {num_looks} at these test windows, hence intervals of {confidence:.2%} "
        "(alpha spending)"
    )
