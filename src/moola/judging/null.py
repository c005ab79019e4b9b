"""The surrogate null of a labelled set, and what is known of the repairs of its bars."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moola.data.bars import Bars
from moola.data.store.data_store import DataStore, WindowSet
from moola.data.surrogate import surrogate_windows, why_no_surrogates
from moola.errors import DataError
from moola.evaluation.gates.label_arithmetic import LabelArithmetic, forecast_by_arithmetic


def label_arithmetic(
    registry: DataStore,
    labeled: WindowSet,
    rows: NDArray[np.int64],
    *,
    num_surrogates: int,
    seed: int,
) -> LabelArithmetic | str:
    """Forecast windows by what their label gives away by itself, or say why that is not known.

    Parameters
    ----------
    registry
        Where the bars are.
    labeled
        The set.
    rows
        Windows that are judged, ascending. No bar after the last one's label is used, so nothing of
        the locked test part is.
    num_surrogates
        Windows of bars in no order.
    seed
        Of draws and solver.

    Returns
    -------
    LabelArithmetic or str
        A sentence where the label is made by no rule or the bars are not here.
    """
    reason = why_no_surrogates(labeled.recipe)
    if reason:
        return reason
    try:
        bars = bars_until(registry, labeled, rows)
        surrogates = surrogate_windows(bars, labeled.recipe, num_windows=num_surrogates, seed=seed)
    except DataError as error:
        return f"bars cannot be drawn: {error.problem}"
    return forecast_by_arithmetic(
        surrogates,
        np.asarray(labeled.X_ohlc[rows]),
        horizon_bars=labeled.recipe.horizon_bars,
        num_classes=labeled.num_classes,
        seed=seed,
    )


def bars_until(registry: DataStore, labeled: WindowSet, rows: NDArray[np.int64]) -> Bars:
    """Return a set's bars up to the end of the labels of `rows`; raises DataError if absent."""
    bars = registry.load_bars(labeled.source)
    if bars.sha256 != labeled.manifest["sources"].get(bars.name):
        raise DataError(f"{bars.name} is not the bar file that {labeled.name} was built from")
    last = int(labeled.times.label_end[rows].max()) + 1
    return replace(bars, time=bars.time[:last], ohlc=bars.ohlc[:last])


def repaired_share(registry: DataStore, source: str) -> float | None:
    """Return the share of a bar file's rows that repairs touched; None where no report says it."""
    registry.fetch_quality(source)
    path = registry.data_root / "bars" / f"{source}.quality.json"
    try:
        share = json.loads(path.read_text())["facts"]["repaired_share"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(share) if isinstance(share, int | float) and np.isfinite(share) else None
