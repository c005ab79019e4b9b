"""The surrogate null of a labelled set, and the share of repaired bars."""

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
    store: DataStore,
    labeled: WindowSet,
    rows: NDArray[np.int64],
    *,
    num_surrogates: int,
    seed: int,
) -> LabelArithmetic | str:
    """Forecast windows from the label's arithmetic alone, or return why that is impossible.

    Parameters
    ----------
    store
        The data store with the bars.
    labeled
        The set.
    rows
        Windows under test, ascending. No bar after the last label's horizon is used, so none of
        the locked test part.
    num_surrogates
        Number of windows of bars in random order.
    seed
        Seed of draws and solver.

    Returns
    -------
    LabelArithmetic or str
        A sentence if no rule makes the label or the bars are not in the store.
    """
    reason = why_no_surrogates(labeled.recipe)
    if reason:
        return reason
    try:
        bars = bars_until(store, labeled, rows)
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


def bars_until(store: DataStore, labeled: WindowSet, rows: NDArray[np.int64]) -> Bars:
    """Return a set's bars up to the end of the labels of `rows`; raise DataError if absent."""
    bars = store.load_bars(labeled.source)
    if bars.sha256 != labeled.manifest["sources"].get(bars.name):
        raise DataError(
            f"{bars.name} is not the bar file that {labeled.name} was built from",
            limit=f"SHA-256 {labeled.manifest['sources'].get(bars.name)}",
            remedy="Restore the bar file, or build the set again",
        )
    last = int(labeled.times.label_end[rows].max()) + 1
    return replace(bars, time=bars.time[:last], ohlc=bars.ohlc[:last])


def repaired_share(store: DataStore, source: str) -> float | None:
    """Return the share of a bar file's rows that repairs changed; None without a report."""
    store.fetch_quality(source)
    path = store.data_root / "bars" / f"{source}.quality.json"
    try:
        share = json.loads(path.read_text())["facts"]["repaired_share"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(share) if isinstance(share, int | float) and np.isfinite(share) else None
