"""One line of the ledger: before it is written (`Draft`) and as it is stored (`Entry`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from moola.errors import BadInput
from moola.hashing import canonical_json
from moola.promotion.ledger.bounded_json import MAX_CHARS
from moola.promotion.ledger.content import (
    EVENTS,
    VERSION,
    Content,
    Event,
    Unreadable,
    content_of,
    read_payload,
    read_time,
)

MOVES = ("promotion", "rollback")
MAX_NAME = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_HASHED = (
    "seq", "at", "event", "who", "name", "version_from", "version_to", "evidence_digest",
    "reason", "previous_hash",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger as it is stored, whatever it says.

    Parameters
    ----------
    seq
        Number, from 1.
    at
        ISO 8601 time in UTC.
    event, who, name, version_from, version_to, evidence_digest, reason
        As in a `Draft`.
    text
        The payload as it is stored.
    previous_hash, entry_hash
        SHA-256 of the line before and of this one.
    signature
        Key id and signature over the hash; not part of the hash.
    """

    seq: int
    at: str
    event: str
    who: str
    name: str
    version_from: str | None
    version_to: str | None
    evidence_digest: str | None
    reason: str
    text: str
    previous_hash: str
    entry_hash: str
    signature: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the entry of a stored row or of a server's answer; every value gets its type.

        A value of another type than its column's becomes text that no honest line has, so that the
        hash no longer fits and the line is named as changed.
        """
        values = {field: _stored_text(row.get(field)) for field in _TEXTS}
        for field in _NEEDED:
            values[field] = values[field] if values[field] is not None else "<absent>"
        seq = row.get("seq")
        return cls(seq=seq if type(seq) is int else 0, **values)  # type: ignore[arg-type]

    @cached_property
    def payload(self) -> Mapping[str, Any]:
        """The payload as a mapping; empty where it cannot be read."""
        return {} if isinstance(self._read, Unreadable) else self._read

    @cached_property
    def content(self) -> Content:
        """What the line says, in types; `Unreadable` where that cannot be told."""
        if isinstance(self._read, Unreadable):
            return self._read
        if self.time is None:
            return Unreadable(why=f"its time is {self.at[:40]!r}")
        return content_of(self.event, self.version_to, self._read)

    @cached_property
    def time(self) -> datetime | None:
        """When it was written; None where that cannot be read."""
        return read_time(self.at)

    @cached_property
    def _read(self) -> Mapping[str, Any] | Unreadable:
        return read_payload(self.text)

    def computed_hash(self) -> str:
        """Return the hash the entry's fields should have: of their canonical JSON.

        The stored payload goes into it as the text it is, unread: it is canonical JSON where Moola
        wrote it, and nothing else has the hash.
        """
        fields = {field: getattr(self, field) for field in _HASHED}
        before = canonical_json({k: v for k, v in fields.items() if k < "payload"})
        after = canonical_json({k: v for k, v in fields.items() if k > "payload"})
        whole = f'{before[:-1]},"payload":{self.text},{after[1:]}'
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values; `payload` is null where it cannot be read."""
        payload = None if isinstance(self._read, Unreadable) else self._read
        return dataclasses.asdict(self) | {"payload": payload}


_TEXTS = [f.name for f in dataclasses.fields(Entry) if f.name != "seq"]
_OPTIONAL = ("version_from", "version_to", "evidence_digest", "signature")
_NEEDED = [field for field in _TEXTS if field not in _OPTIONAL]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An entry before the ledger gives it number, time and hash.

    Every value is brought to one type: versions may be given as integers or digits, texts as any
    kind of string.

    Raises
    ------
    BadInput
        If the event is unknown, a text holds control characters or is too long, a version is no
        positive number, or the payload is not plain JSON.
    """

    event: Event
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
        brought = {
            "event": plain_text("event", self.event),
            "who": plain_text("who", self.who),
            "name": plain_text("name", self.name, limit=MAX_NAME, control=True),
            "reason": plain_text("reason", _spelled(self.reason)),
            "version_from": optional_version(self.version_from),
            "version_to": optional_version(self.version_to),
            "payload": _plain_payload(self.event, self.payload),
        }
        if self.evidence_digest is not None:
            brought["evidence_digest"] = plain_text("evidence_digest", self.evidence_digest)
        for field, value in brought.items():
            object.__setattr__(self, field, value)


def printable(text: str) -> str:
    """Return a text in which every control character is spelled out, so that it only shows."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_text(
    field: str, value: object, *, limit: int | None = None, control: bool = False
) -> str:
    """Return a text as exactly `str`.

    Parameters
    ----------
    field
        What it is called in the error.
    value
        A string of any kind.
    limit
        Most characters.
    control
        Whether control characters may be in it, NUL apart.

    Raises
    ------
    BadInput
        If it is no string, too long, or no database keeps such characters.
    """
    if not isinstance(value, str):
        raise BadInput(f"{field} is {value!r}", limit="a text")
    text = str.__str__(value)  # of a subclass the characters, not what it prints
    if limit is not None and len(text) > limit:
        raise BadInput(f"{field} has {len(text)} characters", limit=f"at most {limit}")
    pattern = _UNSTORABLE if control else _CONTROL
    if match := pattern.search(text):
        raise BadInput(f"{field} holds the control character {match[0]!a}")
    return text


def plain_version(value: object) -> str:
    """Return a version in its one spelling, ``"1"`` for 1, ``"01"`` and ``" 1"``.

    Raises
    ------
    BadInput
        If it is no positive whole number.
    """
    text = str.__str__(value).strip() if isinstance(value, str) else _digits(value)
    if re.fullmatch(r"[0-9]+", text, re.A):
        text = text.lstrip("0")
    if not VERSION.fullmatch(text):
        raise BadInput(f"version is {value!r}", limit="a whole number from 1 to 999999999")
    return text


def optional_version(value: object) -> str | None:
    """Return `plain_version` of a version, None for None."""
    return None if value is None else plain_version(value)


def plain_name(value: object) -> str:
    """Return the name of a registered model as exactly `str`; raises BadInput if it is none."""
    name = plain_text("name", value, limit=MAX_NAME)
    if not name:
        raise BadInput("name is empty", limit="the name of a registered model")
    return name


def _spelled(reason: object) -> object:
    return printable(reason) if isinstance(reason, str) else reason


def _digits(value: object) -> str:
    if isinstance(value, bool):
        return "<bool>"
    try:
        return str(operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        return "<no number>"


def _plain_payload(event: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        text = canonical_json(dict(payload))
        plain: Mapping[str, Any] = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"the payload of a {event} is not plain JSON: {error}") from None
    if len(text) > MAX_CHARS or isinstance(read_payload(text), Unreadable):
        raise BadInput(f"the payload of a {event} could not be read again", limit="plain JSON")
    return plain


def _stored_text(value: object) -> str | None:
    if value is None or type(value) is str:
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return f"<{type(value).__name__}>"
