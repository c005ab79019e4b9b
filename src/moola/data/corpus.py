"""Sets from more bars than memory holds: partitioned parquet, read and cut chunk by chunk.

The source is a folder of parquet files (``bars/<source>/year=2017/...``) on any file system that
pyarrow knows. Its files, in the order of their paths, hold the bars in time order. What comes out
is an ordinary set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.config.data import WindowRecipe, parse_utc
from moola.data.bars import PRICE_COLUMNS, Bars, check_bars
from moola.data.build import Progress, npy_header, set_meta, times_table, write_manifest
from moola.data.features import FEATURE_NAMES, features20
from moola.data.labels import label_windows
from moola.data.splits import WindowTimes
from moola.data.windows import may_be_used, view_windows
from moola.errors import DataError
from moola.hashing import write_json

CHUNK_BARS = 1 << 18
_SLICE_WINDOWS = 4096


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some windows of a corpus: their bars, and rows and labels counted within those bars.

    `first_row` is the row at which `bars` begin, counted from the recipe's `start`; `y` is None
    where the recipe has no label.
    """

    bars: Bars
    first_row: int
    times: WindowTimes
    y: NDArray[np.int64] | None


class Corpus:
    """Partitioned bars, read once from the first to the last.

    Parameters
    ----------
    name
        Of the source, for messages.
    filesystem, path
        Where the folder of parquet files stands.
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
        self._digest = hashlib.sha256()
        try:
            found = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive")
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"bars {name} at {path} cannot be read: {' '.join(str(error).split())[:200]}"
            ) from None
        wanted = ("timestamp", *PRICE_COLUMNS)
        absent = [c for c in wanted if c not in found.schema.names]
        if absent:
            raise DataError(
                f"bars {name} at {path} lack {', '.join(absent)}",
                limit=f"parquet files with the columns {', '.join(wanted)}",
            )
        self._dataset = found
        self._columns = list(wanted)

    @property
    def sha256(self) -> str:
        """Digest over the times and prices read so far; the whole corpus's once it is read."""
        return self._digest.hexdigest()

    def chunks(self, recipe: WindowRecipe) -> Iterator[Chunk]:
        """Yield the windows of a recipe in time order.

        Windows and labels are those of the same bars in one file, except that a repeated block is
        only seen where both its copies lie within one chunk of `chunk_bars` bars.
        """
        span = recipe.window_bars + recipe.label_bars
        time, ohlc = np.empty(0, "datetime64[us]"), np.empty((0, 4))
        first_row = skipped = 0  # of what is held: its row, and bars before the next window
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
        starts = starts[may_be_used(bars, recipe, starts, starts + span)]
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
        held = None
        for batch in self._batches(recipe):
            time = batch["timestamp"].cast(pa.timestamp("us", tz="UTC")).to_numpy()
            columns = [batch[c].cast(pa.float64()).to_numpy() for c in PRICE_COLUMNS]
            piece = time.astype("datetime64[us]"), np.column_stack(columns)
            for array in piece:
                self._digest.update(np.ascontiguousarray(array).view(np.uint8).data)
            self.num_bars += len(time)
            if held is not None:
                yield *held, False
            held = piece
        if held is not None:
            yield *held, True

    def _batches(self, recipe: WindowRecipe) -> Iterator[pa.Table]:
        """Read file after file; only one batch is held, and little is read ahead."""
        condition = None
        for bound, compare in ((recipe.start, pc.greater_equal), (recipe.end, pc.less)):
            moment = parse_utc(bound)
            if moment is not None:
                scalar = pa.scalar(moment, self._dataset.schema.field("timestamp").type)
                one = compare(ds.field("timestamp"), scalar)
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
                    f"bar file {fragment.path} cannot be read: {' '.join(str(error).split())[:200]}"
                ) from None


def write_corpus(
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
    corpus = Corpus(recipe.source, filesystem, path, chunk_bars=chunk_bars)
    num, tally = 0, np.zeros(recipe.num_classes, dtype=np.int64)
    with _Files(folder, recipe) as files:
        for chunk in corpus.chunks(recipe):
            if not len(chunk.times):
                continue
            files.append(chunk)
            num += len(chunk.times)
            if chunk.y is not None:
                tally += np.bincount(chunk.y, minlength=recipe.num_classes)
            report(num, num)
        if not num:
            raise DataError(
                f"no window fits into {recipe.source} ({corpus.num_bars} bars)",
                remedy="Widen start and end, shorten window_bars, or allow cross_gaps",
            )
        files.finish(num)
    meta = set_meta(
        recipe, source=recipe.source, source_sha256=corpus.sha256, tally=tally, num_windows=num
    )
    write_json(folder / "meta.json", meta)
    write_manifest(folder, name, recipe=recipe.to_dict(), sources={recipe.source: corpus.sha256})


class _Files(ExitStack):
    """The array files of a set while they grow."""

    def __init__(self, folder: Path, recipe: WindowRecipe):
        super().__init__()
        self.folder, self.recipe = folder, recipe
        self.kinds: dict[str, tuple[str, tuple[int, ...]]] = {
            "X_ohlc.npy": ("<f4", (recipe.window_bars, 4))
        }
        if recipe.num_classes:
            self.kinds["X_feats20.npy"] = ("<f4", (len(FEATURE_NAMES),))
            self.kinds["y.npy"] = ("<i8", ())
        self.handles = {n: self.enter_context((folder / n).open("wb")) for n in self.kinds}
        self._head(0)
        self.times: Any = None

    def append(self, chunk: Chunk) -> None:
        """Write a chunk's windows, features, labels and times, a slice at a time."""
        view = view_windows(chunk.bars.ohlc.astype(np.float32), self.recipe.window_bars)
        starts = chunk.times.first
        for begin in range(0, len(starts), _SLICE_WINDOWS):
            X = np.ascontiguousarray(view[starts[begin : begin + _SLICE_WINDOWS]])
            self.handles["X_ohlc.npy"].write(X.data)
            if self.recipe.num_classes:
                self.handles["X_feats20.npy"].write(features20(X).data)
        if chunk.y is not None:
            self.handles["y.npy"].write(chunk.y.data)
        table = times_table(chunk.bars.time, chunk.times, first_row=chunk.first_row)
        if self.times is None:
            path = self.folder / "times.parquet"
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            self.times = self.enter_context(writer)
        self.times.write_table(table)

    def finish(self, num_windows: int) -> None:
        """Write the number of windows into the heads."""
        self._head(num_windows)

    def _head(self, num_windows: int) -> None:
        for name, (kind, shape) in self.kinds.items():
            self.handles[name].seek(0)
            npy_header(self.handles[name], (num_windows, *shape), kind)
