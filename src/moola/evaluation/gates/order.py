"""The order of the gates' reports, and which gate blocks or defers which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moola.config.evaluation import Thresholds
from moola.config.gates import GATES, Gate, gate_order
from moola.errors import BadInput
from moola.evaluation.gates.report import GateReport, blocked, deferred

_DEFERRED_AFTER = 4  # what a run that must wait may be asked, and is asked first


def blocking_reason(gate: Gate, verdicts: Mapping[Gate, str]) -> str | None:
    """Return why `gate` must not be run after these verdicts; None where it may.

    A failed Gate 0 blocks everything: a run that may not be believed has no figures. A failed
    Gate 2 (a control won) blocks every gate `after_control`. What promotion needs beside that is
    asked by `promotion_prerequisites`.
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
    """Return why a TS2Vec or adapter run must wait; None where it need not.

    Parameters
    ----------
    num_labelled_windows
        Of the candidate's set.
    uses_adapter
        Whether it is a TS2Vec or adapter run.
    verdicts
        Of the gates run so far.
    thresholds
        Moola's own where None.

    Returns
    -------
    str or None
        A sentence.

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
    """Put reports in order and replace those that blocking or deferral forbids.

    Parameters
    ----------
    reports
        At most one for each gate, in any order.
    num_labelled_windows, uses_adapter
        Of the candidate; with an adapter, the gates after 4 and promotion are deferred as
        `deferral_reason` says: gate 4 is asked, and where it passed nothing is deferred.
    thresholds
        Moola's own where None.

    Returns
    -------
    tuple of GateReport
        As many as were given.

    Raises
    ------
    BadInput
        If a gate is reported twice, or an adapter candidate comes without its number of windows.
    """
    if uses_adapter and num_labelled_windows is None:
        raise BadInput("num_labelled_windows is None", limit="a number, for an adapter candidate")
    by_gate: dict[Gate, GateReport] = {}
    for given in reports:
        if given.gate in by_gate:
            raise BadInput(f"gate {given.gate} is reported twice", limit="once")
        by_gate[given.gate] = given
    verdicts: dict[Gate, str] = {}
    ordered = []
    for gate in gate_order():
        if gate not in by_gate:
            continue
        found = by_gate[gate]
        reason = blocking_reason(gate, verdicts)
        if reason is not None:
            found = blocked(gate, reason)
        elif gate == "promotion" or gate > _DEFERRED_AFTER:
            wait = deferral_reason(
                num_labelled_windows=num_labelled_windows or 0,
                uses_adapter=uses_adapter,
                verdicts=verdicts,
                thresholds=thresholds,
            )
            found = found if wait is None else deferred(gate, wait)
        verdicts[gate] = found.verdict
        ordered.append(found)
    return tuple(ordered)
