"""Names of columns: what they stand for, whatever spelling a source prefers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from moola.data.bars import PRICE_COLUMNS

UTC_WORDS = ("utc", "gmt", "zulu")
ZONE_WORDS = (
    "local", "est", "edt", "et", "eastern", "cst", "cdt", "ct", "central", "mst", "mdt", "pst",
    "pdt", "pt", "pacific", "cet", "cest", "eet", "eest", "bst", "wet", "msk", "ist", "jst", "kst",
    "hkt", "sgt", "aest", "aedt", "nzst", "ny", "nyc", "york", "chicago", "london", "tokyo",
    "berlin", "frankfurt", "exchange", "server", "broker",
)  # fmt: skip
UNIT_WORDS = {
    "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "ms": "ms", "msec": "ms", "millis": "ms", "milliseconds": "ms",
    "us": "us", "usec": "us", "micros": "us", "microseconds": "us",
    "ns": "ns", "nsec": "ns", "nanos": "ns", "nanoseconds": "ns",
}  # fmt: skip
IANA = re.compile(r"[A-Z][A-Za-z]+/[A-Z][A-Za-z_]+(?:/[A-Z][A-Za-z_]+)?")


def plain_name(name: str) -> tuple[str, str]:
    """Return a column's name as it is looked up, and the ticker it belongs to (empty: to all)."""
    head, owner = _levels(name)
    return "".join(_words(head)), owner


def _levels(name: str) -> tuple[str, str]:
    if match := re.match(r"^\('([^']*)', '([^']*)'\)$", name):  # a pandas column of two levels
        return match.group(1), match.group(2)
    head, _, owner = name.strip().strip("<>").partition("|")
    return head, owner


def price_of(name: str) -> str | None:
    """Return which price a column's name stands for, None for another column."""
    head = re.sub(r"\s*[(\[][^)\]]*[)\]]\s*$", "", _levels(name)[0].strip())
    plain = re.sub(r"[^a-z]", "", re.sub(r"^\d+\s*[.)]\s*", "", head).lower())
    plain = {"closelast": "close"}.get(plain, plain)
    for extra in ("price", "px"):
        plain = plain.removeprefix(extra).removesuffix(extra)
    return plain if plain in PRICE_COLUMNS else None


def names_prices(names: Iterable[str]) -> bool:
    """Return whether a row of texts names the four prices: then it is a header."""
    names = list(names)
    return set(PRICE_COLUMNS) <= {price_of(n) for n in names} or short_prices(names) is not None


def _words(name: str) -> list[str]:
    """Return the words of a name without those that speak of zone and unit."""
    words = raw_words(name)
    spoken = {*UTC_WORDS, *UNIT_WORDS, *ZONE_WORDS}
    rest = [w for w in words if w not in spoken]
    return rest if rest or len(words) != 1 else words


def raw_words(name: str) -> list[str]:
    """Return the words that a name is made of, in lower case."""
    head = IANA.sub(" ", name)
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", head)]


def short_prices(names: Sequence[str]) -> dict[str, str] | None:
    """Return the columns o, h, l and c where a file calls its prices so."""
    short = {n.strip().lower(): n for n in reversed(names)}
    columns = {p: short[p[0]] for p in PRICE_COLUMNS if p[0] in short}
    return columns if len(columns) == 4 else None
