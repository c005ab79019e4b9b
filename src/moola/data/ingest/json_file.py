"""JSON of bars: an array of rows, or one row a line; a row is an array or an object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from moola.data.ingest.columns import BINANCE, CCXT
from moola.errors import DataError, one_line

_BATCH_ROWS = 1 << 17
_SAMPLE_ROWS = 100


class JsonFile:
    """A JSON file that is open to be read (see `moola.data.ingest.files.BarFile`).

    Values become texts, so that they are read as those of a CSV are.
    """

    comments, comment_rows = "", 0

    def __init__(self, path: Path, columns: tuple[str, ...], start: str):
        self._path, self._lines = path, start == "lines"
        first = next(self._rows(), None)
        if first is None:
            raise DataError(f"file {path} holds no rows")
        self._keys: Sequence[Any]
        if isinstance(first, dict):
            self._keys = list(first)
            self.source, names = "JSON", tuple(str(k) for k in first)
        else:
            self._keys = range(len(first))
            kinds = {6: ("ccxt rows", CCXT), 12: ("Binance klines", BINANCE)}
            if not columns and len(first) not in kinds:
                raise DataError(
                    f"file {path} has rows of {len(first)} values without names",
                    limit="6 (ccxt) or 12 (Binance klines)",
                    remedy="Name them with --columns time,open,high,low,close,...",
                )
            self.source, names = kinds.get(len(first), ("", ()))
        if columns and len(columns) != len(self._keys):
            raise DataError(
                f"--columns names {len(columns)} columns, and file {path} has {len(self._keys)}",
                limit="one name a value, in their order",
            )
        self.source = "own columns" if columns else self.source
        self.names = columns or names

    def sample(self) -> dict[str, pa.Array]:
        """Return the first rows by column."""
        first = next(self.batches(list(self.names), [], rows=_SAMPLE_ROWS))
        return dict(zip(self.names, first.columns, strict=True))

    def batches(
        self, columns: list[str], numbers: list[str], rows: int = _BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns as texts, in file order, at most `rows` rows at a time."""
        del numbers
        keys = [self._keys[self.names.index(c)] for c in columns]
        block: list[Any] = []
        for number, row in enumerate(self._rows()):
            self._check(row, number)
            block.append(row)
            if len(block) == rows:
                yield self._batch(block, keys, columns)
                block = []
        if block:
            yield self._batch(block, keys, columns)

    def _batch(self, block: list[Any], keys: list[Any], columns: list[str]) -> pa.RecordBatch:
        arrays = [pa.array([_as_text(self._path, r[k]) for r in block], pa.string()) for k in keys]
        return pa.RecordBatch.from_arrays(arrays, names=columns)

    def _check(self, row: Any, number: int) -> None:
        same = isinstance(row, dict | list) and len(row) == len(self._keys)
        if not same or (isinstance(row, dict) and any(k not in row for k in self._keys)):
            raise DataError(
                f"file {self._path}, row {number} is not of the form of the first",
                limit=f"{len(self._keys)} values",
            )

    def _rows(self) -> Iterator[Any]:
        with pa.input_stream(str(self._path), compression="detect") as stream:
            try:
                if not self._lines:
                    values = json.loads(stream.read().decode("utf-8-sig"))
                    yield from values
                    return
                for line in _text_lines(stream):
                    yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"file {self._path} cannot be read as JSON: {one_line(error)}"
                ) from None


def _text_lines(stream: Any) -> Iterator[str]:
    rest = b""
    while chunk := stream.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (x.decode() for x in lines if x.strip())
    if rest.strip():
        yield rest.decode()


def _as_text(path: Path, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return repr(value)
    raise DataError(f"file {path} holds {type(value).__name__} inside a row", limit="plain values")


def json_start(path: Path) -> str | None:
    """Return whether a text is JSON, in ``lines`` or ``whole``; None for another text."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            text = stream.read(1 << 16).decode("utf-8-sig", errors="replace").lstrip()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"file {path} cannot be read: {one_line(error)}") from None
    if text[:1] not in ("[", "{"):
        return None
    line, _, rest = text.partition("\n")
    with suppress(ValueError):
        row = json.loads(line)
        flat = row and not any(
            isinstance(v, list | dict) for v in (row.values() if isinstance(row, dict) else row)
        )
        if flat and (rest.strip() or isinstance(row, dict)):
            return "lines"
    if text[0] == "{":
        raise DataError(
            f"file {path} is one JSON object", limit="an array of rows, or one row a line"
        )
    return "whole"
