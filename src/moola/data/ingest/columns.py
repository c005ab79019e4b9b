"""Which column is which: times, prices, volume, and what tells instruments apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from moola.data.bars import PRICE_COLUMNS
from moola.data.ingest.names import (
    IANA,
    UNIT_WORDS,
    UTC_WORDS,
    ZONE_WORDS,
    plain_name,
    price_of,
    raw_words,
    short_prices,
)
from moola.data.ingest.time_columns import Columns, TimeOptions, choose_time
from moola.errors import DataError

BINANCE = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_volume", "taker_quote_volume", "ignore",
)  # fmt: skip
METATRADER_4 = ("date", "time", "open", "high", "low", "close", "tickvol")
CCXT = ("timestamp", "open", "high", "low", "close", "volume")
_DATABENTO = {"ts_event", "rtype", "publisher_id", "instrument_id"}
_MIXED_UNITS = {"Binance klines": ("ms", "us"), "CryptoDataDownload": ("s", "ms")}
_SYMBOLS = (
    "symbol", "instrumentid", "ticker", "name", "instrument", "pair", "asset", "coin", "contract",
    "market", "security", "ric", "isin", "cusip", "figi", "sid", "code", "currency", "crypto",
    "exchange", "venue", "publisherid", "rtype", "interval", "timeframe", "granularity", "period",
    "frequency", "resolution", "side", "expiry", "expiration", "series", "company", "productcode",
)  # fmt: skip
_FLAGS = (
    "complete", "iscomplete", "confirm", "confirmed", "isclosed", "closed", "isfinal", "final",
    "ispartial", "partial",
)  # fmt: skip
_ZONES_IN_COMMENTS = {
    "local", "est", "edt", "eastern", "cst", "cdt", "pst", "pdt", "pacific", "cet", "cest", "eet",
    "bst", "msk", "jst", "hkt", "aest",
}  # fmt: skip
_VOLUMES = ("volume", "vol", "v", "tickvol", "tickvolume")
_ZONE_COLUMNS = ("tz", "timezone", "zone", "utcoffset", "gmtoffset", "tzoffset")

_NOT_PRICES = ("time", "date", "datetime", "timestamp", "volume", "symbol", "ticker")


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one file is laid out.

    Attributes
    ----------
    name
        The source it looks like, in words.
    time
        Column of the opening time, or the two columns of date and time.
    prices
        Columns of open, high, low and close.
    volume
        Its column, None where there is none.
    constant
        Columns that tell instruments, or partial bars from final ones, apart: the rows read must
        agree in each of them.
    fixed_point
        Whether prices are whole numbers of 1e-9.
    header_zone, unnamed_zone
        What the header says of the zone (see `moola.times.TimeReader`).
    mixed_units
        Units of the epoch that this source mixes in one column.
    unit
        Unit of the epoch that the column's name states.
    why
        Why this column of times and no other, in words.
    unread
        Columns that are not looked at.
    """

    name: str
    time: tuple[str, ...]
    prices: tuple[str, ...]
    volume: str | None = None
    constant: tuple[str, ...] = ()
    fixed_point: bool = False
    header_zone: str | None = None
    unnamed_zone: str | None = None
    mixed_units: tuple[str, ...] = ()
    unit: str | None = None
    why: str = ""
    unread: tuple[str, ...] = field(default=(), repr=False)

    @property
    def used(self) -> list[str]:
        """The columns that are read, each once."""
        extra = [self.volume] if self.volume is not None else []
        return list(dict.fromkeys([*self.time, *self.prices, *extra, *self.constant]))


def assign(
    source: str,
    path: Path,
    names: Sequence[str],
    sample: Columns,
    *,
    ticker: str | None,
    times: TimeOptions,
    comments: str = "",
) -> Format:
    """Find times, prices, volume and what must be constant among the columns of a file.

    Parameters
    ----------
    source
        What the file looks like, in words.
    path
        For messages.
    names
        All columns, in order.
    sample
        The first rows by column.
    ticker
        Which instrument of a file with one group of columns for each.
    times
        What the user says of the times.
    comments
        Text of the comment lines above the data.

    Raises
    ------
    DataError
        If a column is missing, is there twice, or cannot be told from another.
    """
    mine = _of_ticker(path, names, ticker)
    prices = _prices(path, names, mine)
    lowered = {n.lower() for n in names}
    integer = all(_is_whole(sample[p]) for p in prices.values())
    databento = lowered >= _DATABENTO
    name = "Databento" if databento else source
    mixed = _MIXED_UNITS.get(name, ())
    chosen, why = choose_time(path, mine, sample, times, mixed)
    named = dict(reversed(mine))
    constant = [n for p, n in mine if p in (*_SYMBOLS, *_FLAGS) and n not in chosen]
    volume = next((named[v] for v in _VOLUMES if v in named), None)
    volume = volume or next((n for p, n in mine if p.startswith("volume")), None)
    if volume is not None and list(names).count(volume) > 1:
        volume = None  # nobody says which of the two is meant, and it is not needed
    header_zone, unnamed_zone = _zone_words(chosen, mine, comments)
    form = Format(
        name=name,
        time=chosen,
        prices=tuple(prices[p] for p in PRICE_COLUMNS),
        volume=volume,
        constant=tuple(constant),
        fixed_point=databento and integer,
        header_zone=header_zone,
        unnamed_zone=unnamed_zone,
        mixed_units=mixed,
        unit=next((UNIT_WORDS[w] for w in raw_words(chosen[0]) if w in UNIT_WORDS), None),
        why=why,
    )
    twice = [n for n in form.used if list(names).count(n) > 1]
    if twice:
        raise DataError(f"file {path} names a column twice: {twice[0]}", remedy="Name each once")
    return form


def _of_ticker(path: Path, names: Sequence[str], ticker: str | None) -> list[tuple[str, str]]:
    split = [plain_name(n) for n in names]
    tickers = sorted({owner for _, owner in split if owner})
    if len(tickers) > 1 and ticker not in tickers:
        raise DataError(
            f"file {path} holds {len(tickers)} tickers and --symbol is {ticker!r}",
            limit=f"one of {', '.join(tickers[:20])}",
        )
    if tickers and ticker is not None and ticker not in tickers:
        raise DataError(f"file {path} holds no bars of {ticker!r}", limit=f"--symbol {tickers[0]}")
    keep = {"", *tickers} if len(tickers) == 1 else {"", ticker}
    return [(p, n) for (p, owner), n in zip(split, names, strict=True) if owner in keep]


def _such_as(names: Sequence[str], columns: Mapping[str, str], absent: list[str]) -> list[str]:
    """Return a file's columns as ``--columns`` may name them, what is absent in free places.

    It can be typed as it is printed, and shows the user which of its words to move.
    """
    meant = {name: price for price, name in columns.items()}
    words = [meant.get(name) or plain_name(name)[0] or f"column{i}" for i, name in enumerate(names)]
    free = [i for i, word in enumerate(words) if word not in {*meant.values(), *_NOT_PRICES}]
    if not {"time", "date", "datetime", "timestamp"} & set(words):
        absent = ["time", *absent]
    for place, word in zip(free, absent, strict=False):
        words[place] = word
    return words


def _prices(path: Path, names: Sequence[str], mine: list[tuple[str, str]]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for _, name in mine:
        price = price_of(name)
        if price is None:
            continue
        if price in columns:
            raise DataError(
                f"file {path} names a column twice: {columns[price]} and {name} are both {price}",
                remedy="Leave out the one that is not meant",
            )
        columns[price] = name
    if not columns:
        columns = short_prices([n for _, n in mine]) or {}
    last = [n for _, n in mine if plain_name(n)[0] in ("last", "lastprice")]
    if "close" not in columns and len(last) == 1:
        columns["close"] = last[0]  # as some charting programs call it
    absent = [p for p in PRICE_COLUMNS if p not in columns]
    if absent:
        raise DataError(
            f"file {path} has the columns {', '.join(names[:20])}; missing: {', '.join(absent)}",
            remedy="Name the columns in their order, such as --columns "
            + ",".join(_such_as(names, columns, absent)),
        )
    return columns


def _zone_words(
    chosen: tuple[str, ...], mine: list[tuple[str, str]], comments: str
) -> tuple[str | None, str | None]:
    """Return the zone that header and comments state, and words that only speak of one."""
    for text in (*chosen, comments):
        if match := IANA.search(text):
            return match.group(0), None
    words = [w for c in chosen for w in raw_words(c)]
    if any(w in UTC_WORDS for w in words):
        return "UTC", None
    if any(w in ZONE_WORDS for w in words):
        return None, ", ".join(chosen)
    beside = next((n for p, n in mine if p in _ZONE_COLUMNS or n.lower() in _ZONE_COLUMNS), None)
    if beside is not None:
        return None, f"column {beside}"
    spoken = raw_words(comments)
    if any(w in UTC_WORDS for w in spoken):
        return "UTC", None
    return None, next((comments.strip()[:60] for w in spoken if w in _ZONES_IN_COMMENTS), None)


def _is_whole(values: pa.Array) -> bool:
    if pa.types.is_integer(values.type):
        return True
    texts = [v.as_py() for v in values if v.is_valid] if pa.types.is_string(values.type) else []
    return bool(texts) and all(re.match(r"^-?\d+$", t.strip()) for t in texts)
