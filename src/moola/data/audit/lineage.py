"""Lineage: whether a set really holds the bars, labels and times it says it was built from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moola.data.audit.trail import Check, name_windows
from moola.data.bars import Bars
from moola.data.build import plan_windows
from moola.data.features import features20
from moola.data.store.sets import WindowSet
from moola.data.windows import view_windows
from moola.errors import MoolaError

_CHUNK_WINDOWS = 4096


def lineage_checks(
    windows: WindowSet, bars: Bars, labels_folder: Path, *, with_features: bool = False
) -> list[Check]:
    """Derive a set again from its source and compare it, window by window.

    A window that is not a stretch of its source's bars is synthetic or tampered; a label that the
    rule does not give, or an end of its horizon that is too early, would hide a leak.

    Parameters
    ----------
    windows
        The set.
    bars
        The source it names.
    labels_folder
        The folder of label files.
    with_features
        Also compute every feature again.

    Returns
    -------
    list of Check
        One a question, in order; the list ends at the first that leaves nothing to compare.
    """
    stated = windows.manifest["sources"].get(bars.name)
    same = stated == bars.sha256
    checks = [
        Check(
            name="the source is the one the set was built from",
            passed=same,
            detail=f"{bars.name} has SHA-256 {bars.sha256[:12]}, built from {str(stated)[:12]}",
        )
    ]
    try:
        plan = plan_windows(bars, windows.recipe, labels_folder)
    except MoolaError as error:
        return [*checks, Check(name="the recipe can be followed", passed=False, detail=str(error))]
    times, again = windows.times, plan.times
    if len(times) != len(again):
        detail = f"{len(times)} windows, the recipe gives {len(again)}"
        return [*checks, Check(name="the recipe gives these windows", passed=False, detail=detail)]
    moved = np.flatnonzero((times.first != again.first) | (times.last != again.last))
    rows = np.column_stack([again.first, again.last, again.label_end])
    clock = (bars.time[rows] != windows.clock).any(axis=1)
    early = np.flatnonzero((times.label_end != again.label_end) | clock)
    checks += [
        _named("the recipe gives these windows", moved, f"{len(times)} windows"),
        _named("every window's times are those of its bars", early, "first, last and label end"),
        _named(
            "every window is a stretch of its source's bars (none is synthetic)",
            _differing(windows, bars, again.first, with_features=False),
            f"{len(times)} windows equal to the bit",
        ),
    ]
    stated = windows.meta.get("left_out")
    if stated is not None:
        checks.append(
            Check(
                name="the windows left out are counted right",
                passed=stated == plan.left_out.to_dict(),
                detail=plan.left_out.words,
            )
        )
    if plan.y is not None and windows.y is not None:
        wrong = np.flatnonzero(plan.y != windows.y)
        checks.append(
            _named("every label is the one its rule gives", wrong, f"{len(plan.y)} labels")
        )
    if with_features and windows.X_feats20 is not None:
        wrong = _differing(windows, bars, again.first, with_features=True)
        checks.append(_named("every feature is its window's own", wrong, "20 a window"))
    return checks


def _differing(
    windows: WindowSet, bars: Bars, starts: NDArray[np.int64], *, with_features: bool
) -> NDArray[np.int64]:
    view = view_windows(bars.ohlc.astype(np.float32), int(windows.meta["T"]))
    stored: NDArray = windows.X_ohlc
    derive: Callable[[NDArray[np.float32]], NDArray[np.float32]] = np.ascontiguousarray
    if with_features and windows.X_feats20 is not None:
        stored, derive = windows.X_feats20, features20
    bad = []
    for begin in range(0, len(starts), _CHUNK_WINDOWS):
        expected = derive(view[starts[begin : begin + _CHUNK_WINDOWS]])
        differs = expected != stored[begin : begin + _CHUNK_WINDOWS]
        bad.append(begin + np.flatnonzero(differs.reshape(len(expected), -1).any(axis=1)))
    return np.concatenate(bad)


def _named(name: str, rows: NDArray[np.int64], otherwise: str) -> Check:
    return Check(name=name, passed=not len(rows), detail=name_windows(rows, otherwise))
