"""The order of the reports, and the gates that block or defer others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moola.config.evaluation import Thresholds
from moola.config.gates import GATES, Gate, gate_order
from moola.errors import BadInput
from moola.evaluation.gates.report import GateReport, blocked, deferred

_DEFERRED_AFTER = 4  # the last gate that a deferred run may take


def blocking_reason(gate: Gate, verdicts: Mapping[Gate, str]) -> str | None:
    """Return why `gate` must not be run after these verdicts; None if it may.

    A failed gate 0 blocks everything, since the run cannot be trusted. A failed gate 2 (a control
    won) blocks every gate `after_control`. Promotion has further requirements, see
    `moola.evaluation.gates.promotion.promotion_prerequisites`.
    """
    if gate != 0 and verdicts.get(0) == "failed":
        return "blocked by gate 0: the data or the device is not as stated"
    if GATES[gate].after_control and verdicts.get(2) == "failed":
        return "blocked by gate 2: a control is better, so labels and splits come first"
    return None


def deferral_reason(
    *,
    num_labelled_windows: int,
    uses_adapter: bool,
    verdicts: Mapping[Gate, str],
    thresholds: Thresholds | None = None,
) -> str | None:
    """Return why a TS2Vec or adapter run must wait; None if it need not.

    Parameters
    ----------
    num_labelled_windows
        Size of the candidate's set.
    uses_adapter
        Whether it is a TS2Vec or adapter run.
    verdicts
        Verdicts of the gates run so far.
    thresholds
        Moola's own if None.

    Raises
    ------
    BadInput
        If the number of windows is negative.
    """
    limits = thresholds or Thresholds.load()
    if num_labelled_windows < 0:
        raise BadInput(f"num_labelled_windows is {num_labelled_windows}", limit="at least 0")
    enough = num_labelled_windows >= limits.min_labelled_windows
    if not uses_adapter or enough or verdicts.get(4) == "passed":
        return None
    return (
        f"TS2Vec and adapter runs wait for {limits.min_labelled_windows} labelled windows or a "
        f"passed gate 4; there are {num_labelled_windows} and gate 4 is "
        f"{verdicts.get(4, 'not run')}"
    )


def run_order(
    reports: Sequence[GateReport],
    *,
    num_labelled_windows: int | None = None,
    uses_adapter: bool = False,
    thresholds: Thresholds | None = None,
) -> tuple[GateReport, ...]:
    """Put reports in order, and replace those that are blocked or deferred.

    Parameters
    ----------
    reports
        At most one per gate, in any order.
    num_labelled_windows, uses_adapter
        Of the candidate. With an adapter, the gates after 4 and promotion are deferred for the
        `deferral_reason`, unless gate 4 passed.
    thresholds
        Moola's own if None.

    Raises
    ------
    BadInput
        If a gate is reported twice, or the number of windows of an adapter candidate is unknown.
    """
    if uses_adapter and num_labelled_windows is None:
        raise BadInput("num_labelled_windows is None", limit="a number, for an adapter candidate")
    by_gate: dict[Gate, GateReport] = {}
    for report in reports:
        if report.gate in by_gate:
            raise BadInput(f"gate {report.gate} is reported twice", limit="once")
        by_gate[report.gate] = report
    verdicts: dict[Gate, str] = {}
    ordered = []
    for gate in gate_order():
        if gate not in by_gate:
            continue
        report = by_gate[gate]
        reason = blocking_reason(gate, verdicts)
        if reason is not None:
            report = blocked(gate, reason)
        elif gate == "promotion" or gate > _DEFERRED_AFTER:
            deferral = deferral_reason(
                num_labelled_windows=num_labelled_windows or 0,
                uses_adapter=uses_adapter,
                verdicts=verdicts,
                thresholds=thresholds,
            )
            report = report if deferral is None else deferred(gate, deferral)
        verdicts[gate] = report.verdict
        ordered.append(report)
    return tuple(ordered)
