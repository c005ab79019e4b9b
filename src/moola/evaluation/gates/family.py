"""Multiple comparisons: p-values adjusted over a family of them.

Holm's method needs only the p-values. For comparisons on the same windows, resampling them together
shows how they depend on each other, which costs less power (Romano and Wolf).
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
    """Return p-values adjusted by the distribution of the smallest p-value in joint resamples.

    The step-down method of Westfall and Young (1993) and Romano and Wolf (2005): a p-value is
    compared with the distribution of the smallest among those not yet rejected. The p-values
    themselves come from elsewhere (fixed-b, valid at small n); the resamples only show which
    comparisons err together. Twenty nearly equal controls cost no more than one.

    Parameters
    ----------
    p_values
        Two-sided, by name.
    differences
        The values whose mean each p-value tests, by the same names, shape (n,), in time order.
    block_length, num_resamples
        Minimum block length, and number of resamples. All comparisons share the longest block
        that their dependence calls for.

    Returns
    -------
    dict
        By name; each at least its own p-value and at most Holm's. With fewer than ten blocks, too
        few to show which comparisons err together, they are Holm's.

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
    means = np.abs(counts @ values)  # centred: under the null hypothesis
    # The share of resamples at least as far from 0 is the p-value of a resample.
    resampled = 1.0 - (rankdata(means, method="min", axis=0) - 1.0) / num_resamples
    adjusted, least = {}, 0.0
    for step, name in enumerate(names):
        reached = int((resampled[:, step:].min(axis=1) <= p_values[name]).sum())
        joint = min((reached + 1.0) / (num_resamples + 1.0), by_holm[name])
        least = max(least, p_values[name], joint)
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def holm_over_candidates(
    reports: Sequence[GateReport],
    peers: Mapping[str, Sequence[GateReport]],
    *,
    thresholds: Thresholds | None = None,
) -> tuple[GateReport, ...]:
    """Withdraw a pass that does not survive the correction over all candidates.

    The best of many candidates looks better than it is. For gates that claim superiority the
    p-values of all candidates are adjusted together.

    Parameters
    ----------
    reports
        Reports of the candidate.
    peers
        Reports of the other candidates, by name; a gate that was not run there does not count.
    thresholds
        Moola's own if None.

    Returns
    -------
    tuple
        The reports, in the same order. One that passed with an adjusted p-value above
        1 - confidence becomes ``inconclusive``; the adjusted value is added to its figures.

    Raises
    ------
    BadInput
        If a report of such a gate has no p-values.
    """
    limits = thresholds or Thresholds.load()
    corrected = []
    for report in reports:
        rivals = {name: r for name, all_ in peers.items() for r in all_ if r.gate == report.gate}
        if not GATES[report.gate].claims or not report.figures or not rivals:
            corrected.append(report)
            continue
        p_values = {name: _p_value(r) for name, r in rivals.items() if r.figures}
        adjusted = holm({**p_values, "": _p_value(report)})[""]
        corrected.append(_corrected(report, adjusted, len(p_values) + 1, limits))
    return tuple(corrected)


def with_tries(report: GateReport, judgement: int, searched: int, confidence: float) -> GateReport:
    """Return a report with the number of tries on its windows, and the confidence that remains.

    Parameters
    ----------
    report
        Of a gate that claims superiority.
    judgement
        Number of this judgement among the distinct ones on these windows, from 1.
    searched
        Number of configurations that searches tried on them before.
    confidence
        Two-sided, of the intervals it was judged by.
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


def _corrected(report: GateReport, adjusted: float, family: int, limits: Thresholds) -> GateReport:
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
    """Return the p-value of a gate's claim, the largest of its metrics'; 1 if undefined."""
    p_values, claims = report.figures.get("p_values", {}), GATES[report.gate].claims
    absent = [metric for metric in claims if metric not in p_values]
    if absent:
        raise BadInput(
            f"the report of gate {report.gate} holds no p-value of {absent[0]}",
            limit=", ".join(claims),
            remedy="Evaluate that version again with this version of Moola",
        )
    null = {LABEL_ARITHMETIC_P} & set(p_values)  # only of labels made by a rule
    values = [p_values[name] for name in (*claims, *null)]
    return max(1.0 if value is None else float(value) for value in values)
