"""What a line of the ledger says, in types: the one border between stored text and everybody else.

Anybody who may write to the database, and on a guarded server whoever may post, can put anything
into a line. So no reader looks into a stored payload by itself: it asks for the line's content and
gets a value whose fields are there and have their types, or `Unreadable`, which is nothing's proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from moola.config.names import ALIAS_PRODUCTION
from moola.promotion.ledger.bounded_json import read_json

VERSION = re.compile(r"[1-9][0-9]{0,8}")  # MLflow keeps it in 32 bits
HEX_64 = re.compile(r"[0-9a-f]{64}")
TRIED = ("judged", "searched")  # what was done with validation windows
SPAN = ("split_sha256", "source", "market", "first_bar", "last_bar")


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A line that cannot be understood, and why."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """A promotion or rollback.

    Parameters
    ----------
    version, alias
        What got which alias; ``production`` is the stage too.
    evidence
        The signed text of the gates it rests on, where it carries one.
    attestations
        Digests of the attestations it rests on.
    model_sha256
        Digest of the version's files.
    intent
        Number of the intent that it completes.
    unproven_until
        Time up to which an alias that was moved by breaking the glass may stay unproven.
    """

    version: str
    evidence: str | None
    model_sha256: str | None
    intent: int | None
    alias: str = ALIAS_PRODUCTION
    attestations: tuple[str, ...] = ()
    unproven_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A move of an alias whose rules report and do not refuse."""

    version: str
    alias: str


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A move that was begun: what its last line shall be, and who is at work on it until when."""

    event: Literal["promotion", "rollback"]
    version: str
    then: Mapping[str, Any]
    move: Move
    host: str
    pid: int
    thread: int
    lease_until: datetime


@dataclass(frozen=True, kw_only=True)
class Abandoned:
    """A move that was begun and undone."""

    version: str | None
    intent: int


@dataclass(frozen=True, kw_only=True)
class LookLine:
    """A look at windows: which ones, and the gate runner's signature over it.

    At locked test windows for a version, or at validation windows for whatever is tried there.
    """

    version: str | None
    windows: Mapping[str, str]
    statement: Mapping[str, str]
    key_id: str | None
    signature: str | None


@dataclass(frozen=True, kw_only=True)
class KeyChange:
    """A key that began or ceased to count."""

    key_id: str
    change: str


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The lines up to here were written before lines were signed."""

    unsigned_up_to: int


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A line that changes nothing: a refusal, a report, a challenger, a repair."""


Content = (
    Unreadable | Move | Observed | Intent | Abandoned | LookLine | KeyChange | Boundary | Remark
)


def read_payload(text: str) -> Mapping[str, Any] | Unreadable:
    """Return the mapping a stored payload holds, or why it holds none."""
    try:
        value = read_json(text)
    except ValueError as error:
        return Unreadable(why=f"its payload cannot be read: {error}")
    if not isinstance(value, dict):
        return Unreadable(why=f"its payload is a {type(value).__name__}, not an object")
    return value


def content_of(event: str, version_to: str | None, payload: Mapping[str, Any]) -> Content:
    """Return what a line says, or `Unreadable` where a field is missing or of another type."""
    reader = _READERS.get(event)
    if reader is None:
        return Unreadable(why=f"its event {event[:40]!r} is unknown")
    try:
        return reader(version_to, payload)
    except _Wrong as wrong:
        return Unreadable(why=f"a {event} {wrong}")


class _Wrong(Exception):
    """A field is missing or of another type."""


def _get(payload: Mapping[str, Any], field: str, kind: type, *, needed: bool = True) -> Any:
    value = payload.get(field)
    if value is None and not needed:
        return None
    if type(value) is not kind:  # exactly: True is no integer here
        fault = "has no" if value is None else f"has a {type(value).__name__} as"
        raise _Wrong(f"{fault} {field}")
    return value


def _version(version: str | None) -> str:
    if version is None or not VERSION.fullmatch(version):
        raise _Wrong(f"names no version ({str(version)[:20]!r})")
    return version


def _move(version_to: str | None, payload: Mapping[str, Any]) -> Move:
    digests = _get(payload, "attestations", list, needed=False) or []
    if not all(type(one) is str and HEX_64.fullmatch(one) for one in digests):
        raise _Wrong("has something else than digests as attestations")
    until = _get(payload, "unproven_until", str, needed=False)
    return Move(
        alias=_get(payload, "alias", str, needed=False) or ALIAS_PRODUCTION,
        attestations=tuple(digests),
        unproven_until=None if until is None else _time(until),
        version=_version(version_to),
        evidence=_get(payload, "evidence", str, needed=False),
        model_sha256=_get(payload, "model_sha256", str, needed=False),
        intent=_get(payload, "intent", int, needed=False),
    )


def _observed(version_to: str | None, payload: Mapping[str, Any]) -> Observed:
    return Observed(version=_version(version_to), alias=_get(payload, "alias", str))


def _intent(version_to: str | None, payload: Mapping[str, Any]) -> Intent:
    event, then = _get(payload, "event", str), _get(payload, "then", dict)
    if event not in ("promotion", "rollback"):
        raise _Wrong(f"announces a {event[:40]!r}")
    return Intent(
        event="promotion" if event == "promotion" else "rollback",
        version=_version(version_to),
        then=then,
        move=_move(version_to, then),
        host=_get(payload, "host", str),
        pid=_get(payload, "pid", int),
        thread=_get(payload, "thread", int),
        lease_until=_time(_get(payload, "lease_until", str)),
    )


def _time(text: str) -> datetime:
    moment = read_time(text)
    if moment is None:
        raise _Wrong(f"has {text[:40]!r} as a time")
    return moment


def read_time(text: str) -> datetime | None:
    """Return an ISO 8601 time with a zone, None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _abandoned(version_to: str | None, payload: Mapping[str, Any]) -> Abandoned:
    return Abandoned(version=version_to, intent=_get(payload, "intent", int))


def _look(version_to: str | None, payload: Mapping[str, Any]) -> LookLine:
    return _seen(_version(version_to), payload, ())


def _tried(_version_to: str | None, payload: Mapping[str, Any]) -> LookLine:
    return _seen(None, payload, TRIED)


def _seen(version: str | None, payload: Mapping[str, Any], more: tuple[str, ...]) -> LookLine:
    texts = {k: _get(payload, k, str, needed=False) for k in (*SPAN, *more, "ledger", "nonce")}
    present = {k: v for k, v in texts.items() if v is not None}
    return LookLine(
        version=version,
        windows={k: v for k, v in present.items() if k in SPAN},
        statement=present,
        key_id=_get(payload, "key_id", str, needed=False),
        signature=_get(payload, "signature", str, needed=False),
    )


def _key_change(_version_to: str | None, payload: Mapping[str, Any]) -> KeyChange:
    return KeyChange(key_id=_get(payload, "key_id", str), change=_get(payload, "change", str))


def _boundary(_version_to: str | None, payload: Mapping[str, Any]) -> Boundary:
    return Boundary(unsigned_up_to=_get(payload, "unsigned_up_to", int))


def _remark(_version_to: str | None, _payload: Mapping[str, Any]) -> Remark:
    return Remark()


Event = Literal[
    "promotion", "rollback", "refusal", "challenger", "key_change", "test_look", "tried", "intent",
    "abandoned", "boundary", "repair", "observed", "reported",
]  # fmt: skip
_READERS: Mapping[str, Callable[[str | None, Mapping[str, Any]], Content]] = {
    "promotion": _move,
    "rollback": _move,
    "refusal": _remark,
    "challenger": _remark,
    "key_change": _key_change,
    "test_look": _look,
    "tried": _tried,
    "intent": _intent,
    "abandoned": _abandoned,
    "boundary": _boundary,
    "repair": _remark,
    "observed": _observed,
    "reported": _remark,
}
EVENTS: tuple[Event, ...] = get_args(Event)
