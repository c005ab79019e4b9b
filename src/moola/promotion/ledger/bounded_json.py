"""JSON from strangers: bounded in size, depth and numbers, and only in one meaning."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_CHARS = 1 << 18
MAX_DEPTH = 32
_MAX_DIGITS = 18  # below 2**63, which every reader takes
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)
_BRACKETS = re.compile(r"[\[\]{}]")


def read_json(text: str, *, max_chars: int = MAX_CHARS) -> Any:
    """Return the value of a JSON text that is small, shallow and means one thing to everybody.

    Parameters
    ----------
    text
        The text.
    max_chars
        Most characters.

    Returns
    -------
    Any
        Plain values; no NaN, no infinity, no integer of more than 18 digits.

    Raises
    ------
    ValueError
        With one sentence: too long, too deep, no JSON, a key given twice, a number out of range.
    """
    if len(text) > max_chars:
        raise ValueError(f"it has {len(text)} characters, at most {max_chars} are read")
    if (depth := _depth(text)) > MAX_DEPTH:
        raise ValueError(f"it is nested {depth} deep, at most {MAX_DEPTH} levels are read")
    try:
        return json.loads(
            text,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_no_number,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"it holds an integer of {len(digits)} digits, at most {_MAX_DIGITS}")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("it holds a number that is not finite")
    return value


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("it holds a key twice in one object")
    return entries
