"""Writing and reading lines of the ledger over an open connection."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from moola.errors import PromotionRefused, TrackingError
from moola.hashing import canonical_json
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.belief import GENESIS, Belief, sign_line
from moola.promotion.ledger.entry import Draft, Entry
from moola.promotion.ledger.schema import LEDGER

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CLOCKS_APART = timedelta(minutes=5)
_LINES_BACK = 100  # as far as a line is sought whose time can be believed


def append_entry(
    connection: sa.Connection,
    draft: Draft,
    *,
    at: datetime,
    signer: Ed25519PrivateKey | None = None,
) -> Entry:
    """Append inside a transaction that already holds the append lock.

    Parameters
    ----------
    connection
        The connection.
    draft
        What happened.
    at
        When, with a time zone. A clock that is up to 5 minutes behind the last line gets its time.
    signer
        The key that signs the line; None leaves it unsigned, and nobody believes it.

    Returns
    -------
    Entry
        The line as it is read back.

    Raises
    ------
    PromotionRefused
        If `at` lies further back than that.
    TrackingError
        If the database gives back another line than it was given.
    """
    before = _last_lines(connection, signer)
    if signer is not None and (last := _unsigned_up_to(connection, before)):
        reason = f"lines are signed from here on; the {last} before it are older"
        payload = {"unsigned_up_to": last}
        boundary = Draft(event="boundary", who="moola", name="", reason=reason, payload=payload)
        before = [_append(connection, boundary, before, at, signer)]
    return _append(connection, draft, before, at, signer)


def read_entries(
    connection: sa.Connection,
    name: str | None = None,
    *,
    events: tuple[str, ...] | None = None,
    after: int = 0,
    limit: int | None = None,
) -> list[Entry]:
    """Return entries in order over an open connection."""
    query = _lines(connection).order_by(LEDGER.c.seq)
    if after:
        query = query.where(LEDGER.c.seq > after)
    if name is not None:
        query = query.where(LEDGER.c.name == name)
    if events is not None:
        query = query.where(LEDGER.c.event.in_(events))
    return _read(connection, query if limit is None else query.limit(limit))


def last_entry(connection: sa.Connection, *, events: tuple[str, ...] | None = None) -> Entry | None:
    """Return the last entry, of some events if asked; None if there is none."""
    query = _lines(connection).order_by(LEDGER.c.seq.desc()).limit(1)
    if events is not None:
        query = query.where(LEDGER.c.event.in_(events))
    entries = _read(connection, query)
    return entries[0] if entries else None


def _append(
    connection: sa.Connection,
    draft: Draft,
    before: list[Entry],
    at: datetime,
    signer: Ed25519PrivateKey | None,
) -> Entry:
    values = dataclasses.asdict(draft)
    text = canonical_json(values.pop("payload"))
    entry = Entry(
        **values,
        seq=before[0].seq + 1 if before else 1,
        at=_moment(at, before, signer).astimezone(UTC).isoformat(timespec="microseconds"),
        text=text,
        previous_hash=before[0].entry_hash if before else GENESIS,
        entry_hash="",
    )
    digest = entry.computed_hash()
    signature = None if signer is None else sign_line(digest, signer)
    entry = dataclasses.replace(entry, entry_hash=digest, signature=signature)
    row: dict[str, Any] = dataclasses.asdict(entry)
    row["payload"] = row.pop("text")
    connection.execute(sa.insert(LEDGER).values(**row))
    stored = _read(connection, _lines(connection).where(LEDGER.c.seq == entry.seq))
    if stored != [entry] or stored[0].computed_hash() != entry.entry_hash:
        raise TrackingError(
            f"the database gives back another line than ledger entry {entry.seq} was written as",
            remedy="Check its encoding (UTF-8) and its triggers; nothing was written",
        )
    return stored[0]


def _last_lines(connection: sa.Connection, signer: Ed25519PrivateKey | None) -> list[Entry]:
    """Return the last line first, and further ones where it does not say what time it is."""
    query = _lines(connection).order_by(LEDGER.c.seq.desc())
    last = _read(connection, query.limit(1))
    if not last or (last[0].time is not None and _is_plausible(last[0], signer)):
        return last
    return _read(connection, query.limit(_LINES_BACK))


def _unsigned_up_to(connection: sa.Connection, before: list[Entry]) -> int:
    """Return the last line from before there were signatures, 0 where one was signed since."""
    if not before or before[0].signature:
        return 0
    signed = sa.select(LEDGER.c.seq).where(LEDGER.c.signature != "").limit(1)
    if connection.execute(signed).first() is not None:
        return 0
    old = sa.select(sa.func.max(LEDGER.c.seq)).where(LEDGER.c.signature == "")
    return int(connection.execute(old).scalar() or 0)


def _moment(at: datetime, before: list[Entry], signer: Ed25519PrivateKey | None) -> datetime:
    """Return the time of a new line: not before the last line that says what time it is."""
    last = next((e.time for e in before if e.time is not None and _is_plausible(e, signer)), None)
    if last is None or at >= last:
        return at
    if last - at > _CLOCKS_APART:
        raise PromotionRefused(
            f"the clock says {at.astimezone(UTC):%Y-%m-%d %H:%M}, the ledger's last line is of "
            f"{last:%Y-%m-%d %H:%M} (UTC)",
            limit=f"at most {_CLOCKS_APART.seconds // 60} minutes before it",
            remedy="Set the clock right",
        )
    return last


def _is_plausible(entry: Entry, signer: Ed25519PrivateKey | None) -> bool:
    """Return whether a line's time binds the next: it is past, or we signed it ourselves.

    Else one line that anybody wrote with a time in the year 9999 would end the ledger.
    """
    if entry.time is None or entry.time <= datetime.now(UTC) + _CLOCKS_APART:
        return True
    if signer is None:
        return False
    public = signer.public_key()
    itself = TrustedKeys(keys={key_id(public): public})
    return Belief(keys=itself, ledger_id="").why_not(entry) is None


def _lines(connection: sa.Connection) -> sa.Select[Any]:
    """Select every column, on SQLite as bytes: its columns hold any type, and text of any kind."""
    if connection.dialect.name != "sqlite":
        return sa.select(LEDGER)
    texts = [sa.cast(c, sa.LargeBinary).label(c.name) for c in LEDGER.columns if c.name != "seq"]
    return sa.select(LEDGER.c.seq, *texts)


def _read(connection: sa.Connection, query: sa.Select[Any]) -> list[Entry]:
    rows = connection.execute(query).mappings()
    return [Entry.from_row({**row, "text": row["payload"]}) for row in rows]
