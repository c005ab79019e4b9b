"""Labels that come in by file: one row a window, named by the time of the window's last bar."""

from __future__ import annotations

from collections.abc import Sequence
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
from moola.errors import DataError, one_line
from moola.hashing import sha256_file
from moola.times import TimeReader

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


def read_label_file(path: Path, recipe: WindowRecipe, zone: str | None) -> LabelFile:
    """Read the columns ``last_bar``, ``label`` and, if there, ``label_end`` (CSV or parquet).

    Parameters
    ----------
    path
        The file.
    recipe
        Says the names of the classes and, if it does, the zone of times that name none.
    zone
        Zone that the bars' own times were given, taken for times that name none; None refuses
        those.

    Raises
    ------
    DataError
        If a column is missing, a value is empty or of the wrong kind, a time cannot be read or
        names no zone and none is known, or a window is named twice.
    """
    table = _read_table(path)
    absent = [c for c in ("last_bar", "label") if c not in table.column_names]
    if absent:
        raise DataError(
            f"label file {path} has no column {', '.join(absent)}",
            limit="the columns last_bar and label, and label_end if known",
        )
    last_bar = _times(path, table, "last_bar", recipe, zone)
    order = np.argsort(last_bar, kind="stable")
    ordered = last_bar[order]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise DataError(
            f"label file {path} names the window ending {ordered[twice[0]]} twice",
            remedy=_REMEDY,
        )
    y = class_numbers(table["label"].combine_chunks(), recipe.class_names, f"label file {path}")
    ends = None
    if "label_end" in table.column_names:
        ends = _times(path, table, "label_end", recipe, zone)[order]
    return LabelFile(
        name=path.name, last_bar=last_bar[order], y=y[order], label_end=ends,
        sha256=sha256_file(path),
    )  # fmt: skip


def class_numbers(labels: pa.Array, names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return labels as class numbers, shape (n,), int64.

    Parameters
    ----------
    labels
        Numbers of classes, as integers or as texts, or names of classes; one kind in a column.
    names
        Names of the classes 0, 1, ...
    where
        The file, for messages.

    Raises
    ------
    DataError
        If a label is empty, or neither a number nor a name.
    """
    kind = labels.type
    text = pc.utf8_trim_whitespace(labels.cast(pa.string())) if _is_text(kind) else None
    empty = np.asarray(labels.is_null() if text is None else pc.equal(text, "").fill_null(True))
    if empty.any():
        first, count = int(np.argmax(empty)), int(empty.sum())
        raise DataError(
            f"{where}: label is empty in row {first} ({count} such rows)",
            limit=f"a class for each window: {', '.join(names)}",
            remedy="Label these windows, or leave their rows out",
        )
    if pa.types.is_integer(kind):
        return np.asarray(labels.cast(pa.int64()).to_numpy(zero_copy_only=False))
    if text is None:
        raise DataError(
            f"{where} holds labels of type {kind}", limit="class numbers 0, 1, ... or class names"
        )
    positions = pc.index_in(text, pa.array(list(names), pa.string()))
    if not positions.null_count:
        return np.asarray(positions.cast(pa.int64()))
    numbers = pc.match_substring_regex(text, r"^-?\d{1,9}$")
    if np.asarray(numbers).all():
        return np.asarray(text.cast(pa.int64()))
    strange = np.asarray(pc.and_(positions.is_null(), pc.invert(numbers)))
    row = int(np.argmax(strange if strange.any() else np.asarray(positions.is_null())))
    raise DataError(
        f"{where}: label {text[row].as_py()!r} in row {row} is no class",
        limit=f"all of them names ({', '.join(names)}) or all numbers from 0 to {len(names) - 1}",
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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
    """Read a table; the values of a CSV stay texts, so that nothing guesses what they are."""
    try:
        if path.suffix == ".parquet":
            return _plain(pq.read_table(path))
        columns = dict.fromkeys(("last_bar", "label", "label_end"), pa.string())
        options = pa_csv.ConvertOptions(column_types=columns, strings_can_be_null=False)
        return pa_csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        names = ", ".join(sorted(p.name for p in path.parent.glob("[!.]*"))) or "none"
        raise DataError(
            f"label file {path} does not exist", remedy=f"Label files there: {names}"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"label file {path} cannot be read: {one_line(error)}") from None


def _plain(table: pa.Table) -> pa.Table:
    """Return a table whose dictionaries are what they stand for."""
    kinds = {f.name: f.type for f in table.schema if pa.types.is_dictionary(f.type)}
    for name, kind in kinds.items():
        column = table[name].cast(kind.value_type)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _times(
    path: Path, table: pa.Table, column: str, recipe: WindowRecipe, zone: str | None
) -> NDArray[np.datetime64]:
    reader = TimeReader(zone=recipe.label_timezone, otherwise=zone, zone_option="label_timezone")
    try:
        values = reader.read(table[column])
    except DataError as error:
        raise DataError(
            f"label file {path}: {column}: {error.problem}", limit=error.limit, remedy=error.remedy
        ) from None
    if values.null_count:
        raise DataError(f"label file {path}: {column} has {values.null_count} empty values")
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype="datetime64[us]")


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
