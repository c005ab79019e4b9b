"""The promotion gate: candidate and champion side by side on the locked test windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from moola.errors import BadInput
from moola.evaluation.compare_result import PairedComparison
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
from moola.evaluation.gates.report import GateReport, Verdict, report
from moola.evaluation.gates.slow_constant import Knowledge, best_constant_loss, knowledge
from moola.evaluation.metrics import compute_metrics

CLASS_PRIOR = "class prior"
REQUIRED_GATES = (0, 1, 2)
ENCODER_GATES = (3, 4)
SYNTHETIC_GATES = (5,)


def promotion_prerequisites(
    gate_verdicts: Mapping[int, str], *, uses_encoder: bool, uses_synthetic: bool
) -> tuple[str, ...]:
    """Return the reasons against a look at the test windows.

    Parameters
    ----------
    gate_verdicts
        Verdict by gate; an absent gate counts as not run.
    uses_encoder, uses_synthetic
        Whether the candidate has a pretrained encoder, or was trained with synthetic windows.

    Returns
    -------
    tuple
        One sentence per required gate that has not passed, and per other gate that is ``held``.
    """
    needed = REQUIRED_GATES + (ENCODER_GATES if uses_encoder else ())
    needed += SYNTHETIC_GATES if uses_synthetic else ()
    others = tuple(g for g, v in gate_verdicts.items() if v == "held" and g not in needed)
    return tuple(
        f"gate {gate} must have passed, it is {gate_verdicts.get(gate, 'not run')}"
        for gate in needed + others
        if gate_verdicts.get(gate) != "passed"
    )


@takes_context
def gate_promotion(
    y_test: ArrayLike,
    proba_candidate: ArrayLike,
    proba_champion: ArrayLike,
    *,
    context: GateContext,
    champion_name: str,
    gate_verdicts: Mapping[int, str],
    uses_encoder: bool,
    uses_synthetic: bool,
    prior: ArrayLike | None = None,
    num_looks: int = 1,
) -> GateReport:
    """Decide whether the candidate may replace the champion.

    Parameters
    ----------
    y_test
        Class indices of the locked test windows, shape (n,), in time order.
    proba_candidate, proba_champion
        Probabilities of both on these windows, shape (n, K). With nothing in Production, pass the
        class prior and call it ``"class prior"``.
    context
        Overlap of the windows, and thresholds.
    champion_name
        For the reasons; ``"class prior"`` (`CLASS_PRIOR`) selects the stricter rule.
    gate_verdicts, uses_encoder, uses_synthetic
        See `promotion_prerequisites`.
    prior
        Class frequencies of the train part, shape (n, K). None: those of the test windows
        themselves, the best constant in hindsight, which is harder to beat.
    num_looks
        Number of looks at these test windows, this one included; see `look_confidence`.

    Returns
    -------
    GateReport
        ``blocked`` if a required gate has not passed (nothing is computed then). ``failed`` if the
        candidate collapsed, its log-loss is not below the prior's, its predictions equal the
        champion's, or its log-loss is significantly above the champion's. ``passed`` if its
        log-loss is significantly below the champion's or, against a real champion, non-inferior
        within ``margin_log_loss`` with a significantly lower ECE. In either case its log-loss must
        also be significantly below that of the best slowly varying constant, as in gate 1.
        Otherwise ``inconclusive``, and Production stays. Against the class prior only "better"
        counts, since being as good as no model is no merit.

    Raises
    ------
    BadInput
        If `num_looks` is below 1, or as `moola.evaluation.compare.paired_comparison`.
    """
    limits = context.thresholds
    if num_looks < 1:
        raise BadInput(f"num_looks is {num_looks}", limit="at least 1, this look included")
    missing = promotion_prerequisites(
        gate_verdicts, uses_encoder=uses_encoder, uses_synthetic=uses_synthetic
    )
    if missing:
        return report("promotion", "blocked", missing)
    doors = 1 if champion_name == CLASS_PRIOR else 2  # better, or as good and better calibrated
    confidence = look_confidence(limits.confidence, num_looks, num_doors=doors)
    look = replace(context, thresholds=replace(limits, confidence=confidence))
    comparison = compare(
        y_test, proba_candidate, proba_champion, look, constant=champion_name == CLASS_PRIOR
    )
    first = compute_metrics(y_test, proba_candidate)
    second = compute_metrics(y_test, proba_champion)
    prior_loss = _prior_loss(y_test, proba_champion, prior, champion_name)
    refusals = [
        *_prior_refusal(first["log_loss"], prior_loss),
        *collapse_reasons(y_test, proba_candidate, thresholds=limits),
    ]
    slow = knowledge(y_test, proba_candidate, None, look)
    verdict, sentence = _known(*_decide(comparison, champion_name), slow)
    if refusals:
        verdict = "failed"
    warnings = answer_warnings(y_test, proba_candidate, thresholds=limits)
    power = power_text(comparison, "log_loss")
    reasons = [*refusals, sentence, *warnings, power, _looks(num_looks, confidence)]
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
    """Return the two-sided confidence of one look at test windows, given the looks before it.

    A false "better" lies on one side of an interval. Look k may err there with probability
    ``alpha / (k (k + 1))``, alpha being ``1 - confidence``; these add up to at most alpha over any
    number of looks (union bound, "alpha spending"). The ways in which a look may pass share its
    error probability. The first look with one way has `confidence` itself.

    Parameters
    ----------
    confidence
        Two-sided, of the first look, in (0, 1).
    num_looks
        k, this look included, at least 1.
    num_doors
        d, the number of ways in which a look may pass: two against a champion (better; or not worse
        and better calibrated), one against the class prior.

    Returns
    -------
    float
        ``1 - 2 alpha / (d k (k + 1))``.
    """
    return 1.0 - 2.0 * (1.0 - confidence) / (num_doors * num_looks * (num_looks + 1))


def _decide(comparison: PairedComparison, champion: str) -> tuple[Verdict, str]:
    loss, ece = comparison.deltas["log_loss"], comparison.deltas["ece"]
    text = f"log-loss against {champion} {difference_text(comparison, 'log_loss')}"
    calibration = f"ECE {difference_text(comparison, 'ece')}"
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


def _known(verdict: Verdict, sentence: str, slow: Knowledge) -> tuple[Verdict, str]:
    """Withdraw a pass whose gain may be only a better guess of the class frequencies."""
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
    constant = proba_champion if prior is None else prior
    return float(compute_metrics(y, constant)["log_loss"] or 0.0)


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
