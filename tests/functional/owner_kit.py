"""What the owner of a ledger's database can do to it: everything but sign.

Triggers are dropped, hashes are computed again; no private key is known. `damage` makes one random
cut, fork or rewrite.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moola.promotion.ledger.entry import Entry

Rows = list[dict[str, Any]]


def read_rows(database: Path) -> Rows:
    """Return every line as it is stored."""
    with sqlite3.connect(database) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT * FROM moola_ledger ORDER BY seq").fetchall()
    return [dict(row) for row in found]


def write_rows(database: Path, rows: Rows) -> None:
    """Put lines in the place of all there were, past the triggers, which are made again."""
    with sqlite3.connect(database) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("DELETE FROM moola_ledger")
        for row in rows:
            marks = ", ".join(f":{column}" for column in row)
            connection.execute(f"INSERT INTO moola_ledger ({', '.join(row)}) VALUES ({marks})", row)
        for _, sql in triggers:
            connection.execute(sql)


def chained(rows: Rows, start: int = 0) -> Rows:
    """Return lines with numbers and hashes computed again from index `start` on."""
    made = rows[:start]
    for row in rows[start:]:
        head = made[-1]["entry_hash"] if made else "0" * 64
        linked = {**row, "seq": len(made) + 1, "previous_hash": head}
        entry = Entry.from_row({**linked, "text": row["payload"]})
        made.append({**linked, "entry_hash": entry.computed_hash()})
    return made


def _cut_tail(rows: Rows, rng: random.Random) -> Rows:
    return rows[: rng.randrange(len(rows))]


def _cut_tail_and_go_on(rows: Rows, rng: random.Random) -> Rows:
    keep = rng.randrange(len(rows))
    more = [_made_up(rng) for _ in range(rng.randrange(1, 2 * (len(rows) - keep) + 1))]
    return chained([*rows[:keep], *more], keep)


def _remove_inside(rows: Rows, rng: random.Random) -> Rows:
    at = rng.randrange(len(rows) - 1)
    return chained(rows[:at] + rows[at + 1 :], at)


def _change_a_field(rows: Rows, rng: random.Random) -> Rows:
    at = rng.randrange(len(rows))
    return chained([*rows[:at], _changed(rows[at], rng), *rows[at + 1 :]], at)


def _change_without_the_hash(rows: Rows, rng: random.Random) -> Rows:
    at = rng.randrange(len(rows))
    return [*rows[:at], _changed(rows[at], rng), *rows[at + 1 :]]


def _swap(rows: Rows, rng: random.Random) -> Rows:
    at = rng.randrange(len(rows) - 1)
    return chained([*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]], at)


def _insert(rows: Rows, rng: random.Random) -> Rows:
    at = rng.randrange(len(rows))
    return chained([*rows[:at], _made_up(rng), *rows[at:]], at)


def _fork(rows: Rows, rng: random.Random) -> Rows:
    """Keep a beginning and tell another story of as many lines."""
    keep = rng.randrange(len(rows))
    return chained([*rows[:keep], *(_made_up(rng) for _ in rows[keep:])], keep)


def _begin_anew(rows: Rows, rng: random.Random) -> Rows:
    return chained([_made_up(rng) for _ in range(rng.randrange(1, 2 * len(rows)))])


def _strip_signatures(rows: Rows, rng: random.Random) -> Rows:
    """Make lines look as if they were from before there were signatures."""
    return [{**row, "signature": rng.choice([None, ""])} for row in rows]


def _move_signature(rows: Rows, rng: random.Random) -> Rows:
    signed = [index for index, row in enumerate(rows) if row["signature"]]
    one, other = rng.sample(signed, 2)
    moved = [dict(row) for row in rows]
    moved[one]["signature"] = rows[other]["signature"]
    return moved


def _append_a_move(rows: Rows, rng: random.Random) -> Rows:
    """Add an unsigned rollback at the end; the tail is whole, so only the signature tells."""
    row = _made_up(rng) | {"event": "rollback", "version_to": "1"}
    return chained([*rows, row], len(rows))


KINDS: dict[str, Callable[[Rows, random.Random], Rows]] = {
    "tail cut off": _cut_tail,
    "tail cut off and gone on": _cut_tail_and_go_on,
    "line removed": _remove_inside,
    "field changed, hashes right": _change_a_field,
    "field changed, hash left": _change_without_the_hash,
    "lines swapped": _swap,
    "line put in between": _insert,
    "fork": _fork,
    "begun anew": _begin_anew,
    "signatures stripped": _strip_signatures,
    "signature of another line": _move_signature,
    "unsigned move at the end": _append_a_move,
}


def _changed(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    field = rng.choice(["who", "reason", "version_to", "at", "event", "payload", "evidence_digest"])
    made = {
        "who": "eve", "reason": "because", "version_to": str(rng.randrange(5, 900)),
        "at": "2020-01-01T00:00:00.000000+00:00",
        "event": "refusal" if row["event"] != "refusal" else "challenger",
        "payload": json.dumps({"x": rng.random()}), "evidence_digest": "f" * 64,
    }  # fmt: skip
    return {**row, field: made[field]}


def _made_up(rng: random.Random) -> dict[str, Any]:
    return {
        "seq": 0, "at": "2026-01-01T00:00:00.000000+00:00", "who": "eve",
        "event": rng.choice(["promotion", "rollback", "refusal", "test_look", "abandoned"]),
        "name": "EnhancedSimpleLSTM", "version_from": None, "version_to": rng.choice("123"),
        "evidence_digest": None, "reason": "r", "previous_hash": "", "entry_hash": "",
        "payload": rng.choice(["{}", '{"intent":1}', '{"split_sha256":"5"}']), "signature": None,
    }  # fmt: skip
