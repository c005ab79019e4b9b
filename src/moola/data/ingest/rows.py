"""Rows of any source as bars: times in UTC, prices as numbers, every fault noted or mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moola.data.bars import HIGHEST_PRICE, LOWEST_PRICE, PRICE_COLUMNS
from moola.data.ingest.columns import Format
from moola.data.ingest.csv_file import as_number
from moola.data.ingest.files import BarFile
from moola.data.ingest.options import IngestOptions
from moola.data.ingest.time_columns import joined
from moola.data.ingest.volume import as_volume
from moola.errors import DataError, one_line
from moola.times import TimeReader

_FIXED_POINT = 1e9
_UNDEFINED = 2**63 - 1  # Databento's price that is not there


@dataclass
class Tally:
    """What was met while reading: rows, faults with the first row of each, and repairs."""

    rows: int = 0
    other_rows: int = 0
    volume_unread: int = 0
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

    @property
    def num_repaired(self) -> int:
        """Rows that repairs mended or left out; sorting changes none."""
        return sum(n for name, n in self.repaired.items() if name != "sort")

    @property
    def repaired_share(self) -> float:
        """Share of the instrument's rows that repairs mended or left out."""
        return min(1.0, self.num_repaired / max(self.rows - self.other_rows, 1))


class RowReader:
    """Reads a file's rows as bars, batch by batch.

    Parameters
    ----------
    path
        For messages.
    file, form
        The file and which column is which.
    options
        How to read it.
    tally
        Gets what was met.

    Attributes
    ----------
    path, file, form, options, tally
        As given.
    clock
        The reader of the times; knows after the first batch how they are written.

    Raises
    ------
    DataError
        If an option names a column that the file does not have.
    """

    def __init__(
        self, path: Path, file: BarFile, form: Format, options: IngestOptions, tally: Tally
    ):
        self.path, self.file, self.form = path, file, form
        self.options, self.tally = options, tally
        self._seen: dict[str, set[str]] = {}
        self._where = dict(options.where)
        absent = [c for c in self._where if c not in file.names]
        if absent:
            raise DataError(
                f"--where names column {absent[0]!r}, and file {path} has none",
                limit=f"one of {', '.join(file.names[:20])}",
            )
        if options.symbol is not None and not any("|" in n or "', '" in n for n in form.prices):
            column = symbol_column(path, file, form, options.symbol)
            self._where[column] = options.symbol
        self.clock = TimeReader(
            zone=options.timezone,
            time_format=options.time_format,
            epoch_unit=options.epoch_unit,
            header_zone=form.header_zone,
            unnamed_zone=form.unnamed_zone,
            mixed_units=form.mixed_units,
        )

    def batches(self) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64]]]:
        """Yield checked batches of timestamp, prices and volume, with their numbers in the file.

        Raises DataError where a value cannot be read, or the instrument is not there or not named.
        """
        form, tally = self.form, self.tally
        used = list(dict.fromkeys([*form.used, *self._where]))
        texts = self.options.decimal is not None or self.options.thousands is not None
        numbers = [] if texts or form.fixed_point else list(form.prices)
        try:
            for batch in self.file.batches(used, numbers):
                rows = np.arange(tally.rows, tally.rows + len(batch))
                tally.rows += len(batch)
                mine = self._mine(batch)
                tally.other_rows += int((~mine).sum())
                if not mine.all():
                    batch, rows = batch.filter(pa.array(mine)), rows[mine]  # noqa: PLW2901
                if len(rows):
                    yield self._bars(batch, rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None
        self._refuse_absent()

    def _bars(
        self, batch: pa.RecordBatch, rows: NDArray[np.int64]
    ) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
        """Return the rows to keep as bars, and their numbers in the file."""
        form = self.form
        try:
            clock = self.clock.read(joined([batch[c] for c in form.time]))
        except DataError as error:
            raise DataError(
                f"file {self.path}, rows {rows[0]} to {rows[-1]}: {error.problem}",
                limit=error.limit,
                remedy=error.remedy or "Say how with --time-format or --timezone",
            ) from None
        self._check_unit()
        prices = np.column_stack([self._price(batch[p]) for p in form.prices])
        keep = _check(clock, prices, self.options, self.tally, rows)
        columns = {"timestamp": clock} | {
            p: pa.array(prices[:, k]) for k, p in enumerate(PRICE_COLUMNS)
        }
        if form.volume is not None:
            columns["volume"], unread = as_volume(
                batch[form.volume],
                decimal=self.options.decimal,
                thousands=self.options.thousands,
            )
            self.tally.volume_unread += unread
        return pa.RecordBatch.from_pydict(columns).filter(pa.array(keep)), rows[keep]

    def _check_unit(self) -> None:
        """Refuse an epoch whose size contradicts the unit that its column's name states."""
        units = self.clock.epoch_units
        if self.form.unit is not None and units and self.form.unit not in units:
            raise DataError(
                f"file {self.path}: column {self.form.time[0]} says {self.form.unit}, and its "
                f"numbers are {' and '.join(units)} by their size",
                remedy="Say which with --epoch-unit",
            )

    def _price(self, column: pa.Array) -> NDArray[np.float64]:
        if self.form.fixed_point:
            whole = column.cast(pa.int64()).fill_null(_UNDEFINED).to_numpy(zero_copy_only=False)
            # divided, not multiplied by 1e-9, which is no binary fraction: 1.08 stays 1.08
            return np.where(whole == _UNDEFINED, np.nan, whole / _FIXED_POINT)
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.string())  # exact, as the same digits in a CSV are
        if pa.types.is_string(column.type):
            try:
                column = as_number(
                    column,
                    decimal=self.options.decimal or ".",
                    thousands=self.options.thousands,
                )
            except DataError as error:
                raise self._unreadable(error) from None
        elif self.options.decimal is not None or self.options.thousands is not None:
            raise DataError(
                "--decimal or --thousands is given, but the prices are stored as numbers",
                remedy="Leave them out",
            )
        return np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False))

    def _mine(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return which rows are asked for; refuse where the rest are not of one instrument."""
        mine = np.ones(len(batch), dtype=bool)
        for column, value in self._where.items():
            texts = as_text(batch[column])
            self._note(column, texts)
            mine &= np.asarray(pc.equal(texts, value).fill_null(False))
        for column in self.form.constant:
            if column in self._where:
                continue
            values = as_text(batch[column])
            self._note(column, values if mine.all() else values.filter(pa.array(mine)))
            so_far = self._seen.get(column, set())
            if len(so_far) > 1:
                raise _several(self.path, column, so_far)
        return mine

    def _note(self, column: str, values: pa.Array) -> None:
        so_far = self._seen.setdefault(column, set())
        if len(so_far) < 1000:
            so_far.update(str(v) for v in pc.unique(values).to_pylist())

    def _refuse_absent(self) -> None:
        for column, value in self._where.items():
            values = self._seen.get(column, set())
            if value in values or not self.tally.rows:
                continue
            option = "--symbol" if value == self.options.symbol else f"--where {column}="
            raise DataError(
                f"file {self.path} holds no bars of {value!r}",
                limit=f"{option}{' ' * (option == '--symbol')}one of "
                f"{', '.join(sorted(values)[:20])}",
            )

    def _unreadable(self, error: Exception) -> DataError:
        problem = error.problem if isinstance(error, DataError) else one_line(error)
        return DataError(
            f"file {self.path} ({self.form.name}) cannot be read: {problem}",
            limit=f"numbers in {', '.join(self.form.prices)}",
            remedy="Numbers such as 1.234,50 need --decimal , and --thousands .",
        )


def _several(path: Path, column: str, values: set[str]) -> DataError:
    value = sorted(values)[0]
    quoted = f"'{column}={value}'" if " " in f"{column}{value}" else f"{column}={value}"
    return DataError(
        f"file {path} holds several instruments or kinds of bars, column {column}: "
        f"{', '.join(sorted(values)[:10])}",
        remedy=f"Choose one, for example --where {quoted}",
    )


def symbol_column(path: Path, file: BarFile, form: Format, symbol: str) -> str:
    """Return the column that holds the instrument asked for; raises DataError if none does."""
    first: dict[str, list[str]] = {}
    used = {*form.time, *form.prices, form.volume}
    others = [n for n in file.names if n not in used and file.names.count(n) == 1]
    for batch in file.batches(others, []) if others else ():
        for name in [*form.constant, *[n for n in others if n not in form.constant]]:
            if name not in batch.schema.names:
                continue
            values = as_text(batch[name])
            if np.asarray(pc.equal(values, symbol).fill_null(False)).any():
                return name
            first.setdefault(name, [str(v) for v in pc.unique(values).to_pylist()[:20]])
    constants = [v for n in form.constant for v in first.get(n, [])]
    if not form.constant:
        raise DataError(
            f"--symbol is {symbol!r}, but no column of file {path} holds it",
            limit=f"a value of {', '.join(others[:10]) or 'a column that tells instruments apart'}",
            remedy="Leave --symbol out",
        )
    raise DataError(
        f"file {path} holds no bars of {symbol!r}",
        limit=f"--symbol one of {', '.join(sorted(constants)[:20])}",
    )


def as_text(values: pa.Array) -> pa.Array:
    """Return values as texts, as the user types them."""
    kind = values.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return pa.array([None if not v.is_valid else str(v.as_py()) for v in values], pa.string())
    return pc.utf8_trim_whitespace(values.cast(pa.string()))


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
        beyond = ((prices < LOWEST_PRICE) | (prices > HIGHEST_PRICE)).any(axis=1) & ~missing
    tally.fault("beyond", beyond, rows)
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
