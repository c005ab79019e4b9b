"""The sender: a thread that brings spools to a store, and how long a run waits for it.

A store that fails opens the breaker: the thread tries again after 0.25 s, then after twice as long
each time, up to 30 s. The run itself never talks to the store and goes on. It waits only where it
needs an answer, and for a store that gives no sign of life `PATIENCE_SECONDS` in all.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from moola.tracking.delivery import StoreAway, deliver, next_load
from moola.tracking.spool import Spool, SpoolEntry, set_aside
from moola.tracking.store import is_server

_LOG = logging.getLogger(__name__)
PATIENCE_SECONDS = 1.5
_SLOW_SECONDS = 60.0  # longest wait for a store that is alive and busy
_TICK_SECONDS = 0.25
_RETRY_SECONDS = (0.25, 30.0)
LINGER_SECONDS = 5.0  # a request takes processor time from the training, so epochs share them


class Sender(threading.Thread):
    """Sends one run's spool, and when that is idle those that earlier processes left.

    Parameters
    ----------
    client
        Client of the store.
    spool
        Spool of the run; only this sender writes to it from now on.
    left
        Spools of ended runs for the same store, oldest first; the sender closes them.
    """

    def __init__(self, client: MlflowClient, spool: Spool, leftovers: list[Spool]):
        super().__init__(name="moola-sender", daemon=True)
        self.client = client
        self.spool = spool
        self._left = leftovers
        self._change = threading.Condition()
        self._answers = 0
        self._stopped = False
        self._waited = 0.0
        self._waited_for_busy = 0.0
        self._send_at = math.inf  # when what waits has to be sent; a clock that never goes back
        self._hurried = False
        self.trouble: str | None = None  # why the breaker is open

    def append(
        self,
        run: str,
        kind: str,
        body: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
        *,
        linger: bool = False,
    ) -> SpoolEntry:
        """Write an entry into the spool and hand it to the thread; never waits for the store.

        With `linger` it may be sent `LINGER_SECONDS` later, together with what follows.
        """
        with self._change:
            entry = self.spool.append(run, kind, body, files)
            self.spool.waiting.append(entry)
            due = time.monotonic() + (LINGER_SECONDS if linger else 0.0)
            self._send_at = min(self._send_at, due)
            self._change.notify_all()
        return entry

    def run(self) -> None:
        """Send until stopped."""
        first, longest = _RETRY_SECONDS
        pause = first
        while True:
            with self._change:
                self._change.wait_for(
                    lambda: self._stopped or self._source() is not None, timeout=self._idle()
                )
                source = self._source()
                if self._stopped:
                    return
                if source is None:
                    continue
                load = next_load(source.waiting)
            try:
                deliver(self.client, source, load)
            except StoreAway as away:
                with self._change:
                    self.trouble = str(away)
                    self._change.notify_all()
                    self._change.wait_for(lambda: self._stopped, timeout=pause)
                pause = min(2 * pause, longest)
                continue
            pause = first
            with self._change:
                self.trouble = None
                self._answers += 1
                source.drop(load)
                if not self.spool.waiting:
                    self._send_at = math.inf
                if source is not self.spool and not source.waiting:
                    self._left.remove(source)
                    if source.refused:
                        _LOG.warning(
                            "the store refused %d entries of an earlier run (%s); kept in %s",
                            len(source.refused), source.refused[0], set_aside(source.folder),
                        )  # fmt: skip
                    source.close()
                self._change.notify_all()

    def wait(self, is_done: Callable[[], bool], *, while_away: bool = True) -> bool:
        """Wait until `is_done`; return whether it is.

        Time without a sign of life from the store is charged to this run's patience. When that is
        used up, only an answer that comes at once is waited for.

        Parameters
        ----------
        is_done
            Asked again after each change.
        while_away
            Also wait while the breaker is open.

        Returns
        -------
        bool
            Whether it is done.
        """
        with self._change, self._without_lingering():
            answers = self._answers
            while not is_done():
                if self.trouble and (not while_away or self._waited >= PATIENCE_SECONDS):
                    return False
                began = time.monotonic()
                seconds = max(PATIENCE_SECONDS - self._waited, 0.0)
                self._change.wait(timeout=min(_TICK_SECONDS, max(seconds, 0.05)))
                if self._answers == answers and not self._busy(began, seconds):
                    self._waited += time.monotonic() - began
                    if self._waited >= PATIENCE_SECONDS:
                        return is_done()
                answers = self._answers
            return True

    def own_is_sent(self) -> bool:
        """Return whether the store has everything of this run."""
        return not self.spool.waiting

    def drained(self) -> bool:
        """Return whether the store has everything, what earlier runs left included."""
        return not self.spool.waiting and not self._left

    def stop(self) -> None:
        """Stop sending and let go of the spools; what is not sent stays on the disk."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self.join(timeout=0.1)
        for spool in (*self._left, self.spool):
            spool.close()

    def _source(self) -> Spool | None:
        if self.spool.waiting and (self._hurried or self._idle() == 0.0):
            return self.spool
        return self._left[0] if self._left else None

    def _idle(self) -> float | None:
        """Return how long nothing has to be sent; None: until something is logged."""
        return None if self._send_at == math.inf else max(self._send_at - time.monotonic(), 0.0)

    @contextmanager
    def _without_lingering(self) -> Iterator[None]:
        self._hurried = True
        self._change.notify_all()
        try:
            yield
        finally:
            self._hurried = False

    def _busy(self, began: float, seconds: float) -> bool:
        """Return whether a store that has not answered lately is alive all the same."""
        if self.trouble or self._waited_for_busy >= _SLOW_SECONDS:
            return False
        self._change.release()
        try:
            alive = _is_alive(
                self.client.tracking_uri, min(0.5, max(seconds - _TICK_SECONDS, 0.05))
            )
        finally:
            self._change.acquire()
        if alive:
            self._waited_for_busy += time.monotonic() - began
        return alive


def _is_alive(uri: str, timeout: float) -> bool:
    if not is_server(uri):
        return True
    try:
        answer = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/runs/log-batch",
            "POST",
            json={"run_id": "0" * 32},
            timeout=timeout,
            max_retries=0,
            raise_on_status=False,
        )
    except Exception:
        return False
    return answer.status_code < 500
