"""Requests that arrive while the model is at work are answered together by its next call.

Nobody waits for company: a request that finds the model idle is run at once.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moola.errors import MoolaError
from moola.serving.scoring import WindowScorer


class Overloaded(MoolaError):
    """More requests wait for the model than may."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    scorer: WindowScorer
    X: NDArray[np.float32]
    done: asyncio.Future[NDArray[np.float64]]


class Batcher:
    """Runs the model in one thread, on all that waits up to a number of windows.

    Parameters
    ----------
    batch_windows
        Windows that one call may hold, unless a single request holds more.
    max_waiting
        Requests that may wait.
    on_batch
        Told the number of windows of each call.
    """

    def __init__(self, *, batch_windows: int, max_waiting: int, on_batch: Callable[[int], None]):
        self._batch_windows = batch_windows
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._waiting: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._drain: asyncio.Task[None] | None = None

    async def logits(self, scorer: WindowScorer, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return logits of checked windows, shape (n, K).

        Parameters
        ----------
        scorer
            The version that answers.
        X
            Checked windows, shape (n, T, 4).

        Returns
        -------
        ndarray
            Logits, shape (n, K).

        Raises
        ------
        Overloaded
            If too many requests wait already.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{len(self._waiting)} requests wait", remedy="Try again later")
        loop = asyncio.get_running_loop()
        job = _Job(scorer=scorer, X=X, done=loop.create_future())
        self._waiting.append(job)
        if self._drain is None or self._drain.done():
            self._drain = loop.create_task(self._run())
        return await job.done

    def close(self) -> None:
        """End the thread once what it is doing is done."""
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            X = batch[0].X if len(batch) == 1 else np.concatenate([job.X for job in batch])
            self._on_batch(len(X))
            try:
                logits = await loop.run_in_executor(self._thread, batch[0].scorer.logits, X)
            except Exception as error:
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)
                continue
            begin = 0
            for job in batch:
                if not job.done.done():  # a caller whose time was up is gone
                    job.done.set_result(logits[begin : begin + len(job.X)])
                begin += len(job.X)

    def _next_batch(self) -> list[_Job]:
        """Take waiting jobs for one version, in order, as many as fit."""
        batch: list[_Job] = []
        num_windows = 0
        while self._waiting:
            job = self._waiting[0]
            if job.done.cancelled():
                self._waiting.popleft()
                continue
            full = num_windows + len(job.X) > self._batch_windows
            if batch and (full or job.scorer is not batch[0].scorer):
                break
            batch.append(self._waiting.popleft())
            num_windows += len(job.X)
        return batch


def freeze_garbage() -> None:
    """Exempt what is loaded by now from garbage collection: its scans stall answers otherwise."""
    gc.collect()
    gc.freeze()
