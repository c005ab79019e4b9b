"""Which version answers: the proven one in Production, replaced while requests go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from moola.errors import MoolaError, Refused, Unsettled
from moola.serving.batching import freeze_garbage
from moola.serving.scoring import WindowScorer

_LOG = logging.getLogger("moola.serve")
_LONGEST_PAUSE_SECONDS = 60.0
_PATIENT_LOOKS = 3  # a move of Production is over long before
_DISPUTED = "disputed"  # stands for a version where registry and ledger name several


@dataclass(frozen=True, kw_only=True)
class Served:
    """A loaded version; `sha256` is the digest of its files, `proven` whether that was signed."""

    scorer: WindowScorer
    version: str
    sha256: str
    proven: bool


class Source(Protocol):
    """Where versions come from; what they must show is the source's business."""

    def wanted(self) -> str | None:
        """Return the version that should answer, None if there should be none.

        Raises Unsettled while that is not settled, another MoolaError if it cannot be asked.
        """

    def check(self, served: Served) -> None:
        """Raise Refused if a loaded version may no longer answer.

        Raises Unsettled if by the ledger it is no longer the one.
        """

    def load(self, version: str) -> Served:
        """Load a version; raises Refused, or Unsettled, if it does not show what it must."""


class Follower:
    """Keeps the version that answers up to date.

    Parameters
    ----------
    source
        Where versions come from.
    poll_seconds
        How often it is asked.
    on_change
        Told the version that answers from now on, or None.
    on_refusal
        Told a version that was refused, and why; ``disputed`` stands for one that registry and
        ledger do not agree about for several looks.
    """

    def __init__(
        self,
        source: Source,
        *,
        poll_seconds: float,
        on_change: Callable[[Served | None], None] = lambda served: None,
        on_refusal: Callable[[str, str], None] = lambda version, reason: None,
    ):
        self._source = source
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._on_refusal = on_refusal
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused: str | None = None
        self._retry_at = self._retry_pause = 0.0
        self._num_unsettled = 0
        self.current: Served | None = None

    def start(self) -> None:
        """Load what should answer, then go on following in a thread.

        Raises
        ------
        MoolaError
            If there is nothing to serve or it is refused: nothing is served then.
        """
        version = self._source.wanted()
        if version is None:
            raise Refused(
                "nothing is in Production", remedy="Promote a version first: `moola promote`"
            )
        self._put(self._source.load(version))
        freeze_garbage()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Ask the source once and act on its answer."""
        try:
            self._act(self._source.wanted())
        except Unsettled as disagreement:
            self._bear(disagreement)
        else:
            self._num_unsettled = 0

    def _act(self, version: str | None) -> None:
        current = self.current
        answers = current is not None and version == current.version
        try:
            if current is not None and answers:
                self._source.check(current)
            elif version is not None and not self._pauses(version):
                self._put(self._source.load(version))
            elif version is None and current is not None:
                self._put(None)
        except Unsettled:
            raise
        except Refused as refusal:
            if answers:
                self._put(None)
            self._refuse(str(version), refusal)

    def _bear(self, why: Refused) -> None:
        """Wait for the end of a move; if it does not come, check what answers, and report."""
        self._num_unsettled += 1
        if self._num_unsettled < _PATIENT_LOOKS:
            return
        if self.current is not None:
            try:
                self._source.check(self.current)
            except Refused as refusal:
                self._put(None)
                why = refusal
        if not self._pauses(_DISPUTED):
            self._refuse(_DISPUTED, why)

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.look()
            except MoolaError as error:
                _LOG.warning("registry", extra={"fields": {"reason": str(error)[:300]}})
            except Exception:
                _LOG.exception("follow")

    def _put(self, served: Served | None) -> None:
        self.current, self._refused = served, None
        self._on_change(served)

    def _pauses(self, version: str) -> bool:
        return version == self._refused and time.monotonic() < self._retry_at

    def _refuse(self, version: str, refusal: Refused) -> None:
        """Report a refusal; the same version is loaded again after ever longer pauses only."""
        again = self._refused == version
        pause = 2 * self._retry_pause if again else self._poll_seconds
        self._retry_pause = min(pause, _LONGEST_PAUSE_SECONDS)
        self._refused, self._retry_at = version, time.monotonic() + self._retry_pause
        self._on_refusal(version, str(refusal))
