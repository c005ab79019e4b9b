"""The ledger's tables, their append lock and the triggers that keep them append-only."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

TABLE = "moola_ledger"
_ATTESTATIONS = "moola_attestations"
_ORIGINS = "moola_origins"
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
    # No part of the hash. NULL: unsigned. Empty: written before there was this column.
    sa.Column("signature", sa.String(160)),
    sa.Index(f"{TABLE}_by_event", "event", "seq"),
)
ATTESTATIONS = sa.Table(
    _ATTESTATIONS,
    sa.MetaData(),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # of the envelope
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("envelope", sa.Text, nullable=False),
    sa.Index(f"{_ATTESTATIONS}_by_version", "name", "version"),
)
# What a guarded server saw when a model or a version was made, which tags say only for as long as
# nobody changes them.
ORIGINS = sa.Table(
    _ORIGINS,
    sa.MetaData(),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("name", sa.String(256), nullable=False, index=True),
    sa.Column("version", sa.String(20), nullable=False),  # empty: the registered model itself
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("who", sa.Text),
)
_TABLES = (LEDGER, ATTESTATIONS, ORIGINS)


class _Part(NamedTuple):
    """A trigger: its name, what makes and unmakes it, and how the database shows it."""

    name: str
    make: tuple[str, ...]
    drop: str
    shown: str


def _sqlite(table: str, name: str, when: str) -> _Part:
    make = (
        f"CREATE TRIGGER {table}_{name} BEFORE {when} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )
    return _Part(f"{table}_{name}", (make,), f"DROP TRIGGER IF EXISTS {table}_{name}", make)


def _sqlite_parts(table: str, unique: str | None) -> tuple[_Part, ...]:
    also = f" OR {unique} = NEW.{unique}" if unique else ""
    return (
        _sqlite(table, "no_update", f"UPDATE ON {table}"),
        _sqlite(table, "no_delete", f"DELETE ON {table}"),
        # INSERT OR REPLACE deletes without asking the DELETE trigger.
        _sqlite(
            table,
            "no_replace",
            f"INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE seq >= NEW.seq{also})",
        ),
    )


def _postgres_parts(table: str) -> tuple[_Part, ...]:
    refusal = f"BEGIN RAISE EXCEPTION '{table} is append-only'; END"
    return (
        _Part(
            f"{table}_no_change",
            (
                f"CREATE OR REPLACE FUNCTION {table}_refuse() RETURNS trigger AS $$ {refusal} $$ "
                "LANGUAGE plpgsql",
                f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()",
            ),
            f"DROP TRIGGER IF EXISTS {table}_no_change ON {table}",
            f"O 58 {refusal}",  # on; before DELETE 8, UPDATE 16, TRUNCATE 32, once a statement
        ),
    )


_UNIQUE = {TABLE: "previous_hash", _ATTESTATIONS: "digest", _ORIGINS: None}


def create_ledger(connection: sa.Connection) -> None:
    """Create tables and triggers if they are not there, under the append lock.

    A table from before lines were signed gets the column; its old lines hold the empty text there.
    """
    for table in _TABLES:
        if not sa.inspect(connection).has_table(table.name):
            table.create(connection)
            _make_triggers(connection, table)
    if "signature" not in _columns(connection, LEDGER):
        added = f"ALTER TABLE {TABLE} ADD COLUMN signature VARCHAR(160) DEFAULT ''"
        connection.exec_driver_sql(added)


def schema_findings(connection: sa.Connection) -> list[str]:
    """Return what is wrong with tables and triggers, one sentence each; empty if nothing is."""
    return [finding for table in _TABLES for finding in _table_findings(connection, table)]


def _table_findings(connection: sa.Connection, table: sa.Table) -> list[str]:
    findings = []
    columns = _columns(connection, table)
    if not columns:
        return [f"table {table.name} is missing"]
    if missing := [c.name for c in table.columns if c.name not in columns]:
        findings.append(f"table {table.name} lacks column {', '.join(missing)}")
    there = _present(connection, table)
    for part in _parts(connection, table):
        if part.name not in there:
            findings.append(f"trigger {part.name} of the ledger is missing")
        elif there.pop(part.name) != part.shown:
            findings.append(f"trigger {part.name} of the ledger was changed or switched off")
    findings += [f"the ledger has a trigger {name!a} that is not Moola's" for name in there]
    return findings


def repair_schema(connection: sa.Connection) -> list[str]:
    """Make missing and changed triggers again, under the append lock; return what was put right.

    Triggers that are not Moola's are left to whoever made them.
    """
    repaired = []
    for table in _TABLES:
        findings = _table_findings(connection, table)
        if findings:
            _make_triggers(connection, table)
        remaining = _table_findings(connection, table) if findings else []
        repaired += [finding for finding in findings if finding not in remaining]
    return repaired


def lock_for_append(connection: sa.Connection) -> None:
    """Let nobody else append until this transaction ends.

    On SQLite the transaction itself has to be opened with ``BEGIN IMMEDIATE``.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


def _make_triggers(connection: sa.Connection, table: sa.Table) -> None:
    for part in _parts(connection, table):
        connection.exec_driver_sql(part.drop)
        for statement in part.make:
            connection.exec_driver_sql(statement)


def _parts(connection: sa.Connection, table: sa.Table) -> tuple[_Part, ...]:
    if connection.dialect.name == "postgresql":
        return _postgres_parts(table.name)
    return _sqlite_parts(table.name, _UNIQUE[table.name])


def _columns(connection: sa.Connection, table: sa.Table) -> set[str]:
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name):
        return set()
    return {str(column["name"]) for column in inspector.get_columns(table.name)}


def _present(connection: sa.Connection, table: sa.Table) -> dict[str, str]:
    """Return the triggers (and on PostgreSQL the rules) of a table with what they do."""
    if connection.dialect.name != "postgresql":
        rows = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master "
            f"WHERE type = 'trigger' AND tbl_name = '{table.name}'"
        )
        return {str(name): " ".join(str(sql).split()) for name, sql in rows}
    rows = connection.exec_driver_sql(
        "SELECT t.tgname, concat_ws(' ', t.tgenabled, t.tgtype, t.tgattr, t.tgqual, p.prosrc) "
        "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
        f"WHERE t.tgrelid = '{table.name}'::regclass AND NOT t.tgisinternal "
        f"UNION ALL SELECT rulename, definition FROM pg_rules WHERE tablename = '{table.name}'"
    )
    return {str(name): " ".join(str(text).split()) for name, text in rows}
