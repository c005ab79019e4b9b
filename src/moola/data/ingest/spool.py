"""A spool on disk: rows in file order go in, rows in time order come out, memory stays small."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_BUCKET_ROWS = 1 << 20
_NOTHING = np.iinfo(np.int64).min


class RowSpool:
    """Record batches with a ``timestamp`` column, kept in an Arrow file.

    Parameters
    ----------
    path
        The Arrow file, written anew.

    Attributes
    ----------
    num_rows
        Rows added.
    order
        ``oldest first``, ``newest first`` or ``mixed``; equal times count for both.
    first_turn
        Number of the row at which the times were first out of order; None where they are not.
    """

    def __init__(self, path: Path):
        self.num_rows = 0
        self.first_turn: int | None = None
        self._path = path
        self._writer: Any = None
        self._schema: Any = None
        self._spans: list[tuple[int, int, int]] = []  # lowest and highest time, rows of a batch
        self._last = _NOTHING
        self._rises = self._falls = False

    def __enter__(self) -> RowSpool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def schema(self) -> Any:
        """Schema of the rows."""
        return self._schema

    @property
    def order(self) -> str:
        """The order the times came in."""
        if self._rises and self._falls:
            return "mixed"
        return "newest first" if self._falls else "oldest first"

    def add(self, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> None:
        """Append a batch; `rows` are its rows' numbers in the file."""
        if not len(batch):
            return
        if self._writer is None:
            self._schema = batch.schema
            self._writer = pa.ipc.new_file(str(self._path), batch.schema)
        time = _micros(batch)
        previous = time[:1] if self._last == _NOTHING else np.array([self._last])
        step = np.diff(time, prepend=previous)
        self._note_turn(step, rows)
        self._last = int(time[-1])
        self._spans.append((int(time.min()), int(time.max()), len(time)))
        self.num_rows += len(batch)
        self._writer.write_batch(batch)

    def in_time_order(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows by ascending time; rows of one time in the order of the file."""
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            count = reader.num_record_batches
            if self.order == "oldest first":
                for k in range(count):
                    yield reader.get_batch(k)
            elif self.order == "newest first":
                yield from self._reversed(reader)
            else:
                for low, high in self._buckets(reader):
                    yield self._between(reader, low, high)

    def _reversed(self, reader: Any) -> Iterator[pa.RecordBatch]:
        """Batches backwards; equal times keep the order of the file, so they are sorted stably."""
        later: pa.Table | None = None
        for k in range(reader.num_record_batches - 1, -1, -1):
            batch = reader.get_batch(k)
            tables = [pa.Table.from_batches([batch])] + ([later] if later is not None else [])
            rows = _sorted(pa.concat_tables(tables))
            newest = _micros(rows)[-1]
            # later batches hold older rows first met earlier in the file: keep the boundary's time
            later = rows.filter(pc.equal(rows["timestamp"].cast(pa.int64()), int(newest)))
            yield from _batches(rows.slice(0, len(rows) - len(later)))
        if later is not None:
            yield from _batches(later)

    def _note_turn(self, step: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        up, down = step > 0, step < 0
        if self.first_turn is None:
            turns = np.flatnonzero(up | down)
            rising = self._rises or (not self._falls and len(turns) > 0 and bool(up[turns[0]]))
            wrong = down if rising else up
            if wrong.any():
                self.first_turn = int(rows[np.argmax(wrong)])
        self._rises |= bool(up.any())
        self._falls |= bool(down.any())

    def _buckets(self, reader: Any) -> list[tuple[int, int]]:
        """Stretches of time that hold about a million rows each."""
        sample = [
            _micros(reader.get_batch(k))[:: max(1, self.num_rows // 1_000_000)]
            for k in range(reader.num_record_batches)
        ]
        times = np.sort(np.concatenate(sample))
        num = max(1, -(-self.num_rows // _BUCKET_ROWS))
        inner = np.unique(times[np.linspace(0, len(times) - 1, num + 1).astype(int)[1:-1]])
        low = min(s[0] for s in self._spans)
        high = max(s[1] for s in self._spans) + 1
        edges = [low, *(int(e) for e in inner if low < e < high), high]
        return list(pairwise(edges))

    def _between(self, reader: Any, low: int, high: int) -> pa.RecordBatch:
        pieces = []
        for k, (first, last, _) in enumerate(self._spans):
            if last < low or first >= high:
                continue
            batch = reader.get_batch(k)
            time = _micros(batch)
            inside = (time >= low) & (time < high)
            if inside.any():
                pieces.append(batch.filter(pa.array(inside)))
        table = _sorted(pa.Table.from_batches(pieces))
        return table.combine_chunks().to_batches()[0]


def _sorted(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.argsort(_micros(table), kind="stable")))


def _batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    if len(table):
        yield from table.combine_chunks().to_batches()


def _micros(rows: pa.RecordBatch | pa.Table) -> NDArray[np.int64]:
    return np.asarray(rows["timestamp"].cast(pa.int64()).to_numpy(zero_copy_only=False))
