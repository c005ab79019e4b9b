"""Moves of Production that survive a crash: an intent first, then the registry, then the line.

The intent goes into the ledger only after every check has passed. Whoever finds it open later, with
its author gone, checks it again and carries it through; if it no longer holds (the version has
vanished, its files changed, the key was revoked), Production goes back to the ledger's champion.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from moola.config.promotion import PromotionPolicy
from moola.errors import PromotionRefused, TrackingError
from moola.promotion.keys import TrustedKeys
from moola.promotion.ledger import (
    MOVES,
    Draft,
    Entry,
    Ledger,
    append_entry,
    open_intent,
    read_entries,
)
from moola.promotion.proof import last_promotion, require_proof
from moola.promotion.state import clear_production, put_in_production, read_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

LEASE_SECONDS = 300.0


def move(
    client: MlflowClient,
    ledger: Ledger,
    draft: Draft,
    *,
    seen_move: int | None,
) -> Entry:
    """Carry out a promotion or rollback that has passed all checks and return its ledger entry.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger.
    draft
        The entry to be written once it is done.
    seen_move
        Number of the last promotion or rollback known when the checks began (`last_move`).

    Returns
    -------
    Entry
        The promotion or rollback in the ledger.

    Raises
    ------
    PromotionRefused
        If Production moved, or is being moved, since the checks began.
    TrackingError
        If a guarded server moved Production without a line in its ledger.
    """
    if ledger.moves_by_server:
        put_in_production(client, draft.name, str(draft.version_to))
        done = ledger.entries(draft.name, events=MOVES)
        if not done or done[-1].version_to != draft.version_to:
            raise TrackingError(
                "the server moved Production without a line in its ledger",
                remedy="Check that the ledger address is that of the server",
            )
        return done[-1]

    def unmoved(connection: sa.Connection) -> None:
        entries = read_entries(connection, draft.name)
        pending = open_intent(entries)
        if pending is not None or _last_move(entries) != seen_move:
            raise PromotionRefused(
                f"Production of {draft.name} was moved by somebody else while this was checked",
                remedy="Run it again: it is then compared with the new champion",
            )

    intent = ledger.append(_intent(draft, ledger.clock()), only_if=unmoved)
    entry = _finish(client, ledger, intent)
    if entry.event == "abandoned":
        raise PromotionRefused(entry.reason)
    return entry


def recover(
    client: MlflowClient,
    ledger: Ledger,
    name: str,
    *,
    trusted_keys: TrustedKeys,
    policy: PromotionPolicy,
) -> Entry | None:
    """Finish a move of Production that was interrupted, or undo it if it is no longer proven.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, usually in the registry's database.
    name
        The registered model.
    trusted_keys
        Keys whose signature counts.
    policy
        The policy in force.

    Returns
    -------
    Entry or None
        The entry that closes the interrupted move; None if there was none.

    Raises
    ------
    PromotionRefused
        If the move is still under way.
    """
    if ledger.moves_by_server:
        return None
    intent = open_intent(ledger.entries(name))
    if intent is None:
        return None
    if _is_under_way(intent.payload, ledger.clock()):
        raise PromotionRefused(
            f"another {intent.payload.get('event')} of {name} is under way since {intent.at} "
            f"(by {intent.who})",
            remedy="Try again when it has ended",
        )
    try:
        _require_still_proven(client, ledger, intent, trusted_keys, policy)
    except PromotionRefused as refusal:
        return _undo(client, ledger, intent, refusal)
    return _finish(client, ledger, intent)


def last_move(ledger: Ledger, name: str) -> int | None:
    """Return the number of the last promotion or rollback of a model."""
    return _last_move(ledger.entries(name))


def close_intent(connection: sa.Connection, intent: Entry, *, at: datetime) -> Entry:
    """Write the line an intent announced, unless it is there already."""
    for entry in read_entries(connection, intent.name):
        if entry.event != "intent" and entry.payload.get("intent") == intent.seq:
            return entry
    draft = Draft(
        event=str(intent.payload["event"]),
        who=intent.who,
        name=intent.name,
        reason=intent.reason,
        version_from=intent.version_from,
        version_to=intent.version_to,
        evidence_digest=intent.evidence_digest,
        payload={**intent.payload["then"], "intent": intent.seq},
    )
    return append_entry(connection, draft, at=at)


def _require_still_proven(
    client: MlflowClient,
    ledger: Ledger,
    intent: Entry,
    trusted_keys: TrustedKeys,
    policy: PromotionPolicy,
) -> None:
    if intent.payload["event"] == "promotion" and "evidence" in intent.payload["then"]:
        proof = dataclasses.replace(intent, payload=intent.payload["then"])
    else:
        moves = ledger.entries(intent.name, events=MOVES)
        proof = last_promotion(moves, str(intent.version_to))
    require_proof(client, proof, trusted_keys, policy=policy)


def _finish(client: MlflowClient, ledger: Ledger, intent: Entry) -> Entry:
    try:
        put_in_production(client, intent.name, str(intent.version_to))
    except PromotionRefused as refusal:
        return _undo(client, ledger, intent, refusal)
    with ledger.transaction() as connection:
        return close_intent(connection, intent, at=ledger.clock())


def _undo(client: MlflowClient, ledger: Ledger, intent: Entry, why: PromotionRefused) -> Entry:
    state = read_state(client, intent.name)
    # A ledger that begins with this move knows of no champion; the intent does.
    champion = ledger.champion_at(intent.name) or intent.version_from
    if state.alias_version != champion or not state.agrees:
        if champion is None:
            clear_production(client, intent.name)
        else:
            put_in_production(client, intent.name, champion)
    return ledger.append(
        Draft(
            event="abandoned",
            who=intent.who,
            name=intent.name,
            reason=str(why),
            version_from=intent.version_from,
            version_to=intent.version_to,
            evidence_digest=intent.evidence_digest,
            payload={"intent": intent.seq},
        )
    )


def _last_move(entries: list[Entry]) -> int | None:
    return max((e.seq for e in entries if e.event in MOVES), default=None)


def _intent(draft: Draft, now: datetime) -> Draft:
    author = _author(now + timedelta(seconds=LEASE_SECONDS))
    payload = {"event": draft.event, "then": dict(draft.payload), **author}
    return dataclasses.replace(draft, event="intent", payload=payload)


def _author(lease: datetime) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "thread": threading.get_ident(),
        "lease_until": lease.isoformat(),
    }


def _is_under_way(author: Mapping[str, Any], now: datetime) -> bool:
    """Return whether the author of an intent may still be at work on it."""
    if now > datetime.fromisoformat(author["lease_until"]):
        return False
    if author["host"] != socket.gethostname():
        return True
    if author["pid"] == os.getpid():
        others = {t.ident for t in threading.enumerate()} - {threading.get_ident()}
        return author["thread"] in others
    try:
        os.kill(author["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
