"""Windows of a file, a chunk at a time: an array, a table of windows, or bars to slide over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.data.bars import PRICE_COLUMNS, gap_limit, is_step, usual_step
from moola.data.ingest import IngestOptions, detect
from moola.data.ingest.files import is_parquet
from moola.data.ingest.rows import RowReader, Tally
from moola.data.windows import view_windows
from moola.errors import BadInput, ConfigError, DataError, one_line
from moola.serving.inputs import windows_of

CHUNK_WINDOWS = 2048
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class WindowChunk:
    """Some windows of a file.

    Attributes
    ----------
    X
        Windows in price units, shape (n, T, 4); prices are still to be checked.
    where
        One column that says which they are: ``window`` (number in the file) or ``time`` (opening
        time of the window's last bar).
    done, total
        Parts of the file read so far, and of how many (estimated for CSV).
    """

    X: NDArray[Any]
    where: dict[str, Any]
    done: int
    total: int
    left_out: int = 0


def read_windows(
    path: Path, *, window_bars: int, step: int = 1, cross_gaps: bool = False
) -> Iterator[WindowChunk]:
    """Yield the windows of a file in order, at most 2,048 at a time.

    Parameters
    ----------
    path
        ``.npy`` of shape (n, T, 4); CSV or parquet with one row a window (``open_0, high_0, ...``);
        or CSV or parquet of bars in any form that `moola data ingest` reads, oldest first.
    window_bars
        T.
    step
        Bars between the starts of two windows; bars only.
    cross_gaps
        Whether a window may span a gap in the time line; bars only.

    Yields
    ------
    WindowChunk
        The next windows, at most 2,048.

    Raises
    ------
    DataError
        If the file cannot be read, or a bar breaks the rules of OHLC or of time.
    ConfigError
        If `step` or `cross_gaps` is given for a file of windows.
    """
    if not path.is_file():
        raise DataError(f"file {path} does not exist")
    is_array = path.suffix == ".npy"
    if holds_bars(path):
        yield from _bar_windows(path, window_bars, step, cross_gaps)
        return
    if step != 1 or cross_gaps:
        raise ConfigError(
            f"{path} holds windows, and step {step}, cross_gaps {cross_gaps} are about bars",
            limit="step 1, no gaps to cross",
            remedy="Leave out --step and --cross-gaps, or give the bars",
        )
    yield from _array_windows(path) if is_array else _table_windows(path)


def holds_bars(path: Path) -> bool:
    """Return whether a file is of bars, and not of windows."""
    return path.suffix != ".npy" and not _holds_windows(path)


def _array_windows(path: Path) -> Iterator[WindowChunk]:
    try:
        X = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"windows file {path} cannot be read: {error}", limit="a .npy file (n, T, 4)"
        ) from None
    for begin in range(0, len(X) if X.ndim else 0, CHUNK_WINDOWS):
        part = np.asarray(X[begin : begin + CHUNK_WINDOWS])
        yield _numbered(part, begin, total=len(X))


def _numbered(X: NDArray[Any], begin: int, *, total: int) -> WindowChunk:
    end = begin + len(X)
    return WindowChunk(
        X=X, where={"window": np.arange(begin, end)}, done=end, total=max(total, end)
    )


def _holds_windows(path: Path) -> bool:
    try:
        if is_parquet(path):
            return "open_0" in pq.read_schema(path).names
        with path.open("rb") as handle:
            return b"open_0" in handle.readline()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"file {path} cannot be read: {error}") from None


def _table_windows(path: Path) -> Iterator[WindowChunk]:
    begin = 0
    try:
        for batch, total in _table_batches(path):
            for first in range(0, len(batch), CHUNK_WINDOWS):
                X = windows_of(batch.slice(first, CHUNK_WINDOWS).to_pandas())
                yield _numbered(X, begin, total=total)
                begin += len(X)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"file {path} cannot be read: {one_line(error)}") from None
    except BadInput as error:
        raise DataError(f"file {path}, from window {begin} on: {error.problem}", limit=error.limit)\
            from None  # fmt: skip


def _table_batches(path: Path) -> Iterator[tuple[pa.RecordBatch, int]]:
    if is_parquet(path):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=CHUNK_WINDOWS):
                yield batch, file.metadata.num_rows
        return
    size, rows, used = path.stat().st_size, 0, 0
    options = pa_csv.ReadOptions(block_size=_BLOCK_BYTES)
    with pa_csv.open_csv(path, read_options=options) as reader:
        for batch in reader:
            rows, used = rows + len(batch), used + _BLOCK_BYTES
            yield batch, max(rows, rows * size // used)


def _bar_windows(
    path: Path, window_bars: int, step: int, cross_gaps: bool
) -> Iterator[WindowChunk]:
    options, tally = IngestOptions(), Tally()
    reader = RowReader(path, *detect(path, options), options, tally)
    held_time = np.empty(0, dtype="datetime64[us]")
    tail = np.empty((0, len(PRICE_COLUMNS)), dtype=np.float32)
    first_row, longest = 0, None
    for batch, _ in reader.batches():
        _refuse_faults(path, tally)
        time = np.r_[held_time, batch["timestamp"].to_numpy(zero_copy_only=False)]
        prices = np.column_stack([batch[p].to_numpy() for p in PRICE_COLUMNS]).astype(np.float32)
        ohlc = np.concatenate([tail, prices])
        distance = np.diff(time.astype(np.int64))
        if (distance <= 0).any():
            row = first_row + int(np.argmax(distance <= 0)) + 1
            raise DataError(
                f"data row {row} of {path} is not later than the one before",
                limit="bars in the order of time, oldest first",
                remedy="Ingest it first: `moola data ingest`",
            )
        if longest is None and len(distance):
            usual = usual_step(distance)
            longest = gap_limit(usual, int(is_step(distance, usual).sum()), len(distance))
        starts = np.arange(-first_row % step, len(time) - window_bars + 1, step)
        possible = len(starts)
        if not cross_gaps and len(starts):
            gaps = np.r_[0, 0, np.cumsum(distance > longest)]  # gaps before each bar
            starts = starts[gaps[starts + window_bars] == gaps[starts + 1]]
        if possible > len(starts):
            yield WindowChunk(
                X=np.empty((0, window_bars, len(PRICE_COLUMNS)), dtype=np.float32),
                where={},
                done=tally.rows,
                total=_total_rows(path, tally.rows),
                left_out=possible - len(starts),
            )
        every = view_windows(ohlc, window_bars) if len(starts) else ohlc
        for begin in range(0, len(starts), CHUNK_WINDOWS):
            rows = starts[begin : begin + CHUNK_WINDOWS]
            yield WindowChunk(
                X=every[rows],
                where={"time": time[rows + window_bars - 1]},
                done=tally.rows,
                total=_total_rows(path, tally.rows),
            )
        num_windows = max(0, len(time) - window_bars + 1)
        held_time, tail, first_row = time[num_windows:], ohlc[num_windows:], first_row + num_windows


def _total_rows(path: Path, rows: int) -> int:
    return int(pq.read_metadata(path).num_rows) if is_parquet(path) else rows


def _refuse_faults(path: Path, tally: Tally) -> None:
    for count, row in tally.faults.values():
        raise DataError(
            f"{count} of the first {tally.rows} bars of {path} break the rules of OHLC, "
            f"the first is data row {row}",
            limit="positive prices, low <= open, close <= high",
            remedy="See what is wrong with `moola data ingest`, which can mend it",
        )
