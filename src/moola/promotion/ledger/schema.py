"""The ledger's table, its append lock and the triggers that keep it append-only."""

from __future__ import annotations

from typing import NamedTuple

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
    # No part of the hash. NULL: unsigned. Empty: written before there was this column.
    sa.Column("signature", sa.String(160)),
    sa.Index(f"{TABLE}_by_event", "event", "seq"),
)


class _Part(NamedTuple):
    """A trigger: its name, what makes and unmakes it, and how the database shows it."""

    name: str
    make: tuple[str, ...]
    drop: str
    shown: str


def _sqlite(name: str, when: str) -> _Part:
    make = (
        f"CREATE TRIGGER {TABLE}_{name} BEFORE {when} "
        f"BEGIN SELECT RAISE(ABORT, '{TABLE} is append-only'); END"
    )
    return _Part(f"{TABLE}_{name}", (make,), f"DROP TRIGGER IF EXISTS {TABLE}_{name}", make)


_SQLITE = (
    _sqlite("no_update", f"UPDATE ON {TABLE}"),
    _sqlite("no_delete", f"DELETE ON {TABLE}"),
    # INSERT OR REPLACE deletes without asking the DELETE trigger.
    _sqlite(
        "no_replace",
        f"INSERT ON {TABLE} WHEN EXISTS (SELECT 1 FROM {TABLE} "
        "WHERE seq >= NEW.seq OR previous_hash = NEW.previous_hash)",
    ),
)
_REFUSAL = f"BEGIN RAISE EXCEPTION '{TABLE} is append-only'; END"
_POSTGRES = (
    _Part(
        f"{TABLE}_no_change",
        (
            f"CREATE OR REPLACE FUNCTION {TABLE}_refuse() RETURNS trigger AS $$ {_REFUSAL} $$ "
            "LANGUAGE plpgsql",
            f"CREATE TRIGGER {TABLE}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {TABLE} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {TABLE}_refuse()",
        ),
        f"DROP TRIGGER IF EXISTS {TABLE}_no_change ON {TABLE}",
        f"O 58 {_REFUSAL}",  # on; before DELETE 8, UPDATE 16, TRUNCATE 32, once a statement
    ),
)


def create_ledger(connection: sa.Connection) -> None:
    """Create table and triggers if they are not there, under the append lock.

    A table from before lines were signed gets the column; its old lines hold the empty text there.
    """
    if not sa.inspect(connection).has_table(TABLE):
        LEDGER.create(connection)
        _make_triggers(connection)
    elif "signature" not in _columns(connection):
        added = f"ALTER TABLE {TABLE} ADD COLUMN signature VARCHAR(160) DEFAULT ''"
        connection.exec_driver_sql(added)


def schema_findings(connection: sa.Connection) -> list[str]:
    """Return what is wrong with table and triggers, one sentence each; empty if nothing is."""
    findings = []
    if missing := [c.name for c in LEDGER.columns if c.name not in _columns(connection)]:
        findings.append(f"table {TABLE} lacks column {', '.join(missing)}")
    there = _present(connection)
    for part in _parts(connection):
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
    findings = schema_findings(connection)
    if findings:
        _make_triggers(connection)
    remaining = schema_findings(connection) if findings else []
    return [finding for finding in findings if finding not in remaining]


def lock_for_append(connection: sa.Connection) -> None:
    """Let nobody else append until this transaction ends.

    On SQLite the transaction itself has to be opened with ``BEGIN IMMEDIATE``.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


def _make_triggers(connection: sa.Connection) -> None:
    for part in _parts(connection):
        connection.exec_driver_sql(part.drop)
        for statement in part.make:
            connection.exec_driver_sql(statement)


def _parts(connection: sa.Connection) -> tuple[_Part, ...]:
    return _POSTGRES if connection.dialect.name == "postgresql" else _SQLITE


def _columns(connection: sa.Connection) -> set[str]:
    return {str(column["name"]) for column in sa.inspect(connection).get_columns(TABLE)}


def _present(connection: sa.Connection) -> dict[str, str]:
    """Return the triggers (and on PostgreSQL the rules) of the table with what they do."""
    if connection.dialect.name != "postgresql":
        rows = connection.exec_driver_sql(
            f"SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '{TABLE}'"
        )
        return {str(name): " ".join(str(sql).split()) for name, sql in rows}
    rows = connection.exec_driver_sql(
        "SELECT t.tgname, concat_ws(' ', t.tgenabled, t.tgtype, t.tgattr, t.tgqual, p.prosrc) "
        "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
        f"WHERE t.tgrelid = '{TABLE}'::regclass AND NOT t.tgisinternal "
        f"UNION ALL SELECT rulename, definition FROM pg_rules WHERE tablename = '{TABLE}'"
    )
    return {str(name): " ".join(str(text).split()) for name, text in rows}
