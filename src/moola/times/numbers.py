"""Times as numbers: epochs, dates written as digits, and counts of days that are not guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moola.errors import DataError

_DAY = 86_400_000_000
# unit: microseconds of one, and where it counts from, in days after 1970-01-01
EPOCH_UNITS: dict[str, tuple[float, int]] = {
    "s": (1_000_000, 0),
    "ms": (1_000, 0),
    "us": (1, 0),
    "ns": (0.001, 0),
    "days": (_DAY, 0),
    "excel": (_DAY, -25_569),
    "matlab": (_DAY, -719_529),
}
_FIRST, _LAST = 31_536_000, 4_102_444_800  # 1971 to 2099 in seconds: no two units share a number
_BANDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DATE_DIGITS = {8: "YYYYMMDD", 10: "YYYYMMDDHH", 12: "YYYYMMDDHHMM", 14: "YYYYMMDDHHMMSS"}
_DATE_FORMAT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# Ten digits are seconds of 2027 and later as well, so only years that do not meet them are dates.
_DATE_YEARS = {8: (1800, 2200), 10: (1950, 2100), 12: (1800, 2200), 14: (1800, 2200)}
_SAY = "Say what they are: --epoch-unit s, ms, us or ns, or --time-format for dates"


def epoch_unit_names() -> str:
    """Return the names of the units in one line."""
    return ", ".join(EPOCH_UNITS)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Numbers since an epoch, in one unit for the whole column.

    Attributes
    ----------
    units
        Usually one. Two where the source is known to have changed its unit: then each value's size
        tells which of the two it is.
    stated
        Whether the user named the unit: then any year will do.
    """

    units: tuple[str, ...]
    stated: bool = False

    @property
    def written(self) -> str:
        """The reading in words."""
        return f"epoch in {' and '.join(self.units)}" + ", as --epoch-unit says" * self.stated

    def read(self, values: NDArray) -> NDArray[np.int64]:
        """Return microseconds since 1970, shape (n,); raises DataError for a value of no unit."""
        out = np.zeros(len(values), dtype=np.int64)
        remaining = np.ones(len(values), dtype=bool)
        for unit in self.units:
            mine = remaining if self.stated else remaining & _inside(values, unit)
            out[mine] = _micros(values[mine], unit)
            remaining &= ~mine
        if remaining.any():
            value = values[np.argmax(remaining)]
            raise DataError(
                f"time {_plain(value)} is no {self.written} like the column's first",
                limit="one unit in a column, and years from 1971 to 2099",
                remedy="Say which with --epoch-unit" if len(self.units) == 1 else None,
            )
        return out


@dataclass(frozen=True, kw_only=True)
class DateDigits:
    """Calendar dates written as one number of 8, 10, 12 or 14 digits."""

    width: int

    @property
    def written(self) -> str:
        """The reading in words."""
        return f"dates written {_DATE_DIGITS[self.width]}"

    def read(self, values: NDArray) -> NDArray[np.int64]:
        """Return microseconds of the local clock, shape (n,); raises DataError for no date."""
        micros, there = _as_dates(values)
        good = there & (_width(values) == self.width)
        if not good.all():
            value = values[int(np.argmin(good))]
            raise DataError(
                f"time {_plain(value)} is no date, though others of its column are {self.written}",
                limit="a day and hour of the calendar",
                remedy=f"Mend it, or say what the column is: --time-format "
                f"{_DATE_FORMAT[self.width]} or --epoch-unit",
            )
        return micros


Numbers = Epoch | DateDigits


def reading_of(values: NDArray, mixed: tuple[str, ...] = ()) -> Numbers:
    """Decide how a column of numbers is to be read, from its first values, all together.

    Parameters
    ----------
    values
        Finite numbers, shape (n,), at least one.
    mixed
        Units that the source is known to mix in one column.

    Raises
    ------
    DataError
        If they are no epoch of 1971 to 2099 and no dates, or more than one of it.
    """
    dates = _as_dates(values)[1]
    if dates.any():
        reading = DateDigits(width=int(_width(values[dates][:1])[0]))
        reading.read(values)
        return reading
    units = [u for u in _BANDS if _inside(values, u).any()]
    plausible = np.any([_inside(values, u) for u in units], axis=0) if units else np.zeros(1, bool)
    if units and plausible.all():
        if len(units) == 1:
            return Epoch(units=tuple(mixed) if units[0] in mixed else (units[0],))
        if set(units) <= set(mixed):
            return Epoch(units=tuple(mixed))
        firsts = [_plain(values[np.argmax(_inside(values, u))]) for u in units]
        raise DataError(
            f"the times {' and '.join(firsts)} of one column are {' and '.join(units)} by their "
            "size",
            limit="one unit in a column",
            remedy="Mend the file: write one unit",
        )
    raise _unknown(values, plausible if units else np.zeros(len(values), dtype=bool))


def _unknown(values: NDArray, plausible: NDArray[np.bool_]) -> DataError:
    value = values[int(np.argmin(plausible))]
    low, high = float(values.min()), float(values.max())
    counted = (np.diff(values) == 1).all() and values[0] in (0, 1)
    if counted and len(values) > 1:
        what, remedy = "row numbers", "Name the column of times with --time-column"
    elif low > 600_000 and high < 800_000:
        what = "a count of days, MATLAB's by its size"
        remedy = "Say so with --epoch-unit matlab"
    elif low > 2_400_000 and high < 2_500_000:
        what, remedy = "a count of days, Julian by its size", "Write the times as ISO 8601"
    elif low > 300 and high < 80_000:
        what = "a count of days"
        remedy = "Say since when with --epoch-unit days (1970) or excel"
    else:
        what, remedy = "no epoch of the years 1971 to 2099 and no date", _SAY
    return DataError(
        f"the numbers in the place of times are {what}, such as {_plain(value)}",
        limit="s, ms, us or ns since 1970, or dates of 8, 10, 12 or 14 digits",
        remedy=remedy,
    )


def _micros(values: NDArray, unit: str) -> NDArray[np.int64]:
    factor, since = EPOCH_UNITS[unit]
    if values.dtype.kind == "i" and unit == "ns":
        return np.asarray(values // 1000)
    with np.errstate(over="ignore"):
        rough = values.astype(np.float64) * factor + float(since) * _DAY
    if (np.abs(rough) > 9.2e18).any():
        value = values[int(np.argmax(np.abs(rough)))]
        raise DataError(
            f"time {_plain(value)} in {unit} lies in no year", limit="a year from 1678 to 2261"
        )
    if values.dtype.kind == "i" and factor >= 1:
        return np.asarray(values * np.int64(factor) + np.int64(since) * _DAY)
    if factor == _DAY:  # a fraction of a day is as fine as a millisecond, not finer
        return np.asarray(np.rint(rough / 1000).astype(np.int64) * 1000)
    return np.asarray(np.rint(rough).astype(np.int64))


def _inside(values: NDArray, unit: str) -> NDArray[np.bool_]:
    return np.asarray((values >= _FIRST * _BANDS[unit]) & (values < _LAST * _BANDS[unit]))


def _width(values: NDArray) -> NDArray[np.int64]:
    """Return the number of digits before the point, shape (n,); 0 for what is no whole number."""
    whole = (values > 0) & (values < 10**15) & (np.floor(values) == values)
    number = np.where(whole, values, 1).astype(np.int64)
    width = sum((number >= 10**k).astype(np.int64) for k in range(1, 15)) + 1
    return np.where(whole, width, 0)


def _as_dates(values: NDArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the local clock's microseconds of numbers that read as dates, and which do."""
    width = _width(values)
    micros = np.zeros(len(values), dtype=np.int64)
    there = np.zeros(len(values), dtype=bool)
    for digits, (first, last) in _DATE_YEARS.items():
        rows = np.flatnonzero(width == digits)
        if not len(rows):
            continue
        number = values[rows].astype(np.int64)
        hms = np.zeros_like(number)
        for _ in range((14 - digits) // 2):
            number *= 100
        date, hms = number // 1_000_000, number % 1_000_000
        year, month, day = date // 10_000, date // 100 % 100, date % 100
        hour, minute, second = hms // 10_000, hms // 100 % 100, hms % 100
        fit = (year >= first) & (year < last) & (month >= 1) & (month <= 12) & (day >= 1)
        fit &= (hour < 24) & (minute < 60) & (second < 60)
        months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
        days = months.astype("datetime64[D]") + (day - 1).astype("timedelta64[D]")
        fit &= days.astype("datetime64[M]") == months
        seconds = days.astype(np.int64) * 86_400 + hour * 3600 + minute * 60 + second
        micros[rows], there[rows] = seconds * 1_000_000, fit
    return micros, there


def _plain(value: object) -> str:
    number = float(value)  # type: ignore[arg-type]
    return str(int(number)) if number == int(number) else repr(number)
