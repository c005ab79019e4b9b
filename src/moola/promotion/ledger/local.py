"""The ledger: an append-only, hash-chained table of everything that touched Production.

Each entry holds the SHA-256 over its own fields and the hash of the entry before it, so that a
changed or missing entry breaks the chain, and triggers refuse UPDATE and DELETE in the database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from moola.errors import ConfigError, TrackingError
from moola.promotion.evidence.envelope import DsseEnvelope
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.evidence.predicates import about_in
from moola.promotion.ledger.base import Ledger, utc_now
from moola.promotion.ledger.belief import GENESIS, Belief
from moola.promotion.ledger.checkpoint import CheckpointFile, address_of
from moola.promotion.ledger.entry import Draft, Entry, plain_name
from moola.promotion.ledger.rows import append_entry, last_entry, read_entries
from moola.promotion.ledger.schema import (
    ATTESTATIONS,
    LEDGER,
    ORIGINS,
    create_ledger,
    lock_for_append,
    repair_schema,
    schema_findings,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMES = ("sqlite", "postgresql")


class LocalLedger(Ledger):
    """The ledger in one SQLite or PostgreSQL database; the table is made on first use.

    Parameters
    ----------
    url
        SQLAlchemy address of the database, usually the registry's own.
    clock
        Returns the present time with a time zone.
    checkpoint
        Where it is kept how far the ledger went; None keeps nothing.

    Raises
    ------
    ConfigError
        If the address is not that of a SQLite or PostgreSQL database.
    TrackingError
        If the database cannot be reached.
    """

    moves_by_server = False

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        checkpoint: CheckpointFile | None = None,
    ):
        if not is_database(url):
            raise ConfigError(
                f"the ledger's address is {url.rpartition('@')[2]!r}",
                limit="a sqlite: or postgresql: address",
                remedy="Give the registry's database, or a SQLite file of its own, as ledger",
            )
        self.clock = clock
        self.checkpoint = checkpoint
        self.signer: Ed25519PrivateKey | None = None
        self._verified: tuple[int, str] = (0, GENESIS)
        self._engine = open_engine(url)
        with self.transaction() as connection:
            create_ledger(connection)

    @property
    def address(self) -> str:
        """The address of the database in one spelling, without user and password."""
        return address_of(self._engine.url.render_as_string())

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

        `only_if` is called inside it, before the entry is written, and may raise to refuse.
        """
        with self.transaction() as connection:
            if only_if is not None:
                only_if(connection)
            entry = self.append_in(connection, draft)
        self.note(entry, compared=False)
        return entry

    def append_made(self, make: Callable[[str], Draft]) -> Entry:
        """Append the draft that a function makes of the ledger's id, in one transaction."""
        with self.transaction() as connection:
            entry = self.append_in(connection, make(_ledger_id(connection)))
        self.note(entry, compared=False)
        return entry

    def append_in(self, connection: sa.Connection, draft: Draft) -> Entry:
        """Append inside a transaction that holds the append lock."""
        return append_entry(connection, draft, at=self.clock(), signer=self.signer)

    def entries(
        self,
        name: str | None = None,
        *,
        events: tuple[str, ...] | None = None,
        after: int = 0,
    ) -> list[Entry]:
        """Return entries in order: of one model, of some events, after a number, if asked."""
        with _database_errors(), self._engine.connect() as connection:
            return read_entries(connection, name, events=events, after=after)

    def ends(self) -> tuple[Entry | None, Entry | None]:
        """Return the first line and the last, None where there is none."""
        with _database_errors(), self._engine.connect() as connection:
            first, last = read_entries(connection, limit=1), last_entry(connection)
        return (first[0] if first else None), last

    def last_seq(self, events: tuple[str, ...]) -> int:
        """Return the number of the last entry of some events, 0 if there is none."""
        query = sa.select(sa.func.max(LEDGER.c.seq)).where(LEDGER.c.event.in_(events))
        with _database_errors(), self._engine.connect() as connection:
            return connection.execute(query).scalar() or 0

    def belief(self, keys: TrustedKeys) -> Belief:
        """Return what counts in this ledger by some trusted keys."""
        with _database_errors(), self._engine.connect() as connection:
            return belief_in(connection, keys)

    def attest(self, envelope: str) -> str:
        """Keep a signed attestation; who may sign is asked when it is read."""
        about = attested_version(envelope)
        digest = DsseEnvelope.from_json(envelope).digest
        with self.transaction() as connection:
            query = sa.select(ATTESTATIONS.c.seq).where(ATTESTATIONS.c.digest == digest)
            if connection.execute(query).first() is None:
                values = {"digest": digest, "envelope": envelope, **about}
                self._insert(connection, ATTESTATIONS, values)
        return digest

    def attestations(self, name: str, version: str) -> list[str]:
        """Return the envelopes about a version, oldest first, unread."""
        with _database_errors(), self._engine.connect() as connection:
            return attestations_in(connection, name, version)

    def note_origin(self, name: str, version: str = "", *, kind: str, who: str | None) -> None:
        """Write down what a model is, or who registered a version, as it was seen when made."""
        values = {"name": name, "version": version, "kind": kind, "who": who}
        with self.transaction() as connection:
            self._insert(connection, ORIGINS, values)

    def origins(self, name: str | None = None) -> list[Origin]:
        """Return the notes about models and versions, of one model if asked, oldest first."""
        query = sa.select(ORIGINS.c["name", "version", "kind", "who"]).order_by(ORIGINS.c.seq)
        if name is not None:
            query = query.where(ORIGINS.c.name == name)
        with _database_errors(), self._engine.connect() as connection:
            return [Origin(*row) for row in connection.execute(query)]

    def registered_kinds(self, marks: tuple[str, ...]) -> dict[str, str]:
        """Return what each model of the registry in this database is by its tags now."""
        from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
        from mlflow.store.model_registry.dbmodels.models import (
            SqlModelVersionTag,
            SqlRegisteredModel,
            SqlRegisteredModelTag,
        )

        models = sa.select(SqlRegisteredModel.name)
        prompts = sa.select(SqlRegisteredModelTag.name).where(
            SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY,
            sa.func.lower(SqlRegisteredModelTag.value) == "true",
        )
        marked = sa.select(SqlModelVersionTag.name).where(SqlModelVersionTag.key.in_(marks))
        with _database_errors(), self._engine.connect() as connection:
            if not sa.inspect(connection).has_table(SqlRegisteredModel.__tablename__):
                return {}
            kinds = dict.fromkeys(connection.scalars(models), "model")
            kinds |= dict.fromkeys(connection.scalars(prompts), "prompt")
            return kinds | dict.fromkeys(connection.scalars(marked), "moola")

    def _insert(
        self, connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]
    ) -> None:
        last = connection.execute(sa.select(sa.func.max(table.c.seq))).scalar() or 0
        at = self.clock().astimezone(UTC).isoformat(timespec="microseconds")
        connection.execute(sa.insert(table).values(seq=last + 1, at=at, **values))

    def schema_findings(self) -> list[str]:
        """Return what is wrong with the table and its triggers."""
        with _database_errors(), self._engine.connect() as connection:
            return schema_findings(connection)

    def repair(self) -> list[str]:
        """Make missing triggers again and write down that they were; return what was put right."""
        with self.transaction() as connection:
            repairs = repair_schema(connection)
            if repairs:
                reason = f"made again: {'; '.join(repairs)}"
                self.append_in(
                    connection, Draft(event="repair", who="server", name="", reason=reason)
                )
        return repairs

    def _counting_keys(self, keys: TrustedKeys) -> TrustedKeys:
        return keys

    def _head_signature(self, last: Entry) -> str | None:
        return last.signature or None


class Origin(NamedTuple):
    """What a guarded server saw when a model (version "") or a version was made."""

    name: str
    version: str
    kind: str
    who: str | None


def attestations_in(connection: sa.Connection, name: str, version: str) -> list[str]:
    """Return the envelopes about a version over an open connection, oldest first, unread."""
    query = sa.select(ATTESTATIONS.c.envelope).order_by(ATTESTATIONS.c.seq)
    query = query.where(ATTESTATIONS.c.name == name, ATTESTATIONS.c.version == version)
    return [str(text) for text in connection.scalars(query)]


def attested_version(envelope: str) -> dict[str, str]:
    """Return which version an envelope is about; raises PromotionRefused where it says none."""
    about = about_in(envelope)
    return {"name": plain_name(about.model), "version": about.version}


def belief_in(connection: sa.Connection, keys: TrustedKeys) -> Belief:
    """Return what counts in the ledger over an open connection."""
    boundaries = read_entries(connection, events=("boundary",))
    return Belief.from_lines(keys, _ledger_id(connection), boundaries)


def _ledger_id(connection: sa.Connection) -> str:
    first = read_entries(connection, after=0, limit=1)
    return first[0].entry_hash if first else GENESIS


def is_database(url: str) -> bool:
    """Return whether an address is that of a SQLite or PostgreSQL database."""
    return re.split(r"[:+]", url, maxsplit=1)[0] in SCHEMES


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
        # A transaction that begins by reading cannot take the write lock once another one has
        # written: SQLite then fails at once instead of waiting.
        appends = connection.get_execution_options().get("moola_append")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if appends else "BEGIN")

    return engine


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
