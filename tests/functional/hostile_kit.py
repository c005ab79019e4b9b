"""What a stranger could have put into a ledger: rows with a right chain, and bodies to post."""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path
from typing import Any

from moola.promotion.ledger.content import EVENTS
from moola.promotion.ledger.entry import Entry

HEX = "0123456789abcdef" * 4
WORDS = ["", " ", "1", "01", " 1", "production", "\u202egnp.exe", "\x1b[2J", "a\nb", "é" * 300, HEX]
TEXTS = [
    "", "null", "[]", "{}", "true", "1", '"text"', "NaN", '{"a": NaN}', '{"intent": [1]}',
    '{"intent": {"a": 1}}', '{"intent": true}', '{"intent": 1}', '{"intent": 1.0}', "{",
    '{"a": 1, "a": 2}', '{"intent": 1, "intent": 2}', "no json", "\x00", '{"\\u0000": "\\ud800"}',
    '{"evidence": "{\\"payload\\": \\"{}\\"}"}', '{"evidence": 5}', '{"evidence": ["a"]}',
    "1" + "0" * 400, '{"x": 1' + "0" * 5000 + "}", '{"x": 1e999}', "[" * 490 + "]" * 490,
    '{"a":' * 490 + "1" + "}" * 490, "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000,
    json.dumps({"event": "promotion"}), json.dumps({"event": "promotion", "then": {}}),
    json.dumps({"event": "promotion", "then": [], "host": 1, "pid": "x", "lease_until": 5}),
    json.dumps(
        {"event": "promotion", "then": {}, "host": "h", "pid": 1, "thread": 1,
         "lease_until": "2999-01-01T00:00:00+00:00"}
    ),
    json.dumps({"event": ["promotion"], "then": {"evidence": {}}, "host": None}),
    json.dumps({"split_sha256": [1], "source": {}, "first_bar": 5}),
    json.dumps({"split_sha256": "5" * 64}), json.dumps({"key_id": 5, "change": []}),
    json.dumps({"key_id": "k", "change": "trusted"}), json.dumps({"unsigned_up_to": 10**6}),
    json.dumps({"reasons": {"a": [None]}, "alias": 7}), json.dumps({"evidence": "[" * 2000}),
]  # fmt: skip
TIMES = [
    "", "now", "2026-13-45", "9999-12-31T23:59:59+00:00", "2026-01-01", "0001-01-01T00:00:00+00:00",
    "1999-01-01T00:00:00", "2026-01-01T00:00:00.000000+00:00", "\x1b]0;x\x07",
]  # fmt: skip


def hostile_value(rng: random.Random, depth: int = 0) -> Any:
    """Return a JSON value of any shape."""
    kinds = [None, True, 5, -1.5, 10**30, rng.choice(WORDS), rng.choice(WORDS)]
    if depth < 4 and rng.random() < 0.5:
        children = [hostile_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        if rng.random() < 0.5:
            return children
        keys = ("intent", "event", "then", "evidence", "key_id", "split_sha256", "reasons", "x")
        return {rng.choice(keys): child for child in children}
    return rng.choice(kinds)


def hostile_text(rng: random.Random) -> str:
    """Return a payload as somebody could have stored it."""
    if rng.random() < 0.5:
        return rng.choice(TEXTS)
    text = json.dumps(hostile_value(rng), separators=(",", ":"), sort_keys=True)
    if rng.random() < 0.2:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(['"', "\\", "\x00", "}", "9" * 50]) + text[at:]
    return text


def hostile_row(rng: random.Random, name: str) -> dict[str, Any]:
    """Return the columns of a line, but for number and hashes."""

    def word(*usual: Any) -> Any:
        return rng.choice([*usual, *usual, rng.choice(WORDS), b"\xff\xfe", 7, 1.5])

    return {
        "at": word(*TIMES),
        "event": word(*EVENTS, *EVENTS, "party", ""),
        "who": word("eve"),
        "name": word(name, name, "Other", ""),
        "version_from": word(None, "1"),
        "version_to": word(None, "1", "2", "3", "0", "9" * 30, "1; DROP TABLE"),
        "evidence_digest": word(None, "e" * 64),
        "reason": word("why"),
        "payload": hostile_text(rng),
    }


def insert_rows(database: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows past Moola, each with the hash it should have."""
    with sqlite3.connect(database) as connection:
        found = connection.execute(
            "SELECT seq, entry_hash FROM moola_ledger ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        seq, head = found or (0, "0" * 64)
        for row in rows:
            seq += 1
            stored = {**row, "text": row["payload"], "seq": seq, "previous_hash": head}
            # What SQLite makes of numbers in columns of text.
            shown = {k: str(v) if type(v) in (int, float) else v for k, v in stored.items()}
            head = Entry.from_row({**shown, "seq": seq, "entry_hash": ""}).computed_hash()
            connection.execute(
                "INSERT INTO moola_ledger (seq, at, event, who, name, version_from, version_to, "
                "evidence_digest, reason, payload, previous_hash, entry_hash) "
                "VALUES (:seq, :at, :event, :who, :name, :version_from, :version_to, "
                ":evidence_digest, :reason, :payload, :previous_hash, :entry_hash)",
                {**stored, "entry_hash": head},
            )


def hostile_body(rng: random.Random, name: str) -> bytes:
    """Return the body of a request to write into the ledger."""
    if rng.random() < 0.3:
        return hostile_text(rng).encode("utf-8", "surrogatepass")
    values: dict[str, Any] = {
        "event": rng.choice(["test_look", "refusal", "challenger"]),
        "who": "eve",
        "name": name,
        "reason": "why",
        "version_to": rng.choice(["1", "2"]),
    }
    for _ in range(rng.randrange(3)):
        field = rng.choice([*values, "payload", "version_from", "evidence_digest", "intent", "seq"])
        values[field] = hostile_value(rng)
    if rng.random() < 0.5:
        fields = ("split_sha256", "source", "nonce", "signature", "key_id", "reasons", "alias", "x")
        values["payload"] = {f: hostile_value(rng) for f in rng.sample(fields, rng.randrange(4))}
    text = json.dumps(values)
    if rng.random() < 0.2:
        text = text.replace('"why"', rng.choice(TEXTS) or '""', 1)
    return text.encode("utf-8", "surrogatepass")
