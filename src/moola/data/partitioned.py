"""Sets of partitioned bars, more than memory holds: a folder of parquet, cut chunk by chunk.

The source is a folder of parquet files (``bars/<source>/year=2017/...``) on any file system that
pyarrow knows. Its files, in the order of their paths, hold the bars in time order. What comes out
is an ordinary set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from moola.config.data import WindowRecipe, parse_utc
from moola.data.bars import PRICE_COLUMNS, Bars, check_bars
from moola.data.build import Chunk, Progress, SetWriter, counted, write_manifest
from moola.data.labels import label_windows
from moola.data.left_out import LeftOut
from moola.data.windows import WindowTimes, may_be_used
from moola.errors import DataError, one_line

CHUNK_BARS = 1 << 18


class PartitionedBars:
    """Partitioned bars, read once from the first to the last.

    Parameters
    ----------
    name
        Of the source, for messages.
    filesystem, path
        The folder of parquet files.
    chunk_bars
        Bars held at a time.

    Raises
    ------
    DataError
        If no parquet file is there or a column is absent.
    """

    def __init__(self, name: str, filesystem: Any, path: str, *, chunk_bars: int = CHUNK_BARS):
        self.name = name
        self.chunk_bars = chunk_bars
        self.num_bars = 0
        self.left_out = LeftOut(possible=0)
        self._digest = hashlib.sha256()
        try:
            dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive")
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"bars {name} at {path} cannot be read: {one_line(error)}") from None
        wanted = ("timestamp", *PRICE_COLUMNS)
        absent = [c for c in wanted if c not in dataset.schema.names]
        if absent:
            raise DataError(
                f"bars {name} at {path} lack {', '.join(absent)}",
                limit=f"parquet files with the columns {', '.join(wanted)}",
            )
        self._dataset = dataset
        self._columns = list(wanted)

    @property
    def sha256(self) -> str:
        """Digest over the times and prices read so far; all of them once the bars are read."""
        return self._digest.hexdigest()

    def chunks(self, recipe: WindowRecipe) -> Iterator[Chunk]:
        """Yield the windows of a recipe in time order.

        Windows, rows and labels are those of the same bars in one file, but for two rules that look
        at one chunk of about `chunk_bars` bars at a time: a repeated block is only seen where both
        its copies lie within it, and a gap is a distance above the chunk's median, not the file's.
        """
        span = recipe.window_bars + recipe.label_bars
        time, ohlc = np.empty(0, "datetime64[us]"), np.empty((0, 4))
        # of what is held: its row in the source, and bars before the next window
        first_row, skipped = self._rows_before(recipe), 0
        for more_time, more_ohlc, last in self._pieces(recipe):
            time, ohlc = np.concatenate([time, more_time]), np.concatenate([ohlc, more_ohlc])
            check_bars(self.name, time, ohlc)
            if len(time) < skipped + span:
                continue
            if len(time) >= self.chunk_bars or last:
                bars = Bars(name=self.name, time=time, ohlc=ohlc, sha256="")
                starts = np.arange(skipped, len(time) - span + 1, recipe.step_bars, dtype=np.int64)
                yield self._cut(bars, starts, recipe, first_row)
                following = int(starts[-1]) + recipe.step_bars
                dropped = min(following, len(time) - 1)
                time, ohlc, first_row = time[dropped:], ohlc[dropped:], first_row + dropped
                skipped = following - dropped

    def _cut(
        self, bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe, first_row: int
    ) -> Chunk:
        span = recipe.window_bars + recipe.label_bars
        fit, left_out = may_be_used(bars, recipe, starts, starts + span)
        starts, self.left_out = starts[fit], self.left_out + left_out
        y, end = None, starts + recipe.window_bars - 1
        if recipe.num_classes and len(starts):
            labels = label_windows(bars, starts, recipe)
            y, end = labels.y, labels.end
        times = WindowTimes(first=starts, last=starts + recipe.window_bars - 1, label_end=end)
        return Chunk(bars=bars, first_row=first_row, times=times, y=y)

    def _pieces(
        self, recipe: WindowRecipe
    ) -> Iterator[tuple[NDArray[np.datetime64], NDArray[np.float64], bool]]:
        """Yield times and prices between the recipe's bounds, and whether they are the last."""
        tail = None
        for batch in self._batches(recipe):
            time = batch["timestamp"].cast(pa.timestamp("us", tz="UTC")).to_numpy()
            columns = [batch[c].cast(pa.float64()).to_numpy() for c in PRICE_COLUMNS]
            piece = time.astype("datetime64[us]"), np.column_stack(columns)
            for array in piece:
                self._digest.update(np.ascontiguousarray(array).view(np.uint8).data)
            self.num_bars += len(time)
            if tail is not None:
                yield *tail, False
            tail = piece
        if tail is not None:
            yield *tail, True

    def _rows_before(self, recipe: WindowRecipe) -> int:
        """Return how many bars of the source lie before the recipe's start; few are read."""
        start = parse_utc(recipe.start)
        if start is None:
            return 0
        try:
            return int(self._dataset.count_rows(filter=self._compare(pc.less, start)))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"bars {self.name} cannot be read: {one_line(error)}") from None

    def _compare(self, compare: Any, moment: datetime) -> Any:
        scalar = pa.scalar(moment, self._dataset.schema.field("timestamp").type)
        return compare(ds.field("timestamp"), scalar)

    def _batches(self, recipe: WindowRecipe) -> Iterator[pa.Table]:
        """Read file after file; only one batch is held, and little is read ahead."""
        condition = None
        for bound, compare in ((recipe.start, pc.greater_equal), (recipe.end, pc.less)):
            moment = parse_utc(bound)
            if moment is not None:
                one = self._compare(compare, moment)
                condition = one if condition is None else condition & one
        for fragment in sorted(self._dataset.get_fragments(condition), key=lambda f: f.path):
            scanner = fragment.scanner(
                schema=self._dataset.schema,
                columns=self._columns,
                filter=condition,
                batch_size=self.chunk_bars,
                batch_readahead=1,
                fragment_readahead=1,
            )
            try:
                for batch in scanner.to_batches():
                    if len(batch):
                        yield pa.Table.from_batches([batch]).combine_chunks()
            except (OSError, pa.ArrowException) as error:
                raise DataError(
                    f"bar file {fragment.path} cannot be read: {one_line(error)}"
                ) from None


def write_partitioned_set(
    folder: Path,
    name: str,
    recipe: WindowRecipe,
    filesystem: Any,
    path: str,
    *,
    chunk_bars: int = CHUNK_BARS,
    report: Progress = lambda done, total: None,
) -> None:
    """Write a set's files into an empty folder from partitioned bars.

    `report` is called with the windows written so far, twice: their number is not known before.

    Parameters
    ----------
    folder
        Gets the files; empty.
    name
        Of the set.
    recipe
        Its label is made by a rule.
    filesystem, path
        The folder of parquet files.
    chunk_bars
        Bars held at a time.
    report
        Called with the windows written so far, twice: their number is not known before.

    Raises
    ------
    DataError
        If the bars are absent, malformed or out of order, if the recipe takes labels from a file,
        or if no window fits.
    """
    if recipe.label == "file":
        raise DataError(
            f"source {recipe.source} is partitioned, and its labels come from a file",
            limit="a label made by a rule, or a bar file",
        )
    if recipe.bars_before:
        raise DataError(
            f"source {recipe.source} is partitioned, and label {recipe.label} is held against "
            f"{recipe.bars_before} bars before each window",
            limit="a label made of a window and what follows it, or a bar file",
        )
    source = PartitionedBars(recipe.source, filesystem, path, chunk_bars=chunk_bars)
    with SetWriter(folder, recipe) as writer:
        for chunk in source.chunks(recipe):
            if len(chunk.times):
                writer.append(chunk)
                report(writer.num_windows, writer.num_windows)
        if not writer.num_windows:
            reasons = source.left_out.reasons_in_words
            raise DataError(
                f"no window fits into {recipe.source} ({source.num_bars} bars)"
                + f": {reasons}" * bool(reasons),
                limit=f"{recipe.window_bars + recipe.label_bars} bars or more that may be used",
                remedy=source.left_out.remedy if reasons else "Widen start and end",
            )
        counts = counted(name, recipe, source.left_out)
        writer.finish(source_sha256=source.sha256, **counts)
    write_manifest(
        folder, name, recipe=recipe.to_dict(), sources={recipe.source: source.sha256},
        left_out=source.left_out.to_dict(),
    )  # fmt: skip
