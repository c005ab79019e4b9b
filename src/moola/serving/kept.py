"""Predictions that are kept: what was answered and the features it was answered from, as parquet.

The prices themselves are not kept. Files are written by a thread of their own, each whole or not at
all; what does not fit into its queue is counted and dropped, because answering goes first.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.data.features import FEATURE_NAMES, features20
from moola.hashing import atomic_file

_LOG = logging.getLogger("moola.serve")
_QUEUE_REQUESTS = 1024
_FILE_WINDOWS = 50_000
_FILE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request: its id, its windows, shape (n, T, 4), and the answer by column."""

    request_id: str
    X: NDArray[np.float32]
    columns: dict[str, Any]


class PredictionLog:
    """Writes ``predictions-<time>-<process>-<number>.parquet`` into a folder, a file a minute.

    Columns: ``time``, ``request_id``, ``row`` (place in the request), the answer's, and the 20
    features.
    """

    def __init__(self, folder: Path | str):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._queue: queue.Queue[tuple[datetime, Answered] | None] = queue.Queue(_QUEUE_REQUESTS)
        self._num_files = self.num_dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="predictions", daemon=True)
        self._thread.start()

    def add(self, answered: Answered) -> None:
        """Keep an answer; never waits."""
        try:
            self._queue.put_nowait((datetime.now(UTC), answered))
        except queue.Full:
            self.num_dropped += 1
            if self.num_dropped == 1:
                _LOG.warning("predictions dropped", extra={"fields": {"waiting": _QUEUE_REQUESTS}})

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        tables: list[pa.Table] = []
        deadline = 0.0
        ended = False
        while not ended:
            try:
                item = self._queue.get(timeout=deadline - time.monotonic() if tables else None)
            except (queue.Empty, ValueError):  # ValueError: the deadline has passed
                self._write(tables)
                tables = []
                continue
            ended = item is None
            if item is not None:
                deadline = deadline if tables else time.monotonic() + _FILE_SECONDS
                tables += _tables(*item)
            if tables and (ended or sum(map(len, tables)) >= _FILE_WINDOWS):
                self._write(tables)
                tables = []

    def _write(self, tables: list[pa.Table]) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name = f"predictions-{stamp}-{os.getpid()}-{self._num_files}.parquet"
        self._num_files += 1
        try:
            with atomic_file(self._folder / name) as temporary:
                pq.write_table(
                    pa.concat_tables(tables, promote_options="default"),
                    temporary,
                    compression="zstd",
                )
        except (OSError, pa.ArrowException):
            _LOG.exception("predictions lost")


def _tables(moment: datetime, answered: Answered) -> list[pa.Table]:
    try:
        return [_table(moment, answered)]
    except Exception:  # a thread that dies would lose every later answer
        _LOG.exception("predictions lost")
        return []


def _table(moment: datetime, answered: Answered) -> pa.Table:
    n = len(answered.X)
    features = features20(answered.X)
    columns: dict[str, Any] = {
        "time": pa.array([moment] * n, pa.timestamp("us", tz="UTC")),
        "request_id": [answered.request_id] * n,
        "row": np.arange(n),
        **answered.columns,
        **{name: features[:, k] for k, name in enumerate(FEATURE_NAMES)},
    }
    return pa.table(columns)
