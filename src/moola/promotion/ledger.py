"""The ledger: an append-only, hash-chained table of everything that touched Production.

Each entry holds the SHA-256 over its own fields and the hash of the entry before it, so that a
changed or missing entry breaks the chain, and triggers refuse UPDATE and DELETE in the database.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from moola.errors import BadInput, ConfigError, PromotionRefused, TrackingError
from moola.hashing import canonical_json, sha256_json
from moola.promotion.ledger_schema import LEDGER, create_ledger, lock_for_append

EVENTS = (
    "promotion",
    "refusal",
    "rollback",
    "challenger",
    "key_change",
    "test_look",
    "intent",
    "abandoned",
)
MOVES = ("promotion", "rollback")
GENESIS = "0" * 64
SCHEMES = ("sqlite", "postgresql")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger; times are ISO 8601 in UTC, `payload` is plain JSON."""

    seq: int
    at: str
    event: str
    who: str
    name: str
    version_from: str | None
    version_to: str | None
    evidence_digest: str | None
    reason: str
    payload: Mapping[str, Any]
    previous_hash: str
    entry_hash: str

    def computed_hash(self) -> str:
        """Return the hash the entry's fields should have."""
        fields = dataclasses.asdict(self)
        del fields["entry_hash"]
        return sha256_json(fields)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An entry before the ledger gives it number, time and hash."""

    event: str
    who: str
    name: str
    reason: str
    version_from: str | None = None
    version_to: str | None = None
    evidence_digest: str | None = None
    payload: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise BadInput(f"event is {self.event!r}", limit=f"one of {', '.join(EVENTS)}")
        try:
            payload = json.loads(canonical_json(dict(self.payload)))
        except (ValueError, TypeError) as error:
            raise BadInput(f"the payload of a {self.event} is not plain JSON: {error}") from None
        object.__setattr__(self, "payload", payload)


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


class Ledger:
    """The ledger in one SQLite or PostgreSQL database; the table is made on first use.

    Parameters
    ----------
    url
        SQLAlchemy address of the database, usually the registry's own.
    clock
        Returns the present time with a time zone.

    Raises
    ------
    ConfigError
        If the address is not that of a SQLite or PostgreSQL database.
    TrackingError
        If the database cannot be reached.
    """

    moves_by_server = False

    def __init__(self, url: str, *, clock: Callable[[], datetime] = utc_now):
        if not is_database(url):
            raise ConfigError(
                f"the ledger's address is {url.rpartition('@')[2]!r}",
                limit="a sqlite: or postgresql: address",
                remedy="Give the registry's database, or a SQLite file of its own, as ledger",
            )
        self.clock = clock
        self._engine = open_engine(url)
        with self.transaction() as connection:
            create_ledger(connection)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Yield a connection that alone may append until the block ends; commits at its end."""
        with _database_errors(), self._engine.connect() as plain:
            connection = plain.execution_options(moola_append=True)
            with connection.begin():
                lock_for_append(connection)
                yield connection

    def append(
        self,
        draft: Draft,
        *,
        only_if: Callable[[sa.Connection], None] | None = None,
    ) -> Entry:
        """Append one entry in a transaction of its own.

        Parameters
        ----------
        draft
            What happened.
        only_if
            Called inside the transaction, before the entry is written; may raise to refuse.

        Returns
        -------
        Entry
            The entry with its number, time and hash.
        """
        with self.transaction() as connection:
            if only_if is not None:
                only_if(connection)
            return append_entry(connection, draft, at=self.clock())

    def entries(
        self, name: str | None = None, *, events: tuple[str, ...] | None = None
    ) -> list[Entry]:
        """Return entries in order, of one model and of some events if asked."""
        with _database_errors(), self._engine.connect() as connection:
            return read_entries(connection, name, events=events)

    def last_seq(self, events: tuple[str, ...]) -> int:
        """Return the number of the last entry of some events, 0 if there is none."""
        query = sa.select(sa.func.max(LEDGER.c.seq)).where(LEDGER.c.event.in_(events))
        with _database_errors(), self._engine.connect() as connection:
            return connection.execute(query).scalar() or 0

    def verify_chain(self) -> str:
        """Check every entry and return the hash of the last one.

        Returns
        -------
        str
            Hash of the last entry.

        Raises
        ------
        PromotionRefused
            Naming the first entry that is missing or was changed.
        """
        previous, expected = GENESIS, 1
        for entry in self.entries():
            if entry.seq != expected:
                raise PromotionRefused(f"ledger entry {expected} is missing")
            if entry.previous_hash != previous or entry.entry_hash != entry.computed_hash():
                raise PromotionRefused(
                    f"ledger entry {entry.seq} ({entry.event} of {entry.at}) was changed",
                    remedy="Restore the database from a copy made before the change",
                )
            previous, expected = entry.entry_hash, expected + 1
        return previous

    def champion_at(self, name: str, time: datetime | None = None) -> str | None:
        """Return the version in Production at a time (None: now), or None if there was none."""
        champion = None
        for entry in self.entries(name, events=MOVES):
            if time is None or datetime.fromisoformat(entry.at) <= time:
                champion = entry.version_to
        return champion

    def count_test_looks(self, windows: Mapping[str, Any]) -> int:
        """Return how often test windows have been looked at, whatever the model and the split."""
        looks = self.entries(events=("test_look",))
        return sum(same_windows(entry.payload, windows) for entry in looks)


def same_windows(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two looks saw a bar in common.

    Either their ``split_sha256`` is the same, which is all that old entries hold, or they are of
    one bar set (``source``) and their spans (``first_bar`` to ``last_bar``, ISO 8601) overlap. A
    span that cannot be compared counts as overlapping.
    """
    split, source = one.get("split_sha256"), one.get("source")
    if split is not None and split == other.get("split_sha256"):
        return True
    if source is None or source != other.get("source"):
        return False
    try:
        return bool(one["first_bar"] <= other["last_bar"] and other["first_bar"] <= one["last_bar"])
    except (KeyError, TypeError):
        return True


def is_database(url: str) -> bool:
    """Return whether an address is that of a SQLite or PostgreSQL database."""
    return re.split(r"[:+]", url, maxsplit=1)[0] in SCHEMES


def append_entry(connection: sa.Connection, draft: Draft, *, at: datetime) -> Entry:
    """Append inside a transaction that already holds the append lock."""
    last = connection.execute(
        sa.select(LEDGER.c.seq, LEDGER.c.entry_hash).order_by(LEDGER.c.seq.desc()).limit(1)
    ).first()
    entry = Entry(
        seq=last.seq + 1 if last else 1,
        at=at.astimezone(UTC).isoformat(timespec="microseconds"),
        previous_hash=last.entry_hash if last else GENESIS,
        entry_hash="",
        **dataclasses.asdict(draft),
    )
    entry = dataclasses.replace(entry, entry_hash=entry.computed_hash())
    row = dataclasses.asdict(entry) | {"payload": canonical_json(dict(entry.payload))}
    connection.execute(sa.insert(LEDGER).values(**row))
    return entry


def read_entries(
    connection: sa.Connection, name: str | None = None, *, events: tuple[str, ...] | None = None
) -> list[Entry]:
    """Return entries in order over an open connection."""
    query = sa.select(LEDGER).order_by(LEDGER.c.seq)
    if name is not None:
        query = query.where(LEDGER.c.name == name)
    if events is not None:
        query = query.where(LEDGER.c.event.in_(events))
    rows = connection.execute(query).mappings()
    return [Entry(**{**row, "payload": _read_payload(row["payload"])}) for row in rows]


def open_intent(entries: list[Entry]) -> Entry | None:
    """Return the intent of a promotion or rollback that was neither completed nor abandoned."""
    closed = {entry.payload.get("intent") for entry in entries if entry.event != "intent"}
    pending = [e for e in entries if e.event == "intent" and e.seq not in closed]
    return pending[-1] if pending else None


def open_engine(url: str) -> sa.Engine:
    """Return an engine whose appending transactions take the write lock at once on SQLite."""
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _leave_begin_to_us(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        appends = connection.get_execution_options().get("moola_append")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if appends else "BEGIN")

    return engine


def _read_payload(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"unreadable": text}


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        line = " ".join(str(getattr(error, "orig", None) or error).split())
        raise TrackingError(
            f"the ledger's database fails: {line[:300]}",
            remedy="Check the address and that the database is up and writable",
        ) from error
