"""CSV of any kind: where the comments end, whether there is a header, which bytes are the data."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from moola.data.ingest.columns import BINANCE, METATRADER_4
from moola.data.ingest.names import names_prices, price_of
from moola.errors import DataError, one_line

_BLOCK_BYTES = 8 << 20
_HEAD_BYTES = 1 << 16
_HEAD_LIMIT = 64 << 20
_SAMPLE_ROWS = 100
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r|$)")
_NUMBER = re.compile(r"^[+-]?[\d.,'  ]*\d[\d.,'  ]*(e[+-]?\d+)?$|^[+-]?(inf|nan)$", re.I)
_EMPTY = {"", "-", "--", "n/a", "na", "nan", "null", "none", "#n/a"}
_COMMENT = ("#", "//", "%", "!", "http://", "https://")
_HEADERLESS = {12: ("Binance klines", BINANCE), 7: ("MetaTrader 4", METATRADER_4)}


@dataclass(frozen=True, kw_only=True)
class Head:
    """What precedes the data of a CSV.

    Attributes
    ----------
    source
        What the file looks like, in words.
    names
        Names of all columns, in order.
    offset
        Bytes before the first row of data.
    delimiter
        What parts the columns.
    comments
        Text of the comment lines.
    rows
        The first rows of data, as texts.
    """

    source: str
    names: tuple[str, ...]
    offset: int
    delimiter: str
    comments: str
    rows: tuple[tuple[str, ...], ...]

    @property
    def sample(self) -> dict[str, pa.Array]:
        """The first rows by column; a missing field is null."""
        return {
            name: pa.array([r[k] if k < len(r) else None for r in self.rows], pa.string())
            for name, k in ((n, self.names.index(n)) for n in self.names)
        }


def read_head(path: Path, columns: tuple[str, ...]) -> Head:
    """Read the lines above the data and the first rows.

    Parameters
    ----------
    path
        A text, plain or compressed.
    columns
        What the user calls the columns, in order; empty: the file says it.

    Raises
    ------
    DataError
        If there are no rows, or nothing says which column is which.
    """
    for size in _sizes():
        data = _read(path, size)
        records = _Records(data, complete=len(data) < size)
        try:
            head = _head_of(records, path, columns)
        except DataError:
            if records.complete or not records.ended():
                raise
            continue
        if records.complete or len(head.rows) >= _SAMPLE_ROWS // 5:
            return head
    raise DataError(f"file {path} holds no rows in its first {_HEAD_LIMIT >> 20} MiB")


def _sizes() -> Iterator[int]:
    size = _HEAD_BYTES
    while size <= _HEAD_LIMIT:
        yield size
        size *= 8


def _read(path: Path, size: int) -> bytes:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            data: bytes = stream.read(size)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"file {path} cannot be read: {one_line(error)}") from None
    if b"\0" in data:
        raise DataError(f"file {path} is no text", limit="CSV in UTF-8, JSON, parquet or feather")
    return data


class _Records:
    """The records of the beginning of a file, each with the byte at which it begins.

    A record is a line as the CSV reader counts lines, or several where a field holds line breaks.
    """

    def __init__(self, data: bytes, *, complete: bool):
        self._data, self.complete = data, complete
        self.at = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        self.comments: list[str] = []
        self.delimiter: str | None = None

    def ended(self) -> bool:
        """Whether what was read of the file is used up."""
        return self.at >= len(self._data)

    def next(self) -> tuple[str, int] | None:
        """Return the next record that is no comment, and where it begins; None at the end."""
        while not self.ended():
            begin, text = self.at, self._record()
            if self.ended() and not self.complete:
                return None  # the record may go on in what was not read
            stripped = text.strip()
            if stripped.lower().startswith("sep=") and not self.comments:
                self.delimiter = stripped[4:5] or None
            elif _is_comment(stripped):
                self.comments.append(stripped)
            elif stripped:
                return text, begin
        return None

    def _record(self) -> str:
        begin = self.at
        while True:
            match = _LINE.match(self._data, self.at)
            assert match is not None
            self.at = match.end()
            text = self._data[begin : self.at]
            if text.count(b'"') % 2 == 0 or self.ended():
                return text.decode("utf-8", errors="replace").rstrip("\r\n")


def _head_of(records: _Records, path: Path, columns: tuple[str, ...]) -> Head:
    record = records.next()
    if record is None:
        raise DataError(f"file {path} holds no rows")
    text, begin = record
    delimiter = records.delimiter or max((",", ";", "\t", "|"), key=text.count)
    source, names, header = _names(records, path, columns, _fields(text, delimiter), delimiter)
    if not header:
        records.at = begin
    comments = len(records.comments)
    rows: list[tuple[str, ...]] = []
    offset = records.at
    while len(rows) < _SAMPLE_ROWS and (record := records.next()) is not None:
        offset = record[1] if not rows else offset
        rows.append(tuple(_fields(record[0], delimiter)))
    if not rows:
        raise DataError(f"file {path} holds no rows")
    if len(rows[0]) != len(names):
        raise DataError(
            f"file {path} has {len(rows[0])} fields in its first row, and {len(names)} names",
            limit="one name a field",
            remedy="Name them all with --columns time,open,high,low,close,...",
        )
    return Head(
        source=source, names=names, offset=offset, delimiter=delimiter,
        comments="; ".join(records.comments[:comments])[:2000], rows=tuple(rows),
    )  # fmt: skip


def _names(
    records: _Records, path: Path, columns: tuple[str, ...], first: list[str], delimiter: str
) -> tuple[str, tuple[str, ...], bool]:
    """Return the source, the names of the columns, and whether the first record is a header."""
    if columns:
        return "own columns", columns, is_header(path, first, columns)
    if first[0] == "Price" and (levels := _yfinance(records, first, delimiter)):
        return "yfinance", levels, True
    names = tuple(f.strip("<>") for f in first)
    if names_prices(names):
        return _known(names, records.comments), names, True
    if (commented := _commented(records, delimiter, len(first))) is not None:
        return _known(commented, records.comments), commented, False
    if not any(_NUMBER.match(f) for f in first):
        return "CSV with a header", names, True
    if len(first) not in _HEADERLESS:
        raise DataError(
            f"file {path} has {len(first)} columns and no header",
            limit="12 (Binance klines) or 7 (MetaTrader 4)",
            remedy="Name them with --columns time,open,high,low,close,...",
        )
    return *_HEADERLESS[len(first)], False


def is_header(path: Path, first: list[str], columns: tuple[str, ...]) -> bool:
    """Return whether a first row is a header: its price fields are no numbers.

    Raises DataError if the row names its prices in another order than `columns` does.
    """
    prices = [(price_of(n), f) for n, f in zip(columns, first, strict=False) if price_of(n)]
    fields = [f for _, f in prices if f.lower() not in _EMPTY]
    if not fields or any(_NUMBER.match(f) for f in fields):
        return False
    for wanted, field in prices:
        price = price_of(field)
        if price is not None and price != wanted:
            raise DataError(
                f"file {path} calls a column {field!r} that --columns calls {wanted}",
                remedy="Leave --columns out, or put the names into the file's order",
            )
    return True


def _yfinance(records: _Records, first: list[str], delimiter: str) -> tuple[str, ...] | None:
    """Return the names of a header of three lines: prices, tickers, the name of the time."""
    at = records.at
    second = records.next()
    tickers = _fields(second[0], delimiter) if second is not None else [""]
    third = records.next() if tickers[0] == "Ticker" else None
    if third is None:
        records.at = at
        return None
    time = _fields(third[0], delimiter)[0] or "Date"
    return (time, *(f"{p}|{t}" for p, t in zip(first[1:], tickers[1:], strict=False)))


def _commented(records: _Records, delimiter: str, fields: int) -> tuple[str, ...] | None:
    """Return the names that the last comment line gives, where it is a header in disguise."""
    if not records.comments:
        return None
    names = tuple(_fields(records.comments[-1].lstrip("#%/! "), delimiter))
    return names if len(names) == fields and names_prices(names) else None


def _known(names: tuple[str, ...], comments: list[str]) -> str:
    plain = {n.lower() for n in names}
    if any("cryptodatadownload" in c.lower() for c in comments):
        return "CryptoDataDownload"
    if "gmt time" in plain or "local time" in plain:
        return "Dukascopy"
    if {"date", "time", "tickvol"} <= plain:
        return "MetaTrader 5"
    return "Binance klines" if {"open_time", "close_time"} <= plain else "CSV with a header"


def _fields(text: str, delimiter: str) -> list[str]:
    return [f.strip() for f in next(csv.reader([text], delimiter=delimiter), [])]


def _is_comment(text: str) -> bool:
    lower = text.lower()
    return lower.startswith(_COMMENT) or "cryptodatadownload" in lower


def csv_batches(
    path: Path, head: Head, columns: list[str], numbers: list[str], on_comment: Callable[[], None]
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a CSV in file order, in batches of bounded size.

    Parameters
    ----------
    path, head
        The file and what precedes its data.
    columns
        Those to read; as texts.
    numbers
        Those of `columns` to read as numbers.
    on_comment
        Called for each comment line among the data.
    """
    ids = {name: f"c{k}" for k, name in reversed(list(enumerate(head.names)))}
    types = {ids[c]: pa.float64() if c in numbers else pa.string() for c in columns}

    def strange(row: Any) -> str:
        if _is_comment((row.text or "").strip()):
            on_comment()
            return "skip"
        return "error"

    with pa.input_stream(str(path), compression="detect") as stream:
        remaining = head.offset
        while remaining > 0:
            remaining -= len(stream.read(min(remaining, 1 << 20)))
        reader = pa_csv.open_csv(
            stream,
            read_options=pa_csv.ReadOptions(
                block_size=_BLOCK_BYTES,
                column_names=[f"c{k}" for k in range(len(head.names))],
                use_threads=False,
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=head.delimiter, newlines_in_values=False, invalid_row_handler=strange
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, include_columns=list(types), strings_can_be_null=True
            ),
        )
        for batch in reader:
            yield pa.RecordBatch.from_arrays(batch.columns, names=columns)


def as_number(texts: pa.Array, *, decimal: str = ".", thousands: str | None = None) -> pa.Array:
    """Return texts as float64; raises DataError naming the first that is no number.

    Parameters
    ----------
    texts
        Numbers, or nulls.
    decimal
        What precedes the fraction.
    thousands
        What parts groups of three digits; None: nothing does.
    """
    point, group = re.escape(decimal), re.escape(thousands or "")
    whole = rf"\d{{1,3}}(?:{group}\d{{3}})+|\d+" if thousands else r"\d*"
    pattern = rf"^\s*[+-]?(?:{whole})(?:{point}\d*)?(?:[eE][+-]?\d+)?\s*$"
    good = pc.match_substring_regex(texts, pattern).fill_null(True)
    if not np.asarray(good).all():
        bad = texts[int(np.argmin(np.asarray(good)))].as_py()
        raise DataError(
            f"price {bad!r} is no number with decimal {decimal!r} and thousands {thousands or ''!r}"
        )
    plain = pc.replace_substring(texts, thousands, "") if thousands else texts
    plain = pc.utf8_trim_whitespace(pc.replace_substring(plain, decimal, "."))
    return pc.if_else(pc.equal(plain, ""), pa.scalar(None, pa.string()), plain).cast(pa.float64())
