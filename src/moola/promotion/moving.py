"""Moving Production: everything is checked again at the move, and looked at after it.

On a guarded server the server does it. On a plain store whose registry and ledger are one database,
registry and ledger change in one transaction, which compares first. Where they are two, an *intent*
is written before, so that a move that was interrupted can be finished or undone.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from moola.errors import PromotionRefused, TrackingError
from moola.promotion.calls import mlflow_call
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.content import Intent
from moola.promotion.ledger.entry import Draft, Entry
from moola.promotion.ledger.lines import last_move, open_intent
from moola.promotion.ledger.local import LocalLedger, belief_in
from moola.promotion.ledger.rows import read_entries
from moola.promotion.registry_rows import exclusive, move_in, origin_in, state_in, store_beside
from moola.promotion.state import RegistryState, clear_production, put_in_production, read_state
from moola.promotion.versions.files import Fingerprint, fingerprint, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

LEASE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Precondition:
    """The state when the checks began, and how to make them again.

    Parameters
    ----------
    state
        Who held Production.
    last_move
        Number of the ledger's last promotion or rollback of the model (`last_move`).
    check
        Makes every check again (keys, policy, evidence, files); raises PromotionRefused.
    keys
        The trusted keys.
    """

    state: RegistryState
    last_move: int | None
    check: Callable[[], None]
    keys: TrustedKeys


def move(
    client: MlflowClient, ledger: Ledger, draft: Draft, *, precondition: Precondition
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
    precondition
        The state when the checks began.

    Returns
    -------
    Entry
        The promotion or rollback in the ledger.

    Raises
    ------
    PromotionRefused
        If anything that was checked is no longer so, or Production was moved by somebody else
        before or while it was moved.
    TrackingError
        If a guarded server moved Production without a line in its ledger.
    """
    if not isinstance(ledger, LocalLedger):
        return _by_server(client, ledger, draft, precondition.keys)
    files = seen_files(client, draft.name, str(draft.version_to))
    precondition.check()
    store = store_beside(client, ledger)
    if store is None:
        entry = _in_two_steps(client, ledger, draft, precondition)
    else:
        entry = _in_one_transaction(store, ledger, draft, precondition, files)
    _require_moved(client, ledger, entry, precondition, files)
    return entry


def _by_server(client: MlflowClient, ledger: Ledger, draft: Draft, keys: TrustedKeys) -> Entry:
    put_in_production(client, draft.name, str(draft.version_to))
    moves = ledger.moves(draft.name, keys=keys)
    if not moves or moves[-1].version_to != draft.version_to:
        raise TrackingError(
            "the server moved Production without a signed line in its ledger",
            remedy="Check that the ledger address is that of the server",
        )
    return moves[-1]


def _in_one_transaction(
    store: SqlAlchemyStore,
    ledger: LocalLedger,
    draft: Draft,
    precondition: Precondition,
    files: SeenFiles,
) -> Entry:
    """Compare and move: nobody else writes registry or ledger in between."""
    with exclusive(store) as session:
        connection, version = session.connection(), str(draft.version_to)
        _require_unmoved(connection, draft.name, precondition)
        if state_in(session, draft.name) != precondition.state:
            raise _moved(draft.name)
        if origin_in(session, draft.name, version) != (files.run_id, files.address):
            raise PromotionRefused(f"version {version} names another run or other files by now")
        require_same_files(files, version)
        move_in(session, draft.name, version)
        entry = ledger.append_in(connection, draft)
    ledger.note(entry, compared=False)
    return entry


def _in_two_steps(
    client: MlflowClient, ledger: LocalLedger, draft: Draft, precondition: Precondition
) -> Entry:
    def unmoved(connection: sa.Connection) -> None:
        _require_unmoved(connection, draft.name, precondition)

    intent = ledger.append(_intent(draft, ledger.clock()), only_if=unmoved)
    if read_state(client, draft.name) != precondition.state:
        entry = abandon(ledger, intent, _moved(draft.name))
    else:
        entry = finish(client, ledger, intent, precondition.keys)
    if entry.event == "abandoned":
        raise PromotionRefused(entry.reason)
    return entry


def finish(client: MlflowClient, ledger: LocalLedger, intent: Entry, keys: TrustedKeys) -> Entry:
    """Carry an intent through and write the line it announced; undo it where that is refused."""
    try:
        put_in_production(client, intent.name, str(intent.version_to))
    except PromotionRefused as refusal:
        return undo(client, ledger, intent, refusal, keys)
    if read_state(client, intent.name).alias_version != intent.version_to:
        return abandon(ledger, intent, _moved(intent.name))
    with ledger.transaction() as connection:
        entry = close_intent(connection, ledger, intent)
    ledger.note(entry, compared=False)
    return entry


def undo(
    client: MlflowClient,
    ledger: LocalLedger,
    intent: Entry,
    why: PromotionRefused,
    keys: TrustedKeys,
) -> Entry:
    """Take an intent back: where it has moved anything, the ledger's champion gets it back.

    Nothing is touched for an intent that no known key signed; one that is revoked by now is known.
    """
    valid_once = dataclasses.replace(keys, revoked=frozenset())
    if ledger.belief(valid_once).why_not(intent) is not None:
        return abandon(ledger, intent, why)
    state = read_state(client, intent.name)
    # A ledger that begins with this move knows of no champion; the intent does.
    champion = ledger.champion_at(intent.name, keys=valid_once) or intent.version_from
    touched = intent.version_to in (state.alias_version, *state.stage_versions)
    if touched and (state.alias_version != champion or not state.agrees):
        if champion is None:
            clear_production(client, intent.name)
        else:
            put_in_production(client, intent.name, champion)
    return abandon(ledger, intent, why)


def abandon(ledger: LocalLedger, intent: Entry, why: PromotionRefused) -> Entry:
    """Write down that a move that was begun is given up."""
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


def close_intent(connection: sa.Connection, ledger: LocalLedger, intent: Entry) -> Entry:
    """Write the line an intent announced, unless it is there already."""
    announced = intent.content
    assert isinstance(announced, Intent)
    for entry in read_entries(connection, intent.name, after=intent.seq):
        if entry.event != "intent" and entry.payload.get("intent") == intent.seq:
            return entry
    draft = Draft(
        event=announced.event,
        who=intent.who,
        name=intent.name,
        reason=intent.reason,
        version_from=intent.version_from,
        version_to=intent.version_to,
        evidence_digest=intent.evidence_digest,
        payload={**announced.then, "intent": intent.seq},
    )
    return ledger.append_in(connection, draft)


@dataclass(frozen=True, kw_only=True)
class SeenFiles:
    """Where a version's files lie, and how they looked before they were checked."""

    run_id: str | None
    address: str | None
    look: Fingerprint | None


def seen_files(client: MlflowClient, name: str, version: str) -> SeenFiles:
    """Return where a version's files are and how they look, before they are checked."""
    with mlflow_call(f"version {version} of {name}", reads=True):
        run_id = client.get_model_version(name, version).run_id
        address = client.get_model_version_download_uri(name, version)
    folder = local_folder(address)
    return SeenFiles(
        run_id=run_id, address=address, look=None if folder is None else fingerprint(folder)
    )


def require_same_files(files: SeenFiles, version: str) -> None:
    """Raise PromotionRefused if files on this machine look otherwise than they did."""
    folder = local_folder(files.address or "")
    if folder is not None and fingerprint(folder) != files.look:
        raise PromotionRefused(f"the files of version {version} were changed while it was checked")


def _require_unmoved(connection: sa.Connection, name: str, precondition: Precondition) -> None:
    entries = read_entries(connection, name)
    pending = open_intent(entries, belief_in(connection, precondition.keys))
    if pending is not None or last_move(entries) != precondition.last_move:
        raise _moved(name)


def _require_moved(
    client: MlflowClient, ledger: Ledger, entry: Entry, precondition: Precondition, files: SeenFiles
) -> None:
    """Raise PromotionRefused if what was moved is not in Production, or not what was checked."""
    version = str(entry.version_to)
    state = read_state(client, entry.name)
    if (state.alias_version, state.stage_versions) != (version, (version,)):
        if last_move(ledger.entries(entry.name)) == entry.seq:
            raise PromotionRefused(
                f"Production of {entry.name} was moved past Moola right after: the alias names "
                f"version {state.alias_version}",
                remedy="Find out who writes to the registry, then run `moola rollback`",
            )
        return  # somebody else's move came after, and is in the ledger
    require_same_files(files, version)
    if files.look is None:
        # Of files elsewhere nothing tells cheaply whether they were changed in between.
        precondition.check()


def _moved(name: str) -> PromotionRefused:
    return PromotionRefused(
        f"Production of {name} was moved by somebody else while this was checked",
        remedy="Run it again: it is then compared with the new champion",
    )


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
