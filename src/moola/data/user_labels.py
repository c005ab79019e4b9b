"""Labels that come in by file: one row a window, named by the time of the window's last bar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.config.data import WindowRecipe
from moola.data.bars import Bars
from moola.data.labels import Labels
from moola.errors import DataError
from moola.hashing import sha256_file

_REMEDY = "Mend the label file and build under a new name"


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A label file as read, in time order.

    Attributes
    ----------
    last_bar
        Opening time of each window's last bar, UTC, shape (n,), datetime64[us].
    y
        Class of each window, shape (n,), int64.
    label_end
        Time of the last bar the label looks at, shape (n,), datetime64[us]; None if not stated.
    sha256
        Digest of the file.
    """

    name: str
    last_bar: NDArray[np.datetime64]
    y: NDArray[np.int64]
    label_end: NDArray[np.datetime64] | None
    sha256: str


def read_label_file(path: Path) -> LabelFile:
    """Read the columns ``last_bar``, ``label`` and, if there, ``label_end`` (CSV or parquet).

    Times without a zone are UTC. Raises DataError where a column is missing, a value is empty or
    of the wrong kind, or a window is named twice.
    """
    table = _read_table(path)
    absent = [c for c in ("last_bar", "label") if c not in table.column_names]
    if absent:
        raise DataError(
            f"label file {path} has no column {', '.join(absent)}",
            limit="the columns last_bar and label, and label_end if known",
        )
    last_bar = _times(path, table, "last_bar")
    order = np.argsort(last_bar, kind="stable")
    twice = np.flatnonzero(np.diff(last_bar[order]) == np.timedelta64(0))
    if len(twice):
        raise DataError(
            f"label file {path} names the window ending {last_bar[order][twice[0]]} twice",
            remedy=_REMEDY,
        )
    column = table["label"]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"label file {path} holds labels of type {column.type}", limit="0, 1, ...")
    ends = _times(path, table, "label_end")[order] if "label_end" in table.column_names else None
    return LabelFile(
        name=path.name,
        last_bar=last_bar[order],
        y=column.to_numpy().astype(np.int64)[order],
        label_end=ends,
        sha256=sha256_file(path),
    )


def place_labels(
    bars: Bars, recipe: WindowRecipe, file: LabelFile
) -> tuple[NDArray[np.int64], Labels]:
    """Return the first bar of each labelled window and its label.

    Raises DataError, naming the window, where a time is no bar of the source, a window or its
    label reaches beyond the bars, a label ends before its window, or a class does not exist.
    """
    last = _rows_of(bars, file, file.last_bar)
    starts = last - recipe.window_bars + 1
    if file.label_end is None:
        end = last + recipe.horizon_bars
    else:
        end = _rows_of(bars, file, file.label_end)
    faults = {
        f"begins before the first bar of {bars.name}": starts < 0,
        f"has a label that looks beyond the last bar of {bars.name}": end >= len(bars),
        "has a label that ends before the window does": end < last,
        f"has a class outside 0 to {recipe.num_classes - 1}": (file.y < 0)
        | (file.y >= recipe.num_classes),
    }
    for fault, bad in faults.items():
        if bad.any():
            raise DataError(
                f"label file {file.name}: the window ending {file.last_bar[np.argmax(bad)]} "
                f"{fault} ({int(bad.sum())} such windows)",
                remedy=_REMEDY,
            )
    return starts, Labels(y=file.y, end=end)


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        return pa_csv.read_csv(path)
    except FileNotFoundError:
        known = ", ".join(sorted(p.name for p in path.parent.glob("[!.]*"))) or "none"
        raise DataError(
            f"label file {path} does not exist", remedy=f"Label files there: {known}"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"label file {path} cannot be read: {error}") from None


def _times(path: Path, table: pa.Table, column: str) -> NDArray[np.datetime64]:
    values = table[column]
    try:
        if pa.types.is_timestamp(values.type) and values.type.tz is None:
            values = pc.assume_timezone(values.cast(pa.timestamp("us")), "UTC")
        values = values.cast(pa.timestamp("us", tz="UTC"))
    except pa.ArrowException as error:
        raise DataError(f"label file {path}: {column} holds no times: {error}") from None
    if values.null_count:
        raise DataError(f"label file {path}: {column} has {values.null_count} empty values")
    return np.asarray(values.to_numpy(), dtype="datetime64[us]")


def _rows_of(bars: Bars, file: LabelFile, time: NDArray[np.datetime64]) -> NDArray[np.int64]:
    rows = np.searchsorted(bars.time, time)
    there = bars.time[np.minimum(rows, len(bars) - 1)] == time
    if not there.all():
        raise DataError(
            f"label file {file.name}: {time[np.argmin(there)]} is no bar of {bars.name} "
            f"({int((~there).sum())} such times)",
            limit=f"opening times of bars from {bars.time[0]} to {bars.time[-1]}",
            remedy=_REMEDY,
        )
    return rows.astype(np.int64)
