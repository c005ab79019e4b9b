"""Ledger lines about keys: which one began to count, and which one no longer does."""

from __future__ import annotations

from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.content import KeyChange
from moola.promotion.ledger.entry import Draft, Entry
from moola.promotion.ledger.local import LocalLedger, belief_in
from moola.promotion.ledger.rows import read_entries

TRUSTED, REVOKED, REMOVED = "trusted", "revoked", "removed"


def note_key_change(ledger: Ledger, *, who: str, key_id: str, change: str) -> Entry | None:
    """Write into the ledger that a key was trusted or revoked.

    Nothing is written into the ledger of a guarded server, which notes the keys it goes by itself.

    Parameters
    ----------
    ledger
        Where it is written.
    who
        Who changed it.
    key_id
        Which key.
    change
        What happened: ``trusted``, ``revoked`` or ``removed``.

    Returns
    -------
    Entry or None
        The entry; None on a guarded server.
    """
    if ledger.moves_by_server:
        return None
    return ledger.append(_draft(who, key_id, change))


def note_key_changes(ledger: LocalLedger, trusted: TrustedKeys, *, who: str) -> list[Entry]:
    """Write down how the trusted keys differ from what the ledger last said of them.

    Parameters
    ----------
    ledger
        A ledger that may be written to directly.
    trusted
        The keys as they are now.
    who
        Who found them so.

    Returns
    -------
    list of Entry
        An entry for each difference.
    """
    now = dict.fromkeys(trusted.attesters, TRUSTED) | dict.fromkeys(trusted.revoked, REVOKED)
    with ledger.transaction() as connection:
        lines = read_entries(connection, events=("key_change",))
        if ledger.signer is not None:
            lines = belief_in(connection, trusted).counting(lines)
        last_change = {
            entry.content.key_id: entry.content.change
            for entry in lines
            if isinstance(entry.content, KeyChange)
        }
        gone = dict.fromkeys(set(last_change) - set(now), REMOVED)
        changes = {k: v for k, v in sorted({**now, **gone}.items()) if last_change.get(k) != v}
        drafts = [_draft(who, identity, change) for identity, change in changes.items()]
        return [ledger.append_in(connection, draft) for draft in drafts]


def _draft(who: str, key_id: str, change: str) -> Draft:
    return Draft(
        event="key_change",
        who=who,
        name="",
        reason=f"key {key_id} {change}",
        payload={"key_id": key_id, "change": change},
    )
