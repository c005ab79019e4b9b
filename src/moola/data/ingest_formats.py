"""Formats: which column is which in the files of the usual sources, read in chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from moola.data.bars import PRICE_COLUMNS
from moola.errors import DataError, one_line

_BLOCK_BYTES = 8 << 20
_BATCH_ROWS = 1 << 17
_BINANCE = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_volume", "taker_quote_volume", "ignore",
)  # fmt: skip
_METATRADER_4 = ("date", "time", "open", "high", "low", "close", "tickvol")
_TIME = (
    "timestamp", "unix", "unix timestamp", "ts_event", "open_time", "open time", "gmt time",
    "local time", "datetime", "time", "date", "__index_level_0__",
)  # fmt: skip
_SYMBOLS = ("symbol", "instrument_id", "ticker")


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
    volume, symbol
        Columns of those, None where there are none.
    fixed_point
        Whether prices are whole numbers of 1e-9.
    columns, skip_rows, delimiter
        CSV only: all column names in order, lines before the data, and what parts the columns.
    """

    name: str
    time: tuple[str, ...]
    prices: tuple[str, ...]
    volume: str | None = None
    symbol: str | None = None
    fixed_point: bool = False
    columns: tuple[str, ...] = field(default=(), repr=False)
    skip_rows: int = 0
    delimiter: str = ","

    @property
    def used(self) -> list[str]:
        """The columns that are read."""
        extra = [c for c in (self.volume, self.symbol) if c is not None]
        return [*self.time, *self.prices, *extra]


def detect(path: Path, *, columns: tuple[str, ...] = (), ticker: str | None = None) -> Format:
    """Tell a file's format by its first lines or its schema.

    Parameters
    ----------
    path
        CSV (plain or compressed) or parquet.
    columns
        Names of the columns of a CSV without a header.
    ticker
        Which instrument of a file with one group of columns for each.

    Returns
    -------
    Format
        Which column is which; no row has been read yet.

    Raises
    ------
    DataError
        If the file cannot be read or its columns are not known.
    """
    if not path.is_file():
        raise DataError(f"file {path} does not exist")
    if path.suffix == ".zip":
        raise DataError(f"file {path} is a zip archive", remedy="Unpack it first")
    if is_parquet(path):
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"file {path} cannot be read: {one_line(error)}") from None
        integer = all(
            pa.types.is_integer(schema.field(n).type)
            for n in schema.names
            if n.lower() in PRICE_COLUMNS
        )
        return _assign("parquet", path, tuple(schema.names), ticker, integer=integer)
    return _detect_csv(path, columns, ticker)


def is_parquet(path: Path) -> bool:
    """Return whether the file begins as parquet does."""
    with path.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def read_chunks(path: Path, form: Format) -> Iterator[pa.RecordBatch]:
    """Yield the used columns in file order, in batches of bounded size.

    Raises DataError, naming the row as pyarrow does, where a value cannot be read.
    """
    try:
        if is_parquet(path):
            yield from pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20).iter_batches(
                _BATCH_ROWS, columns=form.used
            )
            return
        price = pa.int64() if form.fixed_point else pa.float64()
        types = dict.fromkeys(form.prices, price) | dict.fromkeys(form.time, pa.string())
        if form.volume:
            types[form.volume] = pa.float64()
        if form.symbol:
            types[form.symbol] = pa.string()
        with pa.input_stream(str(path), compression="detect") as stream:
            yield from pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(
                    block_size=_BLOCK_BYTES,
                    column_names=list(form.columns),
                    skip_rows=form.skip_rows,
                    use_threads=False,
                ),
                parse_options=pa_csv.ParseOptions(delimiter=form.delimiter),
                convert_options=pa_csv.ConvertOptions(
                    column_types=types, include_columns=form.used, strings_can_be_null=True
                ),
            )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, form, error) from None


def unreadable(path: Path, form: Format, error: Exception) -> DataError:
    """Return the error of a file in which a value cannot be read."""
    numbers = [*form.prices, *([form.volume] if form.volume else [])]
    return DataError(
        f"file {path} ({form.name}) cannot be read: {one_line(error)}",
        limit=f"numbers in {', '.join(numbers)}",
    )


def _detect_csv(path: Path, columns: tuple[str, ...], ticker: str | None) -> Format:
    lines = _head(path)
    skip = 0
    while skip < len(lines) and _is_comment(lines[skip]):
        skip += 1
    if skip == len(lines):
        raise DataError(f"file {path} holds no rows")
    delimiter = max((",", ";", "\t"), key=lines[skip].count)
    rows = [[f.strip().strip('"') for f in line.split(delimiter)] for line in lines[skip:]]
    first = rows[0]
    if columns:
        header = 0 if _is_value(first[0]) else 1
        form = _assign("own columns", path, columns, ticker)
        return _csv(form, columns, skip + header, delimiter=delimiter, path=path)
    if first[0] == "Price" and len(rows) > 2 and rows[1][0] == "Ticker":
        time = rows[2][0] or "Date"
        names = (time, *(f"{p}|{t}" for p, t in zip(first[1:], rows[1][1:], strict=True)))
        return _csv(
            _assign("yfinance", path, names, ticker),
            names,
            skip + 3,
            delimiter=delimiter,
            path=path,
        )
    if not _is_value(first[0]):
        names = tuple(f.strip("<>") for f in first)
        sample = dict(zip(names, rows[1] if len(rows) > 1 else [], strict=False))
        whole = all(sample.get(n, "").isdigit() for n in names if n.lower() in PRICE_COLUMNS)
        form = _assign(_known(names, lines), path, names, ticker, integer=whole)
        return _csv(form, names, skip + 1, delimiter=delimiter, path=path)
    known = {12: ("Binance klines", _BINANCE), 7: ("MetaTrader 4", _METATRADER_4)}
    if len(first) not in known:
        raise DataError(
            f"file {path} has {len(first)} columns and no header",
            limit="12 (Binance klines) or 7 (MetaTrader 4)",
            remedy="Name them with --columns time,open,high,low,close,...",
        )
    name, names = known[len(first)]
    return _csv(_assign(name, path, names, ticker), names, skip, delimiter=delimiter, path=path)


def _csv(
    form: Format, columns: tuple[str, ...], skip_rows: int, *, delimiter: str, path: Path
) -> Format:
    if len(set(columns)) != len(columns):
        raise DataError(f"file {path} names a column twice: {', '.join(columns)}")
    return replace(form, columns=columns, skip_rows=skip_rows, delimiter=delimiter)


def _assign(
    name: str, path: Path, names: tuple[str, ...], ticker: str | None, *, integer: bool = False
) -> Format:
    """Find time, prices, volume and symbol among column names."""
    split = [_column(n) for n in names]
    tickers = sorted({owner for _, owner in split if owner})
    if len(tickers) > 1 and ticker not in tickers:
        raise DataError(
            f"file {path} holds {len(tickers)} tickers and --symbol is {ticker!r}",
            limit=f"one of {', '.join(tickers[:20])}",
        )
    mine = [(p, n) for (p, owner), n in zip(split, names, strict=True) if owner in ("", ticker)]
    if len(tickers) == 1:
        mine = [(p, n) for (p, _), n in zip(split, names, strict=True)]
    plain = dict(reversed(mine))
    time = next((plain[t] for t in _TIME if t in plain), None)
    absent = [p for p in PRICE_COLUMNS if p not in plain] + ([] if time else ["a time"])
    if absent or time is None:
        raise DataError(
            f"file {path} has the columns {', '.join(names[:20])}; missing: {', '.join(absent)}",
            remedy="Name the columns with --columns time,open,high,low,close,...",
        )
    pair = "date" in plain and "time" in plain
    volume = next((plain[v] for v in ("volume", "vol", "tickvol") if v in plain), None)
    volume = volume or next((n for k, n in plain.items() if k.startswith("volume")), None)
    symbol = next((plain[s] for s in _SYMBOLS if s in plain), None)
    databento = "ts_event" in plain
    return Format(
        name="Databento" if databento else name,
        time=(plain["date"], plain["time"]) if pair else (time,),
        prices=tuple(plain[p] for p in PRICE_COLUMNS),
        volume=volume,
        symbol=symbol,
        fixed_point=databento and integer,
    )


def _column(name: str) -> tuple[str, str]:
    """Return a column's name as it is looked up, and the ticker it belongs to (empty: to all)."""
    if match := re.match(r"^\('([^']*)', '([^']*)'\)$", name):  # a pandas column of two levels
        name = f"{match.group(1)}|{match.group(2)}"
    plain, _, owner = name.strip().strip("<>").partition("|")
    return plain.strip().lower(), owner


def _known(names: tuple[str, ...], lines: list[str]) -> str:
    plain = {n.lower() for n in names}
    if "cryptodatadownload" in lines[0].lower():
        return "CryptoDataDownload"
    if "gmt time" in plain or "local time" in plain:
        return "Dukascopy"
    if {"date", "time", "tickvol"} <= plain:
        return "MetaTrader 5"
    return "Binance klines" if {"open_time", "close_time"} <= plain else "CSV with a header"


def _head(path: Path) -> list[str]:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            text = stream.read(1 << 16).decode("utf-8-sig", errors="replace")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"file {path} cannot be read: {one_line(error)}") from None
    if "\0" in text:
        raise DataError(f"file {path} is no text", limit="CSV in UTF-8, or parquet")
    return text.splitlines()[:8]


def _is_comment(line: str) -> bool:
    start = line.strip().lower()
    return not start or start.startswith(("#", "http")) or "cryptodatadownload" in start


def _is_value(text: str) -> bool:
    return bool(re.match(r"^\d", text))
