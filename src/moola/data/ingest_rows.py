"""Rows of any source as bars: times in UTC, prices as numbers, every fault noted or mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moola.data.bars import PRICE_COLUMNS
from moola.data.ingest_formats import Format, read_chunks, unreadable
from moola.data.ingest_times import to_utc
from moola.errors import ConfigError, DataError

REPAIRS = {
    "sort": "put rows into the order of time",
    "drop-duplicates": "of bars with the same time keep the one that comes first in the file",
    "drop-missing": "leave out rows without a time or with a price that is not a positive number",
    "drop-violations": "leave out bars whose high or low does not enclose open and close",
    "widen": "move high and low of such bars out to the open and close",
}
_FIXED_POINT = 1e9
_UNDEFINED = 2**63 - 1  # Databento's price that is not there


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """How a file is to be read and mended.

    Attributes
    ----------
    timezone
        Zone of times that name none.
    time_format
        A ``strptime`` format, where the form of the times is not known.
    columns
        Column names of a CSV without a header.
    symbol
        Which instrument, where the file holds several.
    repairs
        Names from `REPAIRS`.
    jump_mad
        A close-to-close change of more than this many MADs is reported as a jump.
    """

    timezone: str = "UTC"
    time_format: str | None = None
    columns: tuple[str, ...] = ()
    symbol: str | None = None
    repairs: tuple[str, ...] = ()
    jump_mad: float = 30.0

    def __post_init__(self) -> None:
        for repair in self.repairs:
            if repair not in REPAIRS:
                raise ConfigError(f"repair is {repair!r}", limit=f"one of {', '.join(REPAIRS)}")
        if {"drop-violations", "widen"} <= set(self.repairs):
            raise ConfigError("repairs are drop-violations and widen", limit="one of the two")
        if not self.jump_mad > 0:
            raise ConfigError(f"jump_mad is {self.jump_mad!r}", limit="a number above 0")


@dataclass
class Tally:
    """What was met while reading: rows, faults with the first row of each, and repairs."""

    rows: int = 0
    naive_times: bool = False
    faults: dict[str, tuple[int, int]] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)

    def fault(self, name: str, mask: NDArray[np.bool_], rows: NDArray[np.int64]) -> None:
        """Note rows that are wrong, by their numbers in the file."""
        if mask.any():
            count, row = self.faults.get(name, (0, int(rows[np.argmax(mask)])))
            self.faults[name] = (count + int(mask.sum()), row)

    def repair(self, name: str, count: int) -> None:
        """Note rows that were mended."""
        if count:
            self.repaired[name] = self.repaired.get(name, 0) + count


def read_rows(
    path: Path, form: Format, options: IngestOptions, tally: Tally
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64]]]:
    """Yield checked batches of timestamp, prices and volume, with each row's number in the file.

    Raises DataError where a value cannot be read, or the instrument is not there or not named.
    """
    seen: set[str] = set()
    for batch in read_chunks(path, form):
        rows = np.arange(tally.rows, tally.rows + len(batch))
        tally.rows += len(batch)
        try:
            if form.symbol is not None:
                mine = _of_symbol(path, batch[form.symbol], options.symbol, seen)
                batch, rows = batch.filter(pa.array(mine)), rows[mine]  # noqa: PLW2901
            if not len(rows):
                continue
            checked = _bars(path, batch, rows, form=form, options=options, tally=tally)
        except pa.ArrowException as error:
            raise unreadable(path, form, error) from None
        yield checked
    if seen and options.symbol is not None and options.symbol not in seen:
        raise DataError(
            f"file {path} holds no bars of {options.symbol!r}",
            limit=f"--symbol one of {', '.join(sorted(seen)[:20])}",
        )


def _bars(
    path: Path,
    batch: pa.RecordBatch,
    rows: NDArray[np.int64],
    *,
    form: Format,
    options: IngestOptions,
    tally: Tally,
) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
    """Return the rows to keep as bars, and their numbers in the file."""
    time = batch[form.time[0]]
    if len(form.time) == 2:
        time = pc.binary_join_element_wise(time, batch[form.time[1]], " ")
    try:
        clock = to_utc(time, zone=options.timezone, time_format=options.time_format)
    except DataError as error:
        raise DataError(
            f"file {path}, rows {rows[0]} to {rows[-1]}: {error.problem}",
            limit=error.limit,
            remedy="Say how with --time-format or --timezone",
        ) from None
    tally.naive_times |= _is_naive(time)
    prices = np.column_stack([_price(batch[p], form.fixed_point) for p in form.prices])
    keep = _check(clock, prices, options, tally, rows)
    columns = {"timestamp": clock} | {
        p: pa.array(prices[:, k]) for k, p in enumerate(PRICE_COLUMNS)
    }
    if form.volume is not None:
        columns["volume"] = batch[form.volume].cast(pa.float64())
    return pa.RecordBatch.from_pydict(columns).filter(pa.array(keep)), rows[keep]


def _check(
    clock: pa.Array,
    prices: NDArray[np.float64],
    options: IngestOptions,
    tally: Tally,
    rows: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Return which rows to keep; widen in place; note every fault and repair."""
    with np.errstate(invalid="ignore"):
        missing = np.asarray(clock.is_null()) | ~(np.isfinite(prices) & (prices > 0)).all(axis=1)
        broken = (prices[:, 1] < prices.max(axis=1)) | (prices[:, 2] > prices.min(axis=1))
    broken &= ~missing
    keep = np.ones(len(prices), dtype=bool)
    keep &= ~missing
    if "drop-missing" in options.repairs:
        tally.repair("drop-missing", int(missing.sum()))
    else:
        tally.fault("missing", missing, rows)
    if "widen" in options.repairs:
        tally.repair("widen", int(broken.sum()))
        prices[broken, 1] = prices[broken].max(axis=1)
        prices[broken, 2] = prices[broken].min(axis=1)
    elif "drop-violations" in options.repairs:
        tally.repair("drop-violations", int(broken.sum()))
        keep &= ~broken
    else:
        tally.fault("violations", broken, rows)
    return keep


def _of_symbol(
    path: Path, column: pa.Array, wanted: str | None, seen: set[str]
) -> NDArray[np.bool_]:
    """Return which rows are of the instrument asked for."""
    values = column.cast(pa.string())
    seen.update(str(v) for v in pc.unique(values).to_pylist())
    if wanted is not None:
        return np.asarray(pc.equal(values, wanted).fill_null(False))
    if len(seen) > 1:
        raise DataError(
            f"file {path} holds several instruments: {', '.join(sorted(seen)[:10])}",
            remedy="Choose one with --symbol",
        )
    return np.ones(len(values), dtype=bool)


def _price(column: pa.Array, fixed_point: bool) -> NDArray[np.float64]:
    if not fixed_point:
        return np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    whole = column.cast(pa.int64()).fill_null(_UNDEFINED).to_numpy(zero_copy_only=False)
    # divided, not multiplied by 1e-9, which is no binary fraction: 1.08 stays 1.08
    return np.where(whole == _UNDEFINED, np.nan, whole / _FIXED_POINT)


def _is_naive(time: pa.Array) -> bool:
    if pa.types.is_timestamp(time.type):
        return time.type.tz is None
    if not pa.types.is_string(time.type):
        return bool(pa.types.is_date(time.type))
    sample = next((str(v.as_py()) for v in time if v.is_valid), "")
    stated = sample.isdigit() or "GMT" in sample or sample.endswith(("Z", "UTC"))
    return not (stated or "+" in sample[10:] or "-" in sample[11:])
