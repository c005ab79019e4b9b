"""The ledger of a guarded server, over HTTP; and one function that opens either kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from moola.config.promotion import CHECKPOINT_FOLDER, SERVERS_FOLDER, TRUSTED_FOLDER
from moola.errors import PromotionRefused, TrackingError
from moola.promotion.calls import mlflow_call
from moola.promotion.evidence.keys import TrustedKeys, key_id, load_trusted_keys, trust
from moola.promotion.ledger.base import Ledger, utc_now
from moola.promotion.ledger.belief import GENESIS, Belief, head_is_signed
from moola.promotion.ledger.checkpoint import CheckpointFile, address_of
from moola.promotion.ledger.entry import Draft, Entry
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.page import ATTESTATIONS_ROUTE, CHECK_ROUTE, LEDGER_ROUTE

_SECONDS = 30.0


class RemoteLedger(Ledger):
    """The ledger of a guarded server.

    It reads everything and writes looks at the test set, refusals and challengers; moves of
    Production are written by the server, in the transaction that makes them. The server signs what
    it writes: its key is kept at the first contact, and another one is refused later.

    Parameters
    ----------
    url
        Address of the server; user and password are taken from ``MLFLOW_TRACKING_USERNAME`` and
        ``MLFLOW_TRACKING_PASSWORD`` as MLflow's client does.
    clock
        Returns the present time with a time zone.
    checkpoint
        Where it is kept how far the ledger went; None keeps nothing.
    trusted_folder
        Folder of trusted keys, where the server's is kept; None keeps it as long as this object.

    Raises
    ------
    TrackingError
        If the server cannot be reached or is not a guarded one.
    PromotionRefused
        If the server signs with another key than at the first contact.
    """

    moves_by_server = True

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        checkpoint: CheckpointFile | None = None,
        trusted_folder: Path | None = None,
    ):
        self.clock = clock
        self.checkpoint = checkpoint
        self.signer = None
        self._verified = (0, GENESIS)
        self._url = url.rstrip("/")
        self._head: dict[str, Any] = {}
        self._key = _public_key(self._get({"name": ""}).get("server_key"))
        if self._key is not None and trusted_folder is not None:
            self._pin(self._key, trusted_folder)

    @property
    def address(self) -> str:
        """The address of the server in one spelling, without user and password."""
        return address_of(self._url)

    def append(self, draft: Draft) -> Entry:
        """Have the server append an entry."""
        values = {k: v for k, v in dataclasses.asdict(draft).items() if v is not None}
        status, body = self._call("POST", values)
        if status != 200:
            reason = body.get("message", f"status {status}")
            raise TrackingError(f"{self._url} did not write the {draft.event} down: {reason}")
        entry = Entry.from_row(body)
        self.note(entry, compared=False)
        return entry

    def append_made(self, make: Callable[[str], Draft]) -> Entry:
        """Append what a function says, given the ledger's id (the hash of its first line)."""
        return self.append(make(str(self._get({"name": ""}).get("ledger_id", GENESIS))))

    def entries(
        self,
        name: str | None = None,
        *,
        events: tuple[str, ...] | None = None,
        after: int = 0,
    ) -> list[Entry]:
        """Return entries in order: of one model, of some events, after a number, if asked."""
        asked: dict[str, Any] = {} if name is None else {"name": name}
        if events is not None:
            asked["event"] = list(events)
        if after:
            asked["after"] = after
        return [Entry.from_row(values) for values in self._get(asked)["entries"]]

    def belief(self, keys: TrustedKeys) -> Belief:
        """Return what counts in this ledger by some trusted keys and the server's own."""
        answer = self._get({"event": "boundary"})
        boundaries = [Entry.from_row(values) for values in answer["entries"]]
        ledger_id = str(answer.get("ledger_id", GENESIS))
        return Belief.from_lines(self._counting_keys(keys), ledger_id, boundaries)

    def attest(self, envelope: str) -> str:
        """Have the server keep a signed attestation."""
        status, body = self._call("POST", {"envelope": envelope}, ATTESTATIONS_ROUTE)
        if status != 200:
            reason = body.get("message", f"status {status}")
            raise PromotionRefused(f"{self._url} did not take the attestation: {reason}")
        return str(body.get("digest"))

    def attestations(self, name: str, version: str) -> list[str]:
        """Return the envelopes that the server keeps about a version, oldest first, unread."""
        asked = {"name": name, "version": version}
        return [str(text) for text in self._answer(ATTESTATIONS_ROUTE, asked, "envelopes")]

    def check(self, name: str, version: str, alias: str | None) -> list[Any]:
        """Return what the server's rules require of a version, alias by alias, as plain values."""
        asked = {"name": name, "version": version} | ({} if alias is None else {"alias": alias})
        return self._answer(CHECK_ROUTE, asked, "aliases")

    def _answer(self, route: str, asked: Mapping[str, Any], field: str) -> list[Any]:
        status, body = self._call("GET", asked, route)
        values = body.get(field)
        if status != 200 or not isinstance(values, list):
            reason = body.get("message", f"status {status}")
            raise PromotionRefused(f"{self._url} does not answer: {reason}")
        return values

    def schema_findings(self) -> list[str]:
        """Return what the server says is wrong with the table and its triggers."""
        findings = self._get({"name": "", "schema": "1"}).get("schema") or []
        return [str(finding) for finding in findings]

    def _counting_keys(self, keys: TrustedKeys) -> TrustedKeys:
        if self._key is None:
            return keys
        return dataclasses.replace(keys, servers={**keys.servers, key_id(self._key): self._key})

    def _pin(self, key: Ed25519PublicKey, folder: Path) -> None:
        """Keep the server's key at the first contact; refuse another one later."""
        identity, trusted = key_id(key), load_trusted_keys(folder)
        was_here = self.checkpoint is not None and self.checkpoint.read() is not None
        if identity in trusted.revoked or (was_here and identity not in trusted.servers):
            raise PromotionRefused(
                f"the server at {self._url} signs with key {identity}, which is not trusted here",
                limit=f"one of {', '.join(sorted(trusted.servers)) or 'none'}",
                remedy=f"If its key was changed on purpose, put the public key into "
                f"{folder / SERVERS_FOLDER}",
            )
        trust(folder / SERVERS_FOLDER, key)

    def _head_signature(self, last: Entry) -> str | None:
        head = {"size": last.seq, "hash": last.entry_hash}
        signature = self._head.get("signature")
        if self._key is None or not isinstance(signature, str):
            return None
        keys = self._counting_keys(TrustedKeys(keys={}))
        return signature if head_is_signed(head, signature, keys) else None

    def _get(self, asked: dict[str, Any]) -> dict[str, Any]:
        status, body = self._call("GET", asked)
        if status != 200 or not isinstance(body.get("entries"), list):
            raise TrackingError(
                f"{self._url} keeps no ledger for us: {body.get('message', f'status {status}')}",
                limit="a server started by `moola server`",
                remedy="Start it so, or give the address of a ledger database",
            )
        if isinstance(head := body.get("head"), dict):
            self._head = head
        return body

    def _call(
        self, method: str, values: Mapping[str, Any], route: str = LEDGER_ROUTE
    ) -> tuple[int, dict[str, Any]]:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        how = {"params": values} if method == "GET" else {"json": values}
        with mlflow_call(f"the ledger at {self._url}"):
            answer = http_request(
                get_default_host_creds(self._url),
                route,
                method,
                timeout=_SECONDS,
                raise_on_status=False,
                **how,
            )
        try:
            body = answer.json()
        except (ValueError, RecursionError):
            body = None
        return answer.status_code, body if isinstance(body, dict) else {}


def open_ledger(
    uri: str, *, clock: Callable[[], datetime] = utc_now, project: Path | None = None
) -> Ledger:
    """Open the ledger of a guarded server (http, https) or of a database.

    Parameters
    ----------
    uri
        Address of the server or database.
    clock
        Returns the present time with a time zone.
    project
        Folder whose ``.moola`` keeps a checkpoint of each ledger and the keys of servers; None
        keeps neither.
    """
    checkpoint = None if project is None else checkpoint_of(uri, project)
    if not _is_server(uri):
        return LocalLedger(uri, clock=clock, checkpoint=checkpoint)
    folder = None if project is None else project / TRUSTED_FOLDER
    return RemoteLedger(uri, clock=clock, checkpoint=checkpoint, trusted_folder=folder)


def checkpoint_of(uri: str, project: Path) -> CheckpointFile:
    """Return the file in which a project keeps how far a ledger went."""
    return CheckpointFile.in_folder(project / CHECKPOINT_FOLDER, address_of(uri))


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _public_key(text: object) -> Ed25519PublicKey | None:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(text)))
    except ValueError:
        return None
