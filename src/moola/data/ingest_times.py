"""Times as the usual sources spell them, turned into UTC."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moola.errors import DataError, one_line

UTC = pa.timestamp("us", tz="UTC")
_NAIVE = pa.timestamp("us")
_ISO = re.compile(r"^\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?(Z| ?[+-]\d\d:?\d\d)?$")
_FORMATS = (
    # sample, strptime format, whether a fraction is cut off first
    (re.compile(r"^\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d(\.\d+)?$"), "%d.%m.%Y %H:%M:%S"),
    (re.compile(r"^\d\d\.\d\d\.\d{4} \d\d:\d\d$"), "%d.%m.%Y %H:%M"),
    (re.compile(r"^\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d(\.\d+)?$"), "%Y.%m.%d %H:%M:%S"),
    (re.compile(r"^\d{4}\.\d\d\.\d\d \d\d:\d\d$"), "%Y.%m.%d %H:%M"),
    (re.compile(r"^\d{4}\.\d\d\.\d\d$"), "%Y.%m.%d"),
    (re.compile(r"^\d{4}-\d\d-\d\d \d\d-[AP]M$"), "%Y-%m-%d %I-%p"),
    (re.compile(r"^\d{8} \d{6}$"), "%Y%m%d %H%M%S"),
)
_GMT = re.compile(r"^(.*) GMT([+-])(\d\d)(\d\d)$")
_EPOCH_UNITS = ((10**11, 1_000_000), (10**14, 1_000), (10**17, 1))  # s, ms, us; above: ns
_FIRST_YEAR, _LAST_YEAR = np.datetime64("1678"), np.datetime64("2261")


def to_utc(values: pa.Array, *, zone: str = "UTC", time_format: str | None = None) -> pa.Array:
    """Return times as ``timestamp[us, UTC]``; an empty value stays null.

    Parameters
    ----------
    values
        Timestamps, dates, epochs (seconds, milli-, micro- or nanoseconds, each value told by its
        size) or texts: ISO 8601 with or without a zone, ``01.01.2017 22:00:00.000`` (Dukascopy),
        ``2017.01.02 00:00`` (MetaTrader), ``2019-10-17 09-AM`` (CryptoDataDownload).
    zone
        Zone of times that name none.
    time_format
        A ``strptime`` format that overrides the guess.

    Returns
    -------
    pyarrow array
        Of type ``timestamp[us, UTC]``, as long as `values`.

    Raises
    ------
    DataError
        If a value is in no known form, does not exist or is ambiguous in `zone`, or lies before
        1678 or after 2261.
    """
    try:
        times = _localise(_parse(values, time_format), zone)
    except pa.ArrowException as error:
        raise DataError(
            f"a time cannot be read: {one_line(error)}",
            remedy="Say how with --time-format or --timezone",
        ) from None
    _refuse_far(times)
    return times


def _refuse_far(times: pa.Array) -> None:
    """Refuse years that nanoseconds cannot hold: such a time was taken in a wrong unit."""
    ends = pc.min_max(times.cast(pa.int64())).as_py()
    for end in ends.values():
        year = np.datetime64(end, "us").astype("datetime64[Y]") if end is not None else None
        if year is not None and not _FIRST_YEAR <= year <= _LAST_YEAR:
            raise DataError(
                f"a time lies in the year {year}",
                limit=f"a year from {_FIRST_YEAR} to {_LAST_YEAR}",
            )


def _parse(values: pa.Array, time_format: str | None) -> pa.Array:
    kind = values.type
    if pa.types.is_timestamp(kind):
        return values.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    if pa.types.is_date(kind):
        return values.cast(_NAIVE)
    if pa.types.is_integer(kind):
        return _from_epoch(values.cast(pa.int64()))
    if pa.types.is_floating(kind):
        return _from_float(values.cast(pa.float64()))
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    sample = next((v.as_py() for v in text if v.is_valid and v.as_py()), None)
    if sample is None:
        return pa.nulls(len(values), _NAIVE)
    if time_format is not None:
        return pc.strptime(text, format=time_format, unit="us")
    return _from_text(text, sample)


def _from_text(text: pa.Array, sample: str) -> pa.Array:
    if sample.isdigit() and len(sample) > 8:
        return _from_epoch(text.cast(pa.int64()))
    if sample.endswith(" UTC"):
        text, sample = pc.replace_substring_regex(text, " UTC$", "Z"), sample[:-4] + "Z"
    if match := _ISO.match(sample):
        whole = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
        whole = pc.replace_substring_regex(whole, r" ([+-]\d\d:?\d\d)$", r"\1")
        return whole.cast(UTC if match.group(5) else _NAIVE)
    if _GMT.match(sample):
        return _from_gmt_offset(text)
    for pattern, form in _FORMATS:
        if pattern.match(sample):
            whole = pc.replace_substring_regex(text, r"(:\d\d)\.\d+$", r"\1")
            return pc.strptime(whole, format=form, unit="us")
    raise DataError(
        f"time {sample!r} is in no form that is known",
        limit="an epoch, ISO 8601, or day and month where they cannot be confused",
        remedy="Say how with --time-format, for example '%m/%d/%Y %H:%M'",
    )


def _from_gmt_offset(text: pa.Array) -> pa.Array:
    """Read ``01.01.2017 23:00:00.000 GMT+0100``: local time with its own offset in every row."""
    parts = pc.extract_regex(text, r"^(?P<time>.*) GMT(?P<sign>[+-])(?P<h>\d\d)(?P<m>\d\d)$")
    local = pc.struct_field(parts, "time")
    sample = next(v.as_py() for v in local if v.is_valid)
    time = _from_text(local, sample).cast(pa.int64())
    hours, minutes = (pc.struct_field(parts, f).cast(pa.int64()) for f in ("h", "m"))
    offset = pc.add(pc.multiply(hours, 3_600_000_000), pc.multiply(minutes, 60_000_000))
    east = pc.equal(pc.struct_field(parts, "sign"), "+")
    shifted = pc.subtract(time, pc.if_else(east, offset, pc.negate(offset)))
    return shifted.cast(_NAIVE).cast(UTC)


def _from_float(number: pa.Array) -> pa.Array:
    """Return UTC times of epochs as pandas writes them beside a NaN; seconds keep a fraction."""
    number = pc.if_else(pc.is_finite(number), number, None)
    seconds = pc.less(pc.abs(number), _EPOCH_UNITS[0][0])
    micros = pc.multiply(pc.if_else(seconds, number, 0.0), 1e6)
    exact = pc.round(micros).cast(pa.int64()).cast(_NAIVE).cast(UTC)
    return pc.if_else(seconds, exact, _from_epoch(pc.round(number).cast(pa.int64())))


def _from_epoch(number: pa.Array) -> pa.Array:
    """Return UTC times of epochs; each value's size tells its unit."""
    micros = pc.divide(number, 1000)
    for limit, factor in reversed(_EPOCH_UNITS):
        micros = pc.if_else(pc.less(pc.abs(number), limit), pc.multiply(number, factor), micros)
    return micros.cast(_NAIVE).cast(UTC)


def _localise(time: pa.Array, zone: str) -> pa.Array:
    if time.type.tz is None:
        time = pc.assume_timezone(time, zone)
    return time.cast(UTC)
