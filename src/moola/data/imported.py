"""Windows brought in as they are, without the bars they were cut from.

They are checked as far as windows alone can be: prices, order of time, and that windows which
share bars agree on them. What only bars could prove is said wherever the set is audited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.config.data import WindowRecipe
from moola.data.build import set_meta, write_manifest
from moola.data.features import features20
from moola.data.ingest.files import is_parquet
from moola.data.user_labels import class_numbers
from moola.data.windows import check_windows
from moola.errors import BadInput, DataError, one_line
from moola.hashing import sha256_file
from moola.times import TimeReader

UNPROVEN = (
    "not proven: the windows were imported, and there are no bars from which they, their labels "
    "and the ends of their labels could be derived again"
)
_SLICE = 4096
_PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a user says of windows that are imported.

    Attributes
    ----------
    class_names
        Names of the classes 0, 1, ...; empty for windows without labels.
    horizon_bars
        Bars after a window that its label looks at, for rows that state no ``label_end``.
    bar_seconds
        Distance of two bars; None: told by ``first_bar`` and ``last_bar``.
    timezone
        Zone of times that name none; None refuses such times.
    """

    class_names: tuple[str, ...] = ()
    horizon_bars: int = 0
    bar_seconds: float | None = None
    timezone: str | None = None


def write_imported_set(
    folder: Path, name: str, windows: Path, rows: Path | None, options: ImportOptions
) -> None:
    """Write a set's files into an empty folder from windows as they are.

    Parameters
    ----------
    folder
        Gets the files; empty.
    name
        Of the set.
    windows
        ``.npy`` of shape (n, T, 4), or parquet with one row a window: ``open_0, high_0, ...``, or
        ``window``, a list of T bars of 4 prices.
    rows
        CSV or parquet with one row a window, in the same order: ``last_bar`` and, if known,
        ``first_bar``, ``label``, ``label_end``. None: these columns are in `windows`.
    options
        What is said of them.

    Raises
    ------
    DataError
        If a file cannot be read, windows and rows do not fit together, a price breaks the rules of
        OHLC, two windows have the same time, or windows that share bars do not agree on them.
    """
    X, table = _read(windows, rows)
    try:
        X = check_windows(X)
    except BadInput as error:
        raise DataError(
            f"file {windows}: {error.problem}", limit=error.limit,
            remedy="Give windows in price units, not normalised",
        ) from None  # fmt: skip
    if len(table) != len(X):
        raise DataError(f"{len(X)} windows and {len(table)} rows", limit="one row a window")
    where = f"file {rows or windows}"
    first, last, label_end, bar = _clock(where, table, X.shape[1], options)
    y = None
    if options.class_names:
        if "label" not in table.column_names:
            raise DataError(f"{where} has no column label", limit="a class for each window")
        y = class_numbers(table["label"].combine_chunks(), options.class_names, where)
        strange = (y < 0) | (y >= len(options.class_names))
        if strange.any():
            raise DataError(
                f"{where}: row {int(np.argmax(strange))} has class {y[np.argmax(strange)]}",
                limit=f"0 to {len(options.class_names) - 1}",
            )
    order = np.argsort(last, kind="stable")
    first, last, label_end = first[order], last[order], label_end[order]
    X, y = X[order], None if y is None else y[order]
    grid = _grid(where, first, last, label_end, bar)
    _refuse_disagreement(where, X, grid, last)
    recipe = WindowRecipe(
        source=f"imported-{name.partition('/')[2]}", window_bars=X.shape[1], step_bars=1,
        label="file" if options.class_names else "none", horizon_bars=options.horizon_bars,
        label_file=(rows or windows).name if options.class_names else None,
        class_names=options.class_names,
    )  # fmt: skip
    _write(folder, name, X, y, grid=grid, clock=(first, last, label_end), recipe=recipe,
           digest=sha256_file(windows), rows=rows)  # fmt: skip


def _write(
    folder: Path,
    name: str,
    X: NDArray[np.float32],
    y: NDArray[np.int64] | None,
    *,
    grid: NDArray[np.int64],
    clock: Sequence[NDArray[np.datetime64]],
    recipe: WindowRecipe,
    digest: str,
    rows: Path | None,
) -> None:
    np.save(folder / "X_ohlc.npy", X.astype("<f4"))
    counts = np.zeros(recipe.num_classes, dtype=np.int64)
    if y is not None:
        parts = [features20(X[k : k + _SLICE]) for k in range(0, len(X), _SLICE)]
        np.save(folder / "X_feats20.npy", np.concatenate(parts).astype("<f4"))
        np.save(folder / "y.npy", y.astype("<i8"))
        counts = np.bincount(y, minlength=recipe.num_classes)
    columns: dict[str, Any] = {
        f"{key}_row": pa.array(grid[k]) for k, key in enumerate(("first", "last", "label_end"))
    }
    columns |= {
        key: pa.array(clock[k]) for k, key in enumerate(("first_bar", "last_bar", "label_end"))
    }
    pq.write_table(pa.table(columns), folder / "times.parquet", compression="zstd")
    set_meta(folder, recipe, counts, num_windows=len(X), source_sha256=digest, imported=True)
    sources = {recipe.source: digest}
    if rows is not None:
        sources[rows.name] = sha256_file(rows)
    write_manifest(folder, name, recipe=recipe.to_dict(), sources=sources, imported=True)


def _read(windows: Path, rows: Path | None) -> tuple[NDArray[Any], pa.Table]:
    for path in (windows, *([rows] if rows is not None else [])):
        if not path.is_file():
            raise DataError(f"file {path} does not exist")
    try:
        if is_parquet(windows):
            table = pq.read_table(windows)
            X = _windows_of(windows, table)
        else:
            X, table = np.load(windows, mmap_mode="r", allow_pickle=False), None
        if rows is not None:
            table = _read_rows(rows)
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"file {windows if rows is None else f'{windows} or {rows}'} cannot be read: "
            f"{one_line(error)}",
            limit="windows as .npy or parquet, rows as CSV or parquet",
        ) from None
    if table is None:
        raise DataError(
            f"file {windows} says nothing of times and labels",
            remedy="Give them with --rows FILE: last_bar and label, one row a window",
        )
    return X, table


def _read_rows(path: Path) -> pa.Table:
    if is_parquet(path):
        return pq.read_table(path)
    columns = ("first_bar", "last_bar", "label", "label_end")
    texts = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
    )
    return pa_csv.read_csv(path, convert_options=texts)


def _windows_of(path: Path, table: pa.Table) -> NDArray[np.float64]:
    if "window" in table.column_names:
        try:
            return np.array([np.array(w, dtype=np.float64).reshape(-1, 4)
                             for w in table["window"].to_pylist()])  # fmt: skip
        except (ValueError, TypeError):
            raise DataError(
                f"file {path}: column window holds no windows of one length",
                limit="lists of T bars of 4 prices",
            ) from None
    num = sum(n.startswith("open_") for n in table.column_names)
    wanted = [f"{p}_{k}" for k in range(num) for p in _PRICES]
    absent = [c for c in wanted if c not in table.column_names]
    if not num or absent:
        raise DataError(
            f"file {path} holds no windows" + f": {absent[0]} is missing" * bool(absent),
            limit="columns open_0, high_0, low_0, close_0, open_1, ..., or window",
        )
    columns = [table[c].cast(pa.float64()).to_numpy() for c in wanted]
    return np.column_stack(columns).reshape(len(table), num, 4)


def _clock(
    where: str, table: pa.Table, window_bars: int, options: ImportOptions
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], float]:
    """Return first bar, last bar and label end of each window, and a bar's length in us."""
    last = _times(where, table, "last_bar", options)
    if last is None:
        raise DataError(f"{where} has no column last_bar", limit="opening time of the last bar")
    first = _times(where, table, "first_bar", options)
    bar = None if options.bar_seconds is None else options.bar_seconds * 1e6
    if bar is None:
        if first is None:
            raise DataError(
                f"{where} has no column first_bar, and nothing says how long a bar is",
                remedy="Say it with --bar-seconds, for example --bar-seconds 3600",
            )
        bar = float(np.median((last - first).astype(np.int64))) / (window_bars - 1)
    if not bar > 0:
        raise DataError(f"{where}: windows end where they begin", limit="first_bar before last_bar")
    if first is None:
        first = last - np.timedelta64(round((window_bars - 1) * bar), "us")
    end = _times(where, table, "label_end", options)
    if end is None:
        end = last + np.timedelta64(round(options.horizon_bars * bar), "us")
    return first, last, end, bar


def _times(
    where: str, table: pa.Table, column: str, options: ImportOptions
) -> NDArray[np.datetime64] | None:
    if column not in table.column_names:
        return None
    reader = TimeReader(zone=options.timezone, otherwise=None)
    try:
        values = reader.read(table[column])
    except DataError as error:
        raise DataError(
            f"{where}: {column}: {error.problem}", limit=error.limit, remedy=error.remedy
        ) from None
    if values.null_count:
        raise DataError(f"{where}: {column} has {values.null_count} empty values")
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype="datetime64[us]")


def _grid(
    where: str,
    first: NDArray[np.datetime64],
    last: NDArray[np.datetime64],
    label_end: NDArray[np.datetime64],
    bar: float,
) -> NDArray[np.int64]:
    """Return the bars of each window counted along the time line, shape (3, n).

    Without the bars there are no rows of a source; what matters to a split is which windows share
    a stretch of time, and that these numbers say.
    """
    faults = {
        "has the time of another": np.r_[False, np.diff(last).astype(np.int64) <= 0],
        "begins before an earlier one": np.r_[False, np.diff(first).astype(np.int64) <= 0],
        "ends before it begins": first >= last,
        "has a label that ends before the window does": label_end < last,
    }
    for fault, bad in faults.items():
        if bad.any():
            raise DataError(
                f"{where}: the window ending {last[np.argmax(bad)]} {fault} "
                f"({int(bad.sum())} such windows)",
                remedy="Mend the times, or leave these windows out",
            )
    begin = (first - first[0]).astype(np.int64) / bar
    span = (last - first[0]).astype(np.int64) / bar
    end = (label_end - first[0]).astype(np.int64) / bar
    grid = np.vstack([np.floor(begin + 0.5), np.floor(span + 0.5), np.ceil(end - 1e-6)])
    grid = grid.astype(np.int64)
    grid[2] = np.maximum(grid[2], grid[1])
    if (np.diff(grid[0]) <= 0).any():
        row = int(np.argmax(np.diff(grid[0]) <= 0)) + 1
        raise DataError(
            f"{where}: the window ending {last[row]} begins less than a bar after the one before",
            limit=f"steps of a bar, {bar / 1e6:g} s, or more",
            remedy="Say how long a bar is with --bar-seconds",
        )
    return grid


def _refuse_disagreement(
    where: str, X: NDArray[np.float32], grid: NDArray[np.int64], last: NDArray[np.datetime64]
) -> None:
    """Refuse neighbours that cover the same bars, by their times, with other prices."""
    T = X.shape[1]
    whole = grid[1] - grid[0] == T - 1  # no gap inside: bar k is k steps after the first
    lag = np.diff(grid[0])
    shared = np.flatnonzero(whole[1:] & whole[:-1] & (lag < T))
    bad = [k for k in shared.tolist() if not np.array_equal(X[k, lag[k] :], X[k + 1, : T - lag[k]])]
    if bad:
        raise DataError(
            f"{where}: the windows ending {last[bad[0]]} and {last[bad[0] + 1]} share bars by "
            f"their times, and their prices differ ({len(bad)} of {len(shared)} such neighbours)",
            limit="windows cut from one series, known by the opening time of their last bar",
            remedy="Check the times, and leave synthetic windows out",
        )
