"""Building a set: which windows, which labels, which files; same bars and recipe, same bytes."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import moola
from moola.config.data import WindowRecipe
from moola.data.bars import HIGHEST_PRICE, LOWEST_PRICE, Bars
from moola.data.features import FEATURE_NAMES, features20
from moola.data.labels import class_names, label_windows
from moola.data.left_out import LeftOut
from moola.data.user_labels import place_labels, read_label_file
from moola.data.windows import WindowTimes, choose_starts, may_be_used, view_windows
from moola.errors import DataError
from moola.hashing import sha256_files, sha256_json, write_json

_SLICE_WINDOWS = 4096
_FIXED_META = {("unlabeled_windows/v1", "btcusd_1h")}
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
    left_out
        How many windows the recipe's rules exclude, by reason.
    sources
        Digest of every file that was read, by name.
    """

    times: WindowTimes
    y: NDArray[np.int64] | None
    left_out: LeftOut
    sources: dict[str, str]


def plan_windows(bars: Bars, recipe: WindowRecipe, labels_folder: Path) -> Plan:
    """Decide windows and labels; nothing is copied yet.

    Raises DataError if no window fits or a label file is malformed.
    """
    y, sources = None, {bars.name: bars.sha256}
    if recipe.label == "file":
        file = read_label_file(labels_folder / str(recipe.label_file), recipe, bars.zone)
        starts, labels = place_labels(bars, recipe, file)
        fit, left_out = may_be_used(bars, recipe, starts, labels.end + 1)
        if not fit.any():
            raise DataError(
                f"no window of {file.name} may be used: {left_out.reasons_in_words}",
                remedy=left_out.remedy,
            )
        starts, y, end = starts[fit], labels.y[fit], labels.end[fit]
        sources[file.name] = file.sha256
    else:
        starts, left_out = choose_starts(bars, recipe)
        end = starts + recipe.window_bars - 1
        if recipe.num_classes:
            labels = label_windows(bars, starts, recipe)
            y, end = labels.y, labels.end
    times = WindowTimes(first=starts, last=starts + recipe.window_bars - 1, label_end=end)
    return Plan(times=times, y=y, left_out=left_out, sources=sources)


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
    with SetWriter(folder, recipe) as writer:
        writer.append(Chunk(bars=bars, first_row=0, times=plan.times, y=plan.y), report=report)
        writer.finish(source_sha256=bars.sha256, **counted(name, recipe, plan.left_out))
    write_manifest(
        folder, name,
        recipe=recipe.to_dict(), sources=plan.sources, left_out=plan.left_out.to_dict(),
    )  # fmt: skip


def counted(name: str, recipe: WindowRecipe, left_out: LeftOut) -> dict[str, Any]:
    """Return what ``meta.json`` says of the windows left out.

    The default sets keep the bytes they have always had; their manifests have the counts.
    """
    exclusions: dict[str, Any] = {}
    if recipe.label == "file":
        exclusions["num_dropped"] = left_out.num_left_out
    if left_out.num_left_out and (name, recipe.source) not in _FIXED_META:
        exclusions["left_out"] = left_out.to_dict()
    return exclusions


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some windows of a set: their bars, and rows and labels counted within those bars.

    `first_row` is the row of the source at which `bars` begin; `y` is None where the recipe has no
    label.
    """

    bars: Bars
    first_row: int
    times: WindowTimes
    y: NDArray[np.int64] | None


class SetWriter(ExitStack):
    """The files of a set while they grow, chunk by chunk in time order; memory stays one slice."""

    def __init__(self, folder: Path, recipe: WindowRecipe):
        super().__init__()
        self.num_windows = 0
        self._folder, self._recipe = folder, recipe
        self._tally = np.zeros(recipe.num_classes, dtype=np.int64)
        self._arrays: dict[str, tuple[str, tuple[int, ...]]] = {
            "X_ohlc.npy": ("<f4", (recipe.window_bars, 4))
        }
        if recipe.num_classes:
            self._arrays["X_feats20.npy"] = ("<f4", (len(FEATURE_NAMES),))
            self._arrays["y.npy"] = ("<i8", ())
        self._handles = {n: self.enter_context((folder / n).open("wb")) for n in self._arrays}
        self._write_heads()
        self._times: Any = None

    def append(self, chunk: Chunk, *, report: Progress = lambda done, total: None) -> None:
        """Write a chunk's windows, features, labels and times.

        `report` is called with the windows of the chunk that are done and their number.
        """
        with np.errstate(over="ignore"):
            single = chunk.bars.ohlc.astype(np.float32)
        view = view_windows(single, self._recipe.window_bars)
        starts = chunk.times.first
        for begin in range(0, len(starts), _SLICE_WINDOWS):
            X = np.ascontiguousarray(view[starts[begin : begin + _SLICE_WINDOWS]])
            if not (X.min() > 0 and X.max() < np.inf):
                raise DataError(
                    f"{chunk.bars.name} holds prices that single precision does not hold",
                    limit=f"{LOWEST_PRICE:g} to {HIGHEST_PRICE:g}",
                    remedy="Scale the prices and ingest them again",
                )
            self._handles["X_ohlc.npy"].write(X.data)
            if self._recipe.num_classes:
                self._handles["X_feats20.npy"].write(features20(X).data)
            report(begin + len(X), len(starts))
        if chunk.y is not None:
            self._handles["y.npy"].write(chunk.y.data)
            self._tally += np.bincount(chunk.y, minlength=len(self._tally))
        table = _times_table(chunk)
        if self._times is None:
            path = self._folder / "times.parquet"
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            self._times = self.enter_context(writer)
        self._times.write_table(table)
        self.num_windows += len(starts)

    def finish(self, *, source_sha256: str, **own: Any) -> None:
        """Write the number of windows into the heads of the arrays, and ``meta.json``."""
        self._write_heads()
        set_meta(
            self._folder, self._recipe, self._tally,
            num_windows=self.num_windows, source_sha256=source_sha256, **own,
        )  # fmt: skip

    def _write_heads(self) -> None:
        """Write the heads; their length does not depend on the number of windows."""
        for name, (kind, shape) in self._arrays.items():
            header = {"descr": kind, "fortran_order": False, "shape": (self.num_windows, *shape)}
            self._handles[name].seek(0)
            np.lib.format.write_array_header_1_0(self._handles[name], header)


def set_meta(
    folder: Path,
    recipe: WindowRecipe,
    counts: NDArray[np.int64],
    *,
    num_windows: int,
    source_sha256: str,
    **own: Any,
) -> None:
    """Write ``meta.json``; `counts` are the windows of each class, shape (K,)."""
    meta = {
        "T": recipe.window_bars,
        "D_ohlc": 4,
        "D_feats": len(FEATURE_NAMES) if recipe.num_classes else 0,
        "K": recipe.num_classes,
        "num_windows": num_windows,
        "class_distribution": dict(zip(class_names(recipe), counts.tolist(), strict=True)),
        "feature_names": list(FEATURE_NAMES) if recipe.num_classes else [],
        "horizon_bars": recipe.label_bars,
        "step_bars": recipe.step_bars,
        "source": recipe.source,
        "source_sha256": source_sha256,
        **own,
    }
    write_json(folder / "meta.json", meta)


def _times_table(chunk: Chunk) -> pa.Table:
    """Return rows and UTC times of each window's first bar, last bar and label end."""
    times = chunk.times
    rows = {"first": times.first, "last": times.last, "label_end": times.label_end}
    columns = {f"{k}_row": pa.array(v + chunk.first_row) for k, v in rows.items()}
    for column, key in (("first_bar", "first"), ("last_bar", "last"), ("label_end", "label_end")):
        columns[column] = pa.array(chunk.bars.time[rows[key]])
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
