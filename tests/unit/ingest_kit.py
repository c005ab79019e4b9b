"""Files of bars as text, for the tests of ingest and of the quality report."""

from __future__ import annotations

from pathlib import Path

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
