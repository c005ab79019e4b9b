"""Several comparisons at once: what is claimed of one must hold among all.

Holm needs nothing but p-values. Where all comparisons are on the same windows, the same resamples
say how they depend on each other, which costs less (Romano and Wolf).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from moola.config.evaluation import Thresholds
from moola.config.gates import GATES
from moola.data.audit.twosample import holm as holm_adjusted
from moola.errors import BadInput
from moola.evaluation.compare import measured_block_of
from moola.evaluation.gates.report import GateReport
from moola.evaluation.resampling import resample_counts

LABEL_ARITHMETIC_P = "label_arithmetic"
_ENOUGH_BLOCKS = 10


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's (1979) adjusted p-values, under the same names.

    Parameters
    ----------
    p_values
        By name; may be empty.

    Returns
    -------
    dict
        Each at least its own p-value and at most 1.

    Raises
    ------
    BadInput
        If a p-value is not in [0, 1] (NaN is not).
    """
    for name, value in p_values.items():
        if not 0.0 <= value <= 1.0:
            raise BadInput(f"the p-value of {name!r} is {value}", limit="a number in [0, 1]")
    adjusted = holm_adjusted(np.array(list(p_values.values()), dtype=np.float64))
    return dict(zip(p_values, adjusted.tolist(), strict=True))


def joint_p_values(
    p_values: Mapping[str, float],
    differences: Mapping[str, NDArray[np.float64]],
    *,
    block_length: int,
    num_resamples: int,
) -> dict[str, float]:
    """Return p-values adjusted by the smallest p-value of all in the same resamples.

    The step-down method of Westfall and Young (1993) and Romano and Wolf (2005): a p-value is held
    against the distribution of the smallest among those not yet beyond doubt. Each comparison's own
    p-value comes from elsewhere (fixed-b, which holds at small n); the resamples only say which
    comparisons err together. Twenty controls that are nearly one cost no more than that one.

    Parameters
    ----------
    p_values
        Two-sided, by name.
    differences
        What each is the p-value of the mean of, by the same names, shape (n,), in time order.
    block_length, num_resamples
        Windows that are drawn together at least, and resamples. What the differences remember
        counts beside it, and the longest block is taken for all.

    Returns
    -------
    dict
        By name; each at least its own p-value and at most Holm's. They are Holm's where fewer than
        ten blocks fit: so few cannot tell what errs together.

    Raises
    ------
    BadInput
        If a p-value is not in [0, 1] (NaN is not), or `num_resamples` is below 100.
    """
    by_holm = holm(p_values)
    num_windows = len(next(iter(differences.values())))
    block = max(block_length, *(measured_block_of(values) for values in differences.values()))
    if num_windows < _ENOUGH_BLOCKS * block:
        return by_holm
    counts = resample_counts(num_windows, block_length=block, num_resamples=num_resamples)
    names = sorted(p_values, key=lambda name: p_values[name])
    values = np.stack([differences[name] - differences[name].mean() for name in names], axis=1)
    means = np.abs(counts @ values)  # of what has no mean: as large as chance alone makes them
    # The share of resamples at least as far from 0: the p-value a resample would have had.
    drawn = 1.0 - (rankdata(means, method="min", axis=0) - 1.0) / num_resamples
    found, least = {}, 0.0
    for step, name in enumerate(names):
        reached = int((drawn[:, step:].min(axis=1) <= p_values[name]).sum())
        joint = min((reached + 1.0) / (num_resamples + 1.0), by_holm[name])
        least = max(least, p_values[name], joint)
        found[name] = least
    return {name: found[name] for name in p_values}


def holm_over_candidates(
    reports: Sequence[GateReport],
    peers: Mapping[str, Sequence[GateReport]],
    *,
    thresholds: Thresholds | None = None,
) -> tuple[GateReport, ...]:
    """Take back what a candidate was granted alone but does not hold among its peers.

    The best of many candidates looks better than it is. For the gates that claim superiority the
    p-values of all candidates are adjusted together.

    Parameters
    ----------
    reports
        The candidate's own.
    peers
        Those of the candidates it is compared with, by name; a gate that was not run there does
        not count.
    thresholds
        Moola's own where None.

    Returns
    -------
    tuple
        The reports, in the order given. One that passed with an adjusted p-value above
        1 - confidence is ``inconclusive``; the adjusted value is among its figures.

    Raises
    ------
    BadInput
        If a report of such a gate holds no p-values.
    """
    limits = thresholds or Thresholds.load()
    found = []
    for report in reports:
        rivals = {name: r for name, all_ in peers.items() for r in all_ if r.gate == report.gate}
        if not GATES[report.gate].claims or not report.figures or not rivals:
            found.append(report)
            continue
        p_values = {name: _p_value(r) for name, r in rivals.items() if r.figures}
        own = holm({**p_values, "": _p_value(report)})[""]
        found.append(_held(report, own, len(p_values) + 1, limits))
    return tuple(found)


def with_tries(report: GateReport, judgement: int, searched: int, confidence: float) -> GateReport:
    """Return a claim's report with the number of tries on its windows, and what they cost.

    Parameters
    ----------
    report
        Of a gate that claims superiority.
    judgement
        Number of this judgement among the different ones on these windows, from 1.
    searched
        Configurations that searches tried on them before.
    confidence
        Two-sided confidence of the intervals it was judged by.
    """
    if not report.figures:
        return report
    figures = report.figures | {"num_judgements": judgement, "num_searched": searched}
    if judgement == 1 and not searched:  # nothing to correct for
        return replace(report, figures=figures)
    before = f" after {searched} configurations searched on them" if searched else ""
    words = (
        f"judgement {judgement} on these validation windows{before}: intervals of {confidence:.4%}"
    )
    return replace(report, figures=figures, reasons=(*report.reasons, words))


def _held(report: GateReport, adjusted: float, family: int, limits: Thresholds) -> GateReport:
    figures = report.figures | {"holm_p": adjusted, "num_candidates": family}
    if report.verdict not in ("passed", "held") or adjusted <= 1.0 - limits.confidence:
        return replace(report, figures=figures)
    first = (
        f"not beyond doubt among {family} candidates compared at once (Holm-adjusted p "
        f"{adjusted:.3f}); alone: {report.reasons[0]}"
    )
    return replace(
        report, verdict="inconclusive", figures=figures, reasons=(first, *report.reasons[1:])
    )


def _p_value(report: GateReport) -> float:
    """Return the p-value of a gate's claim: the greatest of its metrics'; 1 where undefined."""
    known = report.figures.get("p_values")
    if known is None:
        raise BadInput(f"the report of gate {report.gate} holds no p-values", limit="p_values")
    absent = [metric for metric in GATES[report.gate].claims if metric not in known]
    if absent:
        raise BadInput(f"the report of gate {report.gate} holds no p-value of {absent[0]}")
    null = [LABEL_ARITHMETIC_P] if LABEL_ARITHMETIC_P in known else []  # of labels made by a rule
    found = [known[metric] for metric in (*GATES[report.gate].claims, *null)]
    return max(1.0 if value is None else float(value) for value in found)
