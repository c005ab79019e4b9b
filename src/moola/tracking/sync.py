"""Sending what runs left in the spool while their store was away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moola.errors import TrackingError
from moola.tracking.delivery import StoreAway, deliver, next_load
from moola.tracking.spool import Spool, left_spools, set_aside
from moola.tracking.store import open_store, shown

_HELD = "a running process is sending it"


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What became of one spool.

    Attributes
    ----------
    folder, store
        The spool and the store it is for; the store is empty where a running process holds it.
    runs
        Ids of the runs that are in the store now.
    num_sent, num_waiting
        Entries sent now, and entries that still wait.
    trouble
        Why entries wait.
    refused
        What the store will never take; the spool is kept in ``refused/``.
    """

    folder: Path
    store: str = ""
    runs: tuple[str, ...] = ()
    num_sent: int = 0
    num_waiting: int = 0
    trouble: str | None = None
    refused: tuple[str, ...] = ()


def sync(root: Path | None = None) -> Iterator[SyncReport]:
    """Send every spool that no running process holds, oldest first; report each."""
    away: dict[str, str] = {}
    for folder in left_spools(root):
        spool = Spool.take(folder)
        if spool is None:
            leftover = set_aside(folder)
            trouble = f"it cannot be read and is kept in {leftover}" if leftover.exists() else _HELD
            yield SyncReport(folder=folder, trouble=trouble)
            continue
        spool.add_missing_ends()
        before = len(spool.waiting)
        if spool.store not in away:
            try:
                _send(spool)
            except (StoreAway, TrackingError) as error:
                away[spool.store] = str(error)
        waiting = len(spool.waiting)
        yield SyncReport(
            folder=folder,
            store=shown(spool.store),
            runs=tuple(facts["run_id"] for facts in spool.ids.values()),
            num_sent=before - waiting,
            num_waiting=waiting,
            trouble=away[spool.store] if waiting else None,
            refused=tuple(spool.refused),
        )
        spool.close()


def _send(spool: Spool) -> None:
    client = open_store(spool.store)
    while spool.waiting:
        load = next_load(spool.waiting)
        deliver(client, spool, load)
        spool.drop(load)
