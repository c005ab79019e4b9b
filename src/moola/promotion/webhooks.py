"""Telling others what was decided: signed messages, sent after the decision and never in its way.

A message has the form and signature of MLflow's own webhooks, so that one receiver checks both:
``X-MLflow-Signature: v1,base64(HMAC-SHA256(secret, "id.timestamp.body"))``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import requests

from moola.promotion.ledger.entry import MOVES, Entry

ANNOUNCED = (*MOVES, "refusal")
_ATTEMPTS = 3
_TIMEOUT_SECONDS = 10.0
_WAITING = 1000
_log = logging.getLogger(__name__)


class Webhooks:
    """Sends ledger entries to the addresses of a policy, in a thread of its own.

    A receiver that is slow, refuses or is down costs the server nothing but log lines: at most
    1,000 messages wait, each is tried 3 times, and what fails is logged and dropped. The ledger
    stays the record.

    Parameters
    ----------
    addresses
        Where messages go, http or https.
    secret
        Key of the signature; None sends unsigned messages.
    pause
        Called with seconds to wait between two attempts.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        secret: str | None,
        *,
        pause: Callable[[float], object] = time.sleep,
    ):
        self.addresses = addresses
        self._secret = secret
        self._pause = pause
        self._waiting: queue.Queue[tuple[str, bytes]] = queue.Queue(maxsize=_WAITING)
        self._started = threading.Lock()
        self._thread: threading.Thread | None = None

    def announce(self, entry: Entry) -> None:
        """Queue a promotion, rollback or refusal; anything else is not announced."""
        if entry.event not in ANNOUNCED:
            return
        body = json.dumps(message(entry)).encode()
        for address in self.addresses:
            try:
                self._waiting.put_nowait((address, body))
            except queue.Full:
                _log.error("webhook %s: %d messages wait; entry dropped", address, _WAITING)
        self._start()

    def wait(self) -> None:
        """Return when everything queued was sent or given up."""
        self._waiting.join()

    def _start(self) -> None:
        with self._started:
            if self.addresses and self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="moola-hooks")
                self._thread.start()

    def _run(self) -> None:
        while True:
            address, body = self._waiting.get()
            try:
                self._deliver(address, body)
            except Exception:  # a thread that dies would lose every later message
                _log.exception("webhook %s failed", address)
            finally:
                self._waiting.task_done()

    def _deliver(self, address: str, body: bytes) -> None:
        identity = str(uuid.uuid4())
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(2.0**attempt)
            try:
                answer = requests.post(
                    address,
                    data=body,
                    headers=self._headers(identity, body),
                    timeout=_TIMEOUT_SECONDS,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                why = type(error).__name__
            else:
                if answer.status_code < 300:  # a redirection is not followed: nobody got it
                    return
                why = f"status {answer.status_code}"
            _log.warning("webhook %s, attempt %d: %s", address, attempt + 1, why)
        _log.error("webhook %s: given up after %d attempts", address, _ATTEMPTS)

    def _headers(self, identity: str, body: bytes) -> dict[str, str]:
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-MLflow-Delivery-Id": identity,
            "X-MLflow-Timestamp": stamp,
        }
        if self._secret:
            headers["X-MLflow-Signature"] = signature(self._secret, identity, stamp, body)
        return headers


def message(entry: Entry) -> dict[str, Any]:
    """Return what is sent about a ledger entry; the evidence itself stays in the ledger."""
    return {
        "entity": "moola",
        "action": entry.event,
        "timestamp": datetime.now(UTC).isoformat(),
        "data": {
            "seq": entry.seq,
            "at": entry.at,
            "name": entry.name,
            "version_from": entry.version_from,
            "version_to": entry.version_to,
            "who": entry.who,
            "reason": entry.reason,
            "evidence_digest": entry.evidence_digest,
            "entry_hash": entry.entry_hash,
        },
    }


def signature(secret: str, identity: str, stamp: str, body: bytes) -> str:
    """Return the signature of a message as MLflow makes it."""
    signed = f"{identity}.{stamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
