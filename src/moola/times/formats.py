"""Times as texts: which forms are known, and reading them so that no day is ever moved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moola.errors import DataError

NAIVE = pa.timestamp("us")
UTC = pa.timestamp("us", tz="UTC")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTH_NAME = (
    "January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec"
)
_DAY_NAME = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_ZONE = r"(?:Z|UTC|GMT|(?:UTC|GMT)?[+-]\d\d(?::?\d\d)?)"
_SHORT = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y"}
# directive: name of its group, its digits where they are free, where digits follow at once
_FIELDS = {
    "Y": ("year", r"\d{4}", r"\d{4}"),
    "y": ("short_year", r"\d\d", r"\d\d"),
    "m": ("month", r"\d{1,2}", r"\d\d"),
    "d": ("day", r"\d{1,2}", r"\d\d"),
    "e": ("day", r" ?\d{1,2}", r"\d\d"),
    "H": ("hour", r"\d{1,2}", r"\d\d"),
    "I": ("hour12", r"\d{1,2}", r"\d\d"),
    "M": ("minute", r"\d{1,2}", r"\d\d"),
    "S": ("second", r"\d{1,2}", r"\d\d"),
    "f": ("fraction", r"\d{1,9}", r"\d{1,9}"),
    "p": ("half", r"[AaPp]\.?[Mm]\.?", r"[AaPp][Mm]"),
    "b": ("month_name", rf"(?i:{_MONTH_NAME})", rf"(?i:{_MONTH_NAME})"),
    "a": ("weekday", rf"(?i:{_DAY_NAME})", rf"(?i:{_DAY_NAME})"),
    "z": ("zone", _ZONE, _ZONE),
}
_SAME = {"B": "b", "h": "b", "A": "a"}
_ISO = re.compile(r"^\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?(Z| ?[+-]\d\d(:?\d\d)?)?$")
_KNOWN_DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%Y%m%d", "%d %b %Y", "%d-%b-%Y", "%d/%b/%Y",
    "%d%b%Y", "%b %d, %Y", "%b %d %Y", "%Y-%b-%d", "%Y %b %d",
)  # fmt: skip
_KNOWN_CLOCKS = (
    "%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M:%S%p", "%I:%M %p", "%I:%M%p", "%I-%p", "%I %p",
    "%I%p",
)  # fmt: skip
_COMPACT = ("%Y%m%d %H%M%S", "%Y%m%d %H%M", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M", "%Y%m%d-%H%M%S")


@dataclass(frozen=True, kw_only=True)
class TextForm:
    """One form of text: how it is written, and the pattern that reads it."""

    written: str
    pattern: str
    fields: tuple[str, ...]

    @property
    def words(self) -> str | None:
        """Words that every text holds beside the directives, such as ``EST``; None: none."""
        parts = re.findall(r"[A-Za-z][A-Za-z/_]+|Z$", re.sub(r"%[A-Za-z%]", " ", self.written))
        return parts[-1] if parts else None

    @property
    def states_zone(self) -> bool:
        """Whether every text names its offset from UTC."""
        return "zone" in self.fields

    def read(self, text: pa.Array) -> pa.Array:
        """Return times, with a zone where the texts state one; a null stays null.

        Raises DataError naming the first text that has another form or names a time that does not
        exist.
        """
        parts = pc.extract_regex(text, self.pattern)
        strange = np.asarray(pc.and_(pc.is_valid(text), pc.is_null(parts)))
        if strange.any():
            raise DataError(
                f"time {text[int(np.argmax(strange))].as_py()!r} is not written as the column's "
                f"first, {self.written}"
            )
        there = np.asarray(text.is_valid())
        rows = parts.filter(pa.array(there))
        columns = {f: pc.struct_field(rows, f) for f in self.fields}
        micros, faulty = _moment(columns, len(rows))
        if faulty.any():
            bad = text.filter(pa.array(there))[int(np.argmax(faulty))].as_py()
            raise DataError(f"time {bad!r} does not exist", limit="a day and hour of the calendar")
        out = np.zeros(len(text), dtype=np.int64)
        out[there] = micros
        return pa.array(out, NAIVE, mask=~there).cast(UTC if self.states_zone else NAIVE)


@dataclass(frozen=True, kw_only=True)
class IsoForm:
    """ISO 8601, read by Arrow's own parser, which refuses what does not exist."""

    states_zone: bool

    @property
    def written(self) -> str:
        """The form in words."""
        return "ISO 8601 with its offset" if self.states_zone else "ISO 8601"

    def read(self, text: pa.Array) -> pa.Array:
        """Return times; raises DataError naming the first text that cannot be read."""
        whole = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
        if self.states_zone:
            whole = pc.replace_substring_regex(whole, r" ([+-]\d\d(:?\d\d)?)$", r"\1")
        try:
            return whole.cast(UTC if self.states_zone else NAIVE)
        except pa.ArrowInvalid:
            bad = next(v.as_py() for v in text if v.is_valid and not self._reads(v.as_py()))
            raise DataError(
                f"time {bad!r} does not exist or is not written as the column's first, "
                f"{self.written}"
            ) from None

    def _reads(self, value: str) -> bool:
        match = _ISO.match(value)
        if match is None or (match.group(5) is not None) != self.states_zone:
            return False
        try:
            self_contained = re.sub(r"(\.\d{6})\d+", r"\1", value.replace(" +", "+"))
            pa.array([re.sub(r" (-\d\d(:?\d\d)?)$", r"\1", self_contained)]).cast(
                UTC if self.states_zone else NAIVE
            )
        except pa.ArrowInvalid:
            return False
        return True


Form = TextForm | IsoForm


def form_of_format(pattern: str) -> TextForm:
    """Return the form that a user's ``--time-format`` describes.

    Raises DataError for a directive that is not honoured and for a format that names no whole date.
    """
    form = _compile(pattern)
    date = {"year", "short_year"} & set(form.fields), {"month", "month_name"} & set(form.fields)
    if not all(date) or "day" not in form.fields:
        raise DataError(
            f"time format {pattern!r} names no whole date",
            limit="year, month and day: %Y, %m and %d",
            remedy="Join the columns of date and time with --time-column date,time",
        )
    if "hour12" in form.fields and "half" not in form.fields:
        raise DataError(f"time format {pattern!r} has %I without %p", remedy="Write %H, or add %p")
    return form


def form_of_sample(sample: str) -> Form:
    """Return the form that a column's first text has; raises DataError if it has no known one."""
    if match := _ISO.match(sample):
        return IsoForm(states_zone=match.group(5) is not None)
    for form in _known_forms():
        if re.match(form.pattern, sample):
            return form
    raise DataError(
        f"time {sample!r} is in no form that is known",
        limit="an epoch, ISO 8601, or day and month where they cannot be confused",
        remedy=_suggestion(sample),
    )


def _suggestion(sample: str) -> str:
    """Return a remedy that can be typed, made of the sample's own shape."""
    match = re.match(r"^(\d{1,2})([/.-])(\d{1,2})([/.-])(\d{4}|\d\d)(.*)$", sample)
    if match is None:
        return "Say how with --time-format, for example '%m/%d/%Y %H:%M'"
    year = "%Y" if len(match.group(5)) == 4 else "%y"
    rest = match.group(6)
    for pattern, clock in (
        (r"\d\d:\d\d:\d\d\.\d+", "%H:%M:%S.%f"), (r"\d{1,2}:\d\d:\d\d", "%H:%M:%S"),
        (r"\d{1,2}:\d\d", "%H:%M"),
    ):  # fmt: skip
        if re.search(pattern, rest):
            rest = re.sub(pattern, clock, rest, count=1)
            break
    if re.search(r"[AP]M\b", rest):
        rest = re.sub(r"[AP]M\b", "%p", rest.replace("%H", "%I"), count=1)
    if zone := re.search(r" ([A-Z]{3,4})$", rest):
        rest = rest[: zone.start()] + f" {zone.group(1)}"
    two = match.group(2), match.group(4)
    forms = [f"'{a}{two[0]}{b}{two[1]}{year}{rest}'" for a, b in (("%m", "%d"), ("%d", "%m"))]
    return f"Say how with --time-format {forms[0]} or {forms[1]}"


def _known_forms() -> list[TextForm]:
    if not _KNOWN:
        for date in _KNOWN_DATES:
            patterns = [date, *(f"{date}{sep}{c}" for c in _KNOWN_CLOCKS for sep in (" ", "T"))]
            _KNOWN.extend(_with_zone(patterns))
        _KNOWN.extend(_with_zone(list(_COMPACT)))
    return _KNOWN


_KNOWN: list[TextForm] = []


def _with_zone(patterns: list[str]) -> list[TextForm]:
    zones = ("", "%z", " %z")
    return [_compile(w + z, fraction=True) for w in patterns for z in zones if "%H" in w or not z]


def _compile(text: str, *, fraction: bool = False) -> TextForm:
    """Turn directives into a pattern; with `fraction`, seconds may have decimals."""
    whole = text
    for short, long in _SHORT.items():
        whole = whole.replace(short, long)
    tokens = re.findall(r"%[A-Za-z%]|%|\s+|[^%\s]", whole)
    pattern, fields = "", []
    for k, token in enumerate(tokens):
        if token == "%%":
            pattern += "%"
        elif token.isspace():
            pattern += r"\s+"
        elif not token.startswith("%"):
            pattern += re.escape(token)
        else:
            letter = _SAME.get(token[1:], token[1:])
            if letter not in _FIELDS:
                raise _unknown_directive(text, token)
            name, free, fixed = _FIELDS[letter]
            if name in fields:
                raise DataError(f"time format {text!r} names the {name} twice")
            fields.append(name)
            tight = _is_digits(tokens, k - 1) or _is_digits(tokens, k + 1)
            pattern += f"(?P<{name}>{fixed if tight else free})"
            if letter == "S" and fraction:
                fields.append("fraction")
                pattern += r"(?:[.,](?P<fraction>\d{1,9}))?"
    return TextForm(written=text, pattern=f"^{pattern}$", fields=tuple(fields))


def _is_digits(tokens: list[str], k: int) -> bool:
    return 0 <= k < len(tokens) and tokens[k][:1] == "%" and tokens[k][1:] in "YymdHIMSf"


def _unknown_directive(pattern: str, token: str) -> DataError:
    if token == "%Z":
        return DataError(
            f"time format {pattern!r} has %Z: the name of a zone cannot be read row by row",
            limit="%z, an offset such as -0500",
            remedy="Write the zone's name as it is in the file in the place of %Z, and give "
            "--timezone",
        )
    directives = " ".join(f"%{d}" for d in [*_FIELDS, *_SAME, *(s[1:] for s in _SHORT)])
    remedy = "Say the unit with --epoch-unit" if token == "%s" else None
    return DataError(
        f"time format {pattern!r} has {token}",
        limit=f"directives among {directives}",
        remedy=remedy,
    )


def _moment(columns: dict[str, Any], n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return microseconds since 1970 in UTC (or of the local clock), and which do not exist."""

    def number(name: str, default: int) -> NDArray[np.int64]:
        if name not in columns:
            return np.full(n, default, dtype=np.int64)
        text = pc.utf8_trim_whitespace(columns[name])
        return np.asarray(text.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)

    year = number("year", 0)
    if "short_year" in columns:
        short = number("short_year", 0)
        year = np.where(short < 69, 2000, 1900) + short
    month = number("month", 1)
    if "month_name" in columns:
        month = _index_of(columns["month_name"], _MONTHS) + 1
    day, hour = number("day", 1), number("hour", 0)
    minute, second = number("minute", 0), number("second", 0)
    faulty = (month < 1) | (month > 12) | (day < 1) | (hour > 23) | (minute > 59) | (second > 59)
    if "hour12" in columns:
        hour12 = number("hour12", 12)
        faulty |= (hour12 < 1) | (hour12 > 12)
        late = np.asarray(
            pc.equal(pc.utf8_lower(pc.utf8_slice_codeunits(columns["half"], 0, 1)), "p")
        )
        hour = hour12 % 12 + 12 * late
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1).astype("timedelta64[D]")
    faulty |= days.astype("datetime64[M]") != months
    if "weekday" in columns:
        faulty |= (days.astype(np.int64) + 3) % 7 != _index_of(columns["weekday"], _DAYS)
    micros = ((days.astype(np.int64) * 24 + hour) * 60 + minute) * 60 + second
    micros = micros * 1_000_000 + _fraction(columns, n)
    offset, impossible = _offset(columns, n)
    return micros - offset, faulty | impossible


def _index_of(names: pa.Array, allowed: tuple[str, ...]) -> NDArray[np.int64]:
    short = pc.utf8_slice_codeunits(pc.utf8_lower(names), 0, 3)
    return np.asarray(pc.index_in(short, pa.array(allowed)).cast(pa.int64()))


def _fraction(columns: dict[str, Any], n: int) -> NDArray[np.int64]:
    """Return a fraction of a second in microseconds; what is finer is cut off."""
    if "fraction" not in columns:
        return np.zeros(n, dtype=np.int64)
    digits = pc.utf8_rpad(pc.fill_null(columns["fraction"], "0"), 9, "0")
    digits = pc.if_else(pc.equal(pc.utf8_length(digits), 9), digits, "000000000")
    return np.asarray(pc.utf8_slice_codeunits(digits, 0, 6).cast(pa.int64()))


def _offset(columns: dict[str, Any], n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each text's offset from UTC in microseconds, and which cannot be."""
    if "zone" not in columns:
        return np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    zone = pc.replace_substring_regex(columns["zone"], "^(?:Z|UTC|GMT)", "")
    zone = pc.if_else(pc.equal(zone, ""), "+0000", pc.replace_substring(zone, ":", ""))
    zone = pc.utf8_rpad(zone, 5, "0")
    hours = np.asarray(pc.utf8_slice_codeunits(zone, 1, 3).cast(pa.int64()))
    minutes = np.asarray(pc.utf8_slice_codeunits(zone, 3, 5).cast(pa.int64()))
    sign = np.where(np.asarray(pc.starts_with(zone, "-")), -1, 1)
    return sign * (hours * 60 + minutes) * 60_000_000, (hours > 15) | (minutes > 59)
