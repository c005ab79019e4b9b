"""Too good to be true: suspicions about a result, and a person's answers to them.

A leak makes a model look better than markets allow. Above stated bounds a gate that has not failed
is ``held`` until a person has read the leak checks of `moola investigate` and answered every
suspicion and every check that shows a leak. The answers are part of the gate report, and so of the
signed evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

from moola.config.evaluation import Thresholds
from moola.data.ingest.options import MOST_REPAIRED
from moola.errors import BadInput
from moola.evaluation.gates.leak_checks import LeakCheck
from moola.evaluation.gates.report import GateReport
from moola.evaluation.metrics import compute_metrics

SUSPICION_THRESHOLDS = ("max_credible_roc_auc", "max_credible_entropy_share")
LEAKS = "leaks"
MIN_ANSWER_WORDS = 3


def suspicions(
    labels: NDArray[np.intp],
    matrix: NDArray[np.float64],
    *,
    thresholds: Thresholds,
    repaired_share: float | None = None,
) -> dict[str, str]:
    """Return the suspicions about a result; empty if there are none.

    Parameters
    ----------
    labels, matrix
        Class indices, shape (n,), and probabilities, shape (n, K).
    thresholds
        The bounds.
    repaired_share
        Share of the rows of the bar file that repairs changed; None if unknown.

    Returns
    -------
    dict
        Sentences by ``roc_auc``, ``entropy`` (explained share of the entropy of the windows' class
        frequencies) and ``repairs``.
    """
    reasons = {}
    metrics = compute_metrics(labels, matrix)
    area, loss = metrics["roc_auc"], metrics["log_loss"]
    if area is not None and area > thresholds.max_credible_roc_auc:
        reasons["roc_auc"] = f"ROC-AUC is {area:.3f}, above {thresholds.max_credible_roc_auc:g}"
    prior = float(entropy(np.bincount(labels)))
    if loss is not None and prior > 0:
        share = 1.0 - loss / prior
        if share > thresholds.max_credible_entropy_share:
            reasons["entropy"] = (
                f"{share:.0%} of the prior's entropy is explained, above "
                f"{thresholds.max_credible_entropy_share:.0%}"
            )
    if repaired_share is not None and repaired_share > MOST_REPAIRED:
        reasons["repairs"] = (
            f"repairs touched {repaired_share:.1%} of the rows of the bar file, above "
            f"{MOST_REPAIRED:.0%}"
        )
    return reasons


def hold(reasons: Mapping[str, str], verdict: str) -> tuple[str, ...]:
    """Return the two sentences of a gate that is held; without suspicions it would be `verdict`."""
    return (
        f"too good to be true: {'; '.join(reasons.values())}",
        f"held until the leak checks are answered (else {verdict}): "
        "run `moola investigate VERSION`",
    )


def with_answers(
    report: GateReport,
    answers: Mapping[str, str],
    *,
    checks: Mapping[str, LeakCheck],
    who: str,
    at: str,
) -> GateReport:
    """Return a held gate's report with its underlying verdict, and a person's answers.

    Parameters
    ----------
    report
        A gate that is ``held``.
    answers
        A reason for each suspicion of the report and each check that shows a leak, by name.
    checks
        Results of the leak checks, by name.
    who, at
        Who answers, and when (ISO 8601, UTC).

    Returns
    -------
    GateReport
        ``passed`` or ``inconclusive``. The first reason names who answered; the figures contain
        suspicions, checks and answers.

    Raises
    ------
    BadInput
        If the gate is not held, or an answer is missing, unknown or shorter than three words.
    """
    if report.verdict != "held":
        raise BadInput(
            f"gate {report.gate} is {report.verdict}, not held",
            limit="a gate that is held",
            remedy="Only a gate that is held takes answers",
        )
    names = questions(report, checks)
    missing = [name for name in names if name not in answers]
    unknown = [name for name in answers if name not in names]
    if missing or unknown:
        problem = f"no answer to {missing[0]!r}" if missing else f"nothing asks {unknown[0]!r}"
        raise BadInput(
            problem,
            limit=f"an answer to each of {', '.join(names)}",
            remedy="Read the leak checks: `moola investigate VERSION`",
        )
    for name, text in answers.items():
        if len(text.split()) < MIN_ANSWER_WORDS:
            raise BadInput(
                f"the answer to {name} is {text!r}",
                limit=f"a reason of {MIN_ANSWER_WORDS} words or more",
            )
    leaks = {
        **report.figures[LEAKS],
        "checks": {name: check.to_dict() for name, check in checks.items()},
        "who": who,
        "at": at,
        "answers": dict(answers),
    }
    summary = "; ".join(f"{name}: {text}" for name, text in answers.items())
    reasons = (f"was held, and {who} answered: {summary}", *report.reasons[2:], report.reasons[0])
    return replace(
        report,
        verdict=leaks["beneath"],
        reasons=reasons,
        figures={**report.figures, LEAKS: leaks},
    )


def questions(report: GateReport, checks: Mapping[str, LeakCheck]) -> tuple[str, ...]:
    """Return the names that need an answer: each suspicion, and each check that shows a leak."""
    shown = [name for name, check in checks.items() if check.leak]
    return tuple(dict.fromkeys([*report.figures[LEAKS]["suspicions"], *shown]))
