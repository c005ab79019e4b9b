"""Building a set: the same bars and the same recipe give the same bytes."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import moola
from moola.config.data import WindowRecipe
from moola.data.bars import Bars
from moola.data.features import FEATURE_NAMES, features20
from moola.data.labels import class_names, label_windows
from moola.data.splits import WindowTimes
from moola.data.user_labels import place_labels, read_label_file
from moola.data.windows import may_be_used, view_windows, window_starts
from moola.errors import DataError
from moola.hashing import sha256_files, sha256_json, write_json

_CHUNK_WINDOWS = 4096
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which windows a recipe cuts from bars, and how they are labelled.

    Attributes
    ----------
    times
        Bars of each window, as rows of the source.
    y
        Labels, shape (n,), int64; None for an unlabelled set.
    num_dropped
        Windows of a label file that the recipe's rules exclude.
    sources
        Digest of every file that was read, by name.
    """

    times: WindowTimes
    y: NDArray[np.int64] | None
    num_dropped: int
    sources: dict[str, str]


def plan_windows(bars: Bars, recipe: WindowRecipe, labels_folder: Path) -> Plan:
    """Decide windows and labels; nothing is copied yet.

    Raises DataError if no window fits or a label file is malformed.
    """
    y, num_dropped, sources = None, 0, {bars.name: bars.sha256}
    if recipe.label == "file":
        file = read_label_file(labels_folder / str(recipe.label_file))
        starts, labels = place_labels(bars, recipe, file)
        fit = may_be_used(bars, recipe, starts, labels.end + 1)
        if not fit.any():
            raise DataError(f"no window of {file.name} may be used", remedy="Allow cross_gaps")
        starts, y, end = starts[fit], labels.y[fit], labels.end[fit]
        num_dropped = int((~fit).sum())
        sources[file.name] = file.sha256
    else:
        starts = window_starts(bars, recipe)
        end = starts + recipe.window_bars - 1
        if recipe.num_classes:
            labels = label_windows(bars, starts, recipe)
            y, end = labels.y, labels.end
    times = WindowTimes(first=starts, last=starts + recipe.window_bars - 1, label_end=end)
    return Plan(times=times, y=y, num_dropped=num_dropped, sources=sources)


def write_set(
    folder: Path,
    name: str,
    recipe: WindowRecipe,
    bars: Bars,
    labels_folder: Path,
    *,
    report: Progress = lambda done, total: None,
) -> None:
    """Write a set's files into an empty folder, chunk by chunk.

    `report` is called with the windows done and their number.
    """
    plan = plan_windows(bars, recipe, labels_folder)
    write_windows(folder, bars, plan.times.first, recipe, report)
    if plan.y is not None:
        np.save(folder / "y.npy", plan.y, allow_pickle=False)
    write_times(folder / "times.parquet", bars, plan.times)
    own = {"num_dropped": plan.num_dropped} if recipe.label == "file" else {}
    tally = np.bincount(plan.y if plan.y is not None else [], minlength=recipe.num_classes)
    meta = set_meta(
        recipe,
        source=bars.name,
        source_sha256=bars.sha256,
        tally=tally,
        num_windows=len(plan.times),
        **own,
    )
    write_json(folder / "meta.json", meta)
    write_manifest(folder, name, recipe=recipe.to_dict(), sources=plan.sources)


def write_windows(
    folder: Path,
    bars: Bars,
    starts: NDArray[np.int64],
    recipe: WindowRecipe,
    report: Progress,
) -> None:
    """Write ``X_ohlc.npy`` and, for a labelled set, ``X_feats20.npy``; memory stays one chunk."""
    T, n = recipe.window_bars, len(starts)
    view = view_windows(bars.ohlc.astype(np.float32), T)
    with (folder / "X_ohlc.npy").open("wb") as ohlc:
        npy_header(ohlc, (n, T, 4))
        for begin in range(0, n, _CHUNK_WINDOWS):
            chunk = view[starts[begin : begin + _CHUNK_WINDOWS]]
            ohlc.write(np.ascontiguousarray(chunk).data)
    if not recipe.num_classes:
        report(n, n)
        return
    with (folder / "X_feats20.npy").open("wb") as feats:
        npy_header(feats, (n, len(FEATURE_NAMES)))
        for begin in range(0, n, _CHUNK_WINDOWS):
            feats.write(features20(view[starts[begin : begin + _CHUNK_WINDOWS]]).data)
            report(min(begin + _CHUNK_WINDOWS, n), n)


def write_times(path: Path, bars: Bars, times: WindowTimes) -> None:
    """Write rows and UTC times of each window's first bar, last bar and label end."""
    pq.write_table(times_table(bars.time, times), path, compression="zstd")


def times_table(
    time: NDArray[np.datetime64], times: WindowTimes, *, first_row: int = 0
) -> pa.Table:
    """Return rows and UTC times of windows; row 0 of `time` is row `first_row` of the source."""
    rows = {"first": times.first, "last": times.last, "label_end": times.label_end}
    columns = {f"{k}_row": pa.array(v + first_row) for k, v in rows.items()}
    for column, key in (("first_bar", "first"), ("last_bar", "last"), ("label_end", "label_end")):
        columns[column] = pa.array(time[rows[key]])
    return pa.table(columns)


def write_manifest(folder: Path, name: str, **facts: Any) -> None:
    """Write ``manifest.json`` last: digests of every file, and where they come from."""
    files = sha256_files(folder)
    manifest = {
        "name": name,
        "files": files,
        "sha256": sha256_json(files),
        "moola_version": moola.__version__,
        "created_by": user_name(),
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    write_json(folder / "manifest.json", manifest)


def user_name() -> str:
    """Return who runs this process, ``unknown`` where the system does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def set_meta(
    recipe: WindowRecipe,
    *,
    source: str,
    source_sha256: str,
    tally: NDArray[np.int64],
    num_windows: int,
    **own: Any,
) -> dict[str, Any]:
    """Return ``meta.json`` of a set; `tally` counts its classes, empty for an unlabelled one."""
    counts = dict(zip(class_names(recipe), tally.tolist(), strict=True)) if len(tally) else {}
    return {
        "T": recipe.window_bars,
        "D_ohlc": 4,
        "D_feats": len(FEATURE_NAMES) if recipe.num_classes else 0,
        "K": recipe.num_classes,
        "num_windows": num_windows,
        "class_distribution": counts,
        "feature_names": list(FEATURE_NAMES) if recipe.num_classes else [],
        "horizon_bars": recipe.label_bars,
        "step_bars": recipe.step_bars,
        "source": source,
        "source_sha256": source_sha256,
        **own,
    }


def npy_header(handle: IO[bytes], shape: tuple[int, ...], kind: str = "<f4") -> None:
    """Write the head of an array file; its length does not depend on the number of rows."""
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)
