"""Fields of a stranger's JSON, a check for each kind: exact type, bounds, printable, no path.

Each check takes the field's name, for the message, and its value; it returns the value or raises
CheckpointError.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from moola.errors import CheckpointError, shown
from moola.hashing import pretty_json

LONGEST_NAME = 128
MOST_EPOCHS = 2_000
LARGEST_SEED = 2**32 - 1
_LARGEST_NUMBER = 1e6


def parsed(data: bytes) -> dict[str, Any]:
    """Return the object of a JSON file that is, to the byte, as Moola writes it."""
    try:
        values = json.loads(data.decode())
        same = isinstance(values, dict) and pretty_json(values).encode() == data
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise CheckpointError(
            "config.json is not written as Moola writes it",
            limit="one JSON object, sorted and indented, finite numbers, no key twice",
        )
    return dict(values)


def exact(name: str, values: object, keys: set[str]) -> Mapping[str, Any]:
    """Return an object that has these keys and no other."""
    if not isinstance(values, dict):
        raise wrong(name, values, "an object")
    if absent := sorted(keys - set(values)):
        raise CheckpointError(f"{name} lacks {', '.join(absent)}", limit="what Moola writes")
    if more := sorted(set(values) - keys):
        raise CheckpointError(
            f"{name} holds {len(more)} unknown key(s), {shown(more[0])} the first",
            limit=f"the keys {', '.join(sorted(keys))}",
        )
    return values


def check_types(name: str, values: Mapping[str, Any], config: type) -> None:
    """Check that every value has the type that a configuration class gives its field."""
    for field in dataclasses.fields(config):
        _BY_TYPE[str(field.type)](f"{name}.{field.name}", values[field.name])


def whole(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number, which true is not."""
    if type(value) is not int or not low <= value <= high:
        raise wrong(name, value, f"a whole number from {low} to {high}")
    return value


def number(name: str, value: object, low: float, high: float) -> float:
    """Return a number; NaN is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise wrong(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def text(name: str, value: object, longest: int = LONGEST_NAME) -> str:
    """Return a printable text that is not empty."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest or not value.isprintable():
        raise wrong(name, value, f"a printable text of 1 to {longest} characters")
    return value


def bare(name: str, value: object) -> str:
    """Return a name that leads nowhere when it is taken for a path or an address."""
    word = text(name, value)
    if word.startswith((".", "~", "-")) or any(c in word for c in "/\\:"):
        raise wrong(name, value, "a bare name, no path and no address")
    return word


def digest(name: str, value: object) -> str:
    """Return a SHA-256 in hex digits."""
    word = text(name, value)
    if len(word) != 64 or set(word) - set("0123456789abcdef"):
        raise wrong(name, value, "64 hex digits")
    return word


def wrong(name: str, value: object, limit: str) -> CheckpointError:
    """Return the error of a field: its value escaped and cut, and what would do."""
    return CheckpointError(f"{name} is {shown(value)}", limit=limit)


def _counts(name: str, value: object) -> None:
    if not isinstance(value, list) or len(value) > LONGEST_NAME:
        raise wrong(name, value, f"a list of at most {LONGEST_NAME}")
    for count in value:
        whole(name, count, 1, MOST_EPOCHS)


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")


def _whole(name: str, value: object) -> None:
    whole(name, value, 0, LARGEST_SEED)


def _number(name: str, value: object) -> None:
    number(name, value, 0, _LARGEST_NUMBER)


def _or_none(check: Callable[[str, Any], object]) -> Callable[[str, Any], object]:
    return lambda name, value: None if value is None else check(name, value)


_BY_TYPE: Mapping[str, Callable[[str, Any], object]] = {
    "str": text,
    "str | None": _or_none(text),
    "int": _whole,
    "int | None": _or_none(_whole),
    "float": _number,
    "bool": _flag,
    "tuple[int, ...]": _counts,
}
