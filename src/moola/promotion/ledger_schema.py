"""The ledger's table, its append lock and the triggers that keep it append-only."""

from __future__ import annotations

import sqlalchemy as sa

TABLE = "moola_ledger"
# Any number that no other software takes as a PostgreSQL advisory lock.
_ADVISORY_LOCK = 0x6D6F6F6C61

LEDGER = sa.Table(
    TABLE,
    sa.MetaData(),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("event", sa.String(20), nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("name", sa.String(256), nullable=False, index=True),
    sa.Column("version_from", sa.String(20)),
    sa.Column("version_to", sa.String(20)),
    sa.Column("evidence_digest", sa.String(64)),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("previous_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("entry_hash", sa.String(64), nullable=False),
    sa.Index(f"{TABLE}_by_event", "event", "seq"),
)

_SQLITE_TRIGGERS = (
    f"""CREATE TRIGGER {TABLE}_no_update BEFORE UPDATE ON {TABLE}
    BEGIN SELECT RAISE(ABORT, '{TABLE} is append-only'); END""",
    f"""CREATE TRIGGER {TABLE}_no_delete BEFORE DELETE ON {TABLE}
    BEGIN SELECT RAISE(ABORT, '{TABLE} is append-only'); END""",
    # INSERT OR REPLACE deletes without asking the DELETE trigger.
    f"""CREATE TRIGGER {TABLE}_no_replace BEFORE INSERT ON {TABLE}
    WHEN EXISTS (SELECT 1 FROM {TABLE} WHERE seq >= NEW.seq OR previous_hash = NEW.previous_hash)
    BEGIN SELECT RAISE(ABORT, '{TABLE} is append-only'); END""",
)
_POSTGRES_TRIGGERS = (
    f"""CREATE OR REPLACE FUNCTION {TABLE}_refuse() RETURNS trigger AS $$
    BEGIN RAISE EXCEPTION '{TABLE} is append-only'; END $$ LANGUAGE plpgsql""",
    f"""CREATE OR REPLACE TRIGGER {TABLE}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {TABLE}
    FOR EACH STATEMENT EXECUTE FUNCTION {TABLE}_refuse()""",
)


def create_ledger(connection: sa.Connection) -> None:
    """Create table and triggers if they are not there, under the append lock."""
    if sa.inspect(connection).has_table(TABLE):
        return
    LEDGER.create(connection)
    postgres = connection.dialect.name == "postgresql"
    for statement in _POSTGRES_TRIGGERS if postgres else _SQLITE_TRIGGERS:
        connection.exec_driver_sql(statement)


def lock_for_append(connection: sa.Connection) -> None:
    """Let nobody else append until this transaction ends.

    On SQLite the transaction itself has to be opened with ``BEGIN IMMEDIATE``.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
