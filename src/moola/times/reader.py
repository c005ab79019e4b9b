"""The reader: decides once how a column of times is to be read, and keeps to it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moola.errors import DataError, one_line
from moola.times.formats import NAIVE, UTC, Form, form_of_format, form_of_sample
from moola.times.numbers import EPOCH_UNITS, Epoch, Numbers, epoch_unit_names, reading_of

_FIRST_YEAR, _LAST_YEAR = np.datetime64("1678"), np.datetime64("2261")
_NUMBER = re.compile(r"^[+-]?\d+(\.\d*)?$")
_WHOLE = re.compile(r"^[+-]?\d+(\.0*)?$")
_UTC_NAMES = ("UTC", "GMT", "Etc/UTC", "Z")


class TimeReader:
    """Reads one column of times, chunk by chunk, in the way its first values decide.

    Parameters
    ----------
    zone
        Zone that the user gives to times that name none; None: none was given.
    time_format
        A ``strptime`` format; for texts, and for numbers that are dates.
    epoch_unit
        What numbers count, of `EPOCH_UNITS`.
    header_zone
        Zone that the file's header states; None: none.
    unnamed_zone
        Words of the header that speak of a zone without naming one that is known, such as
        ``Local time``: times without a zone are refused then until `zone` is given.
    mixed_units
        Units that the source is known to mix in one column.
    otherwise
        Zone of times that name none where nobody gave one; None refuses them.
    zone_option
        What the user calls `zone`, for messages.

    Raises
    ------
    DataError
        For a format or unit that is not known.
    """

    def __init__(
        self,
        *,
        zone: str | None = None,
        time_format: str | None = None,
        epoch_unit: str | None = None,
        header_zone: str | None = None,
        unnamed_zone: str | None = None,
        mixed_units: tuple[str, ...] = (),
        otherwise: str | None = "UTC",
        zone_option: str = "--timezone",
    ):
        if epoch_unit is not None and epoch_unit not in EPOCH_UNITS:
            raise DataError(f"epoch unit is {epoch_unit!r}", limit=f"one of {epoch_unit_names()}")
        if epoch_unit is not None and time_format is not None:
            raise DataError("--time-format and --epoch-unit are both given", limit="one of the two")
        self._zone, self._otherwise, self._zone_option = zone, otherwise, zone_option
        self._time_format = form_of_format(time_format) if time_format is not None else None
        words = self._time_format.words if self._time_format is not None else None
        if words is not None:  # 22:00 EST, read with %H:%M EST, is not UTC
            header_zone, unnamed_zone = ("UTC", None) if words in _UTC_NAMES else (None, words)
        self._header_zone, self._unnamed_zone = header_zone, unnamed_zone
        self._epoch_unit, self._mixed = epoch_unit, mixed_units
        self._reading: Form | Numbers | str | None = None
        self.states_zone: bool | None = None

    @property
    def written(self) -> str:
        """How the times are written, in words; ``empty`` before the first of them."""
        if self._reading is None:
            return "empty"
        return self._reading if isinstance(self._reading, str) else self._reading.written

    @property
    def is_epoch(self) -> bool:
        """Whether the times are numbers since an epoch whose unit nobody named."""
        return isinstance(self._reading, Epoch) and not self._reading.stated

    @property
    def stated_epoch(self) -> bool:
        """Whether the times are numbers whose unit the user named."""
        return isinstance(self._reading, Epoch) and self._reading.stated

    @property
    def epoch_units(self) -> tuple[str, ...]:
        """Units of an epoch that were told by their size; empty for times of another kind."""
        return self._reading.units if self.is_epoch else ()  # type: ignore[union-attr]

    @property
    def is_digits(self) -> bool:
        """Whether the times are numbers that nobody explained."""
        return self.is_epoch or (
            not isinstance(self._reading, str | None)
            and self._reading.written.startswith("dates written")
        )

    @property
    def zone(self) -> str | None:
        """Zone that was given to times that name none; None where they state their own."""
        if self.states_zone is not False:
            return None
        return self._zone or self._header_zone or self._otherwise

    @property
    def zone_words(self) -> str:
        """Where the zone comes from, in words."""
        if self.states_zone is not False:
            return "stated in the file"
        if self._zone is not None:
            return f"{self._zone}, as --timezone says"
        if self._header_zone is not None:
            return f"{self._header_zone}, as the header says"
        return f"taken as {self._otherwise}: the file names no zone"

    def read(self, values: pa.Array) -> pa.Array:
        """Return times as ``timestamp[us, UTC]``; an empty value stays null.

        Raises DataError if a value is in no known form or another than the column's first, does
        not exist or is ambiguous in its zone, or lies before 1678 or after 2261.
        """
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        try:
            times = self._localise(self._read(values))
        except pa.ArrowException as error:
            raise DataError(
                f"a time cannot be read: {one_line(error)}",
                remedy="Say how with --time-format or --timezone",
            ) from None
        _refuse_far(times)
        return times

    def _read(self, values: pa.Array) -> pa.Array:
        kind = values.type
        if pa.types.is_null(kind):
            return pa.nulls(len(values), NAIVE)
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return self._read_typed(values)
        if pa.types.is_integer(kind):
            return self._read_numbers(values.cast(pa.int64()))
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return self._read_numbers(values.cast(pa.float64()))
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"times have the type {kind}", limit="times, texts or numbers")
        text = pc.utf8_trim_whitespace(values.cast(pa.string()))
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        sample = next((v.as_py() for v in text.drop_null()[:1]), None)
        if sample is None:
            return pa.nulls(len(values), NAIVE)
        if self._time_format is not None:
            return self._read_text(text, self._time_format)
        numbers = isinstance(self._reading, Numbers) or self._epoch_unit is not None
        if numbers or (self._reading is None and _NUMBER.match(sample)):
            return self._read_numbers(_numbers_of(text))
        form = form_of_sample(sample) if self._reading is None else self._reading
        return self._read_text(text, form)  # type: ignore[arg-type]

    def _read_typed(self, values: pa.Array) -> pa.Array:
        self._refuse_option("are stored as times")
        self._reading = "stored as times"
        if pa.types.is_date(values.type):
            self._decide_zone(states=False)
            return values.cast(NAIVE)
        self._decide_zone(states=values.type.tz is not None, utc=values.type.tz in _UTC_NAMES)
        return values.cast(pa.timestamp("us", tz=values.type.tz), safe=False)

    def _read_text(self, text: pa.Array, form: Form) -> pa.Array:
        if self._epoch_unit is not None:
            self._refuse_option("are texts")
        self._reading = form
        sample = next((v.as_py() for v in text.drop_null()[:1]), "")
        utc = bool(re.search(r"(Z|UTC|GMT|[+-]00(:?00)?)$", sample))
        self._decide_zone(states=form.states_zone, utc=utc)
        return form.read(text)

    def _read_numbers(self, values: pa.Array) -> pa.Array:
        if self._time_format is not None:
            whole = pc.if_else(pc.is_finite(values), values, None) if _is_float(values) else values
            return self._read_text(whole.cast(pa.int64()).cast(pa.string()), self._time_format)
        array = np.asarray(values.to_numpy(zero_copy_only=False))
        there = np.asarray(values.is_valid())
        if array.dtype.kind == "f":
            there &= np.isfinite(array)
        elif values.null_count:
            array = np.asarray(values.fill_null(0).to_numpy(zero_copy_only=False))
        numbers = array[there]
        micros = np.zeros(len(array), dtype=np.int64)
        if len(numbers):
            if self._reading is None:
                self._reading = self._reading_of(numbers)
            assert isinstance(self._reading, Numbers)
            self._decide_zone(states=isinstance(self._reading, Epoch), utc=True)
            micros[there] = self._reading.read(numbers)
        naive = pa.array(micros, NAIVE, mask=~there)
        return naive.cast(UTC) if isinstance(self._reading, Epoch) else naive

    def _reading_of(self, numbers: NDArray) -> Numbers:
        if self._epoch_unit is not None:
            return Epoch(units=(self._epoch_unit,), stated=True)
        return reading_of(numbers, self._mixed)

    def _refuse_option(self, what: str) -> None:
        options = {"--time-format": self._time_format, "--epoch-unit": self._epoch_unit}
        for option, value in options.items():
            if value is not None:
                raise DataError(
                    f"{option} is given, but the times {what}", remedy=f"Leave {option} out"
                )

    def _decide_zone(self, *, states: bool, utc: bool = False) -> None:
        if self.states_zone is not None:
            return
        self.states_zone = states
        if states and self._zone is not None and not (utc and self._zone in _UTC_NAMES):
            raise DataError(
                f"{self._zone_option} {self._zone} is given, but the times state their zone",
                remedy=f"Leave {self._zone_option} out",
            )
        if states:
            return
        clash = self._header_zone and self._zone not in (None, self._header_zone)
        if clash and not (self._zone in _UTC_NAMES and self._header_zone in _UTC_NAMES):
            raise DataError(
                f"{self._zone_option} {self._zone} is given, but the header says "
                f"{self._header_zone}",
                remedy=f"Leave {self._zone_option} out",
            )
        if self._zone is None and self._header_zone is None:
            if self._unnamed_zone is not None:
                raise DataError(
                    f"the times name no zone, and the file says {self._unnamed_zone!r}",
                    remedy=f"Say which zone that is, for example {self._said('Europe/Berlin')}",
                )
            if self._otherwise is None:
                raise DataError(
                    "the times name no zone",
                    remedy=f"Write them with Z or an offset, or say {self._said('UTC')}",
                )

    def _said(self, zone: str) -> str:
        """Return a zone as the user says it: an option of a command, or a field of a recipe."""
        return f"{self._zone_option}{'' if self._zone_option.startswith('--') else ':'} {zone}"

    def _localise(self, times: pa.Array) -> pa.Array:
        if times.type.tz is None:
            times = pc.assume_timezone(times, self.zone or "UTC")
        return times.cast(UTC)


def read_times(values: pa.Array, **options: Any) -> pa.Array:
    """Return a whole column of times as ``timestamp[us, UTC]`` (see `TimeReader`)."""
    return TimeReader(**options).read(values)


def read_time(value: str, *, zone: str = "UTC") -> datetime:
    """Return one time as an aware UTC datetime; one without a zone is in `zone`.

    Raises DataError if it is in no form that is known, or does not exist.
    """
    time = read_times(pa.array([value]), otherwise=zone)[0]
    if not time.is_valid:
        raise DataError(f"time {value!r} is empty")
    moment: datetime = time.as_py()
    return moment


def _is_float(values: pa.Array) -> bool:
    return bool(pa.types.is_floating(values.type))


def _numbers_of(text: pa.Array) -> pa.Array:
    """Return texts as numbers: whole ones exactly, others as float64."""
    plain = pc.match_substring_regex(text, _NUMBER.pattern)
    strange = np.asarray(pc.invert(plain.fill_null(True)))
    if strange.any():
        raise DataError(
            f"time {text[int(np.argmax(strange))].as_py()!r} is no number, though the column's "
            "first is",
            limit="one form in a column",
        )
    if np.asarray(pc.match_substring_regex(text, _WHOLE.pattern).fill_null(True)).all():
        return pc.replace_substring_regex(text, r"\.0*$", "").cast(pa.int64())
    return text.cast(pa.float64())


def _refuse_far(times: pa.Array) -> None:
    """Refuse years that nanoseconds cannot hold: such a time was taken in a wrong unit."""
    for end in pc.min_max(times.cast(pa.int64())).as_py().values():
        year = np.datetime64(end, "us").astype("datetime64[Y]") if end is not None else None
        if year is not None and not _FIRST_YEAR <= year <= _LAST_YEAR:
            raise DataError(
                f"a time lies in the year {year}",
                limit=f"a year from {_FIRST_YEAR} to {_LAST_YEAR}",
            )
