"""Files of bars as text, for the tests of ingest and of the quality report."""

from __future__ import annotations

from pathlib import Path

from moola.data.bars import PRICE_COLUMNS
from moola.data.ingest import IngestOptions, detect
from moola.data.ingest.rows import RowReader, Tally

HEAD = "time,open,high,low,close\n"


def put(tmp_path: Path, text: str, name: str = "file.csv") -> Path:
    """Write a file of bars and return its path."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def row(hour: int, *prices: object) -> str:
    """One line: an hour of 2017-01-01 and its prices."""
    return f"2017-01-01T{hour:02}:00:00Z," + ",".join(map(str, prices)) + "\n"


def csv_of(bars, newest_first: bool = False) -> str:
    """Bars as the text of a CSV file."""
    lines = [
        f"{t}Z," + ",".join(map(repr, p))
        for t, p in zip(bars.time.astype("datetime64[s]"), bars.ohlc.tolist(), strict=True)
    ]
    return HEAD + "\n".join(lines[::-1] if newest_first else lines) + "\n"


def hours_of(*times: str, form: str = "{},1.10,1.30,1.00,1.20\n") -> str:
    """A CSV with a header and one bar a time, as the times are written."""
    return HEAD + "".join(form.format(t) for t in times)


def table(**columns: object) -> dict[str, object]:
    """Columns of a parquet file with as many equal bars as the longest of `columns`."""
    num = max(len(c) for c in columns.values())  # type: ignore[arg-type]
    prices = zip(("open", "high", "low", "close"), (1.1, 1.3, 1.0, 1.2), strict=True)
    return {**columns, **{p: [v] * num for p, v in prices if p not in columns}}


def read(path: Path, **options: object) -> tuple[list[str], list[list[float]]]:
    """Read a file's rows as an ingest does, without its report: times in UTC, and prices."""
    given = IngestOptions(**options)  # type: ignore[arg-type]
    tally = Tally()
    reader = RowReader(path, *detect(path, given, path.parent / "unpacked"), given, tally)
    batches = [b for b, _ in reader.batches()]
    assert not tally.faults, tally.faults
    times = [str(t) for b in batches for t in b["timestamp"].to_numpy(zero_copy_only=False)]
    columns = [[b[p].to_pylist() for p in PRICE_COLUMNS] for b in batches]
    prices = [list(bar) for c in columns for bar in zip(*c, strict=True)]
    return [t.removesuffix(".000000") for t in times], prices
