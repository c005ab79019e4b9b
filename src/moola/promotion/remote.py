"""The ledger of a guarded server, over HTTP; and one function that opens either kind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from moola.errors import ConfigError, TrackingError
from moola.promotion.calls import mlflow_call
from moola.promotion.ledger import Draft, Entry, Ledger, utc_now
from moola.promotion.page import LEDGER_ROUTE

_SECONDS = 30.0


class RemoteLedger(Ledger):
    """The ledger of a guarded server.

    It reads everything and writes looks at the test set, refusals and challengers; moves of
    Production are written by the server, in the transaction that makes them.

    Parameters
    ----------
    url
        Address of the server; user and password are taken from ``MLFLOW_TRACKING_USERNAME`` and
        ``MLFLOW_TRACKING_PASSWORD`` as MLflow's client does.
    clock
        Returns the present time with a time zone.

    Raises
    ------
    TrackingError
        If the server cannot be reached or is not a guarded one.
    """

    moves_by_server = True

    def __init__(self, url: str, *, clock: Callable[[], datetime] = utc_now):
        self.clock = clock
        self._url = url.rstrip("/")
        self._call("GET", {"name": ""})

    def transaction(self) -> Any:
        """Refuse: transactions are the server's business."""
        raise ConfigError("the ledger of a server cannot be written to directly")

    def append(
        self, draft: Draft, *, only_if: Callable[[sa.Connection], None] | None = None
    ) -> Entry:
        """Have the server append an entry; `only_if` is not possible here."""
        if only_if is not None:
            raise ConfigError("the ledger of a server cannot be written to under a condition")
        values = {
            "event": draft.event,
            "who": draft.who,
            "name": draft.name,
            "reason": draft.reason,
            "version_from": draft.version_from,
            "version_to": draft.version_to,
            "evidence_digest": draft.evidence_digest,
            "payload": dict(draft.payload),
        }
        return Entry(**self._call("POST", values))

    def entries(
        self, name: str | None = None, *, events: tuple[str, ...] | None = None
    ) -> list[Entry]:
        """Return entries in order, of one model and of some events if asked."""
        asked: dict[str, Any] = {} if name is None else {"name": name}
        if events is not None:
            asked["event"] = list(events)
        return [Entry(**values) for values in self._call("GET", asked)["entries"]]

    def last_seq(self, events: tuple[str, ...]) -> int:
        """Return the number of the last entry of some events, 0 if there is none."""
        return max((entry.seq for entry in self.entries(events=events)), default=0)

    def _call(self, method: str, values: dict[str, Any]) -> Any:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        how = {"params": values} if method == "GET" else {"json": values}
        with mlflow_call(f"the ledger at {self._url}"):
            answer = http_request(
                get_default_host_creds(self._url),
                LEDGER_ROUTE,
                method,
                timeout=_SECONDS,
                raise_on_status=False,
                **how,
            )
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code != 200 or not isinstance(body, dict):
            said = body.get("message") if isinstance(body, dict) else f"status {answer.status_code}"
            raise TrackingError(
                f"{self._url} keeps no ledger for us: {said}",
                limit="a server started by `moola server`",
                remedy="Start it so, or give the address of a ledger database",
            )
        return body


def open_ledger(uri: str, *, clock: Callable[[], datetime] = utc_now) -> Ledger:
    """Open the ledger of a guarded server (http, https) or of a database."""
    if uri.startswith(("http://", "https://")):
        return RemoteLedger(uri, clock=clock)
    return Ledger(uri, clock=clock)
