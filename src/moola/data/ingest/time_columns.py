"""Of several columns of time, which one holds the opening time of each bar, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moola.errors import DataError
from moola.times import TimeReader

_OPENING = (
    "opentime", "timeopen", "start", "begin", "starttime", "timestart", "windowstart", "barstart",
    "periodstart", "timeperiodstart", "opendate", "startdate", "openedat", "candlebegintime",
)  # fmt: skip
_NEUTRAL = (
    "timestamp", "unix", "unixtimestamp", "unixtime", "epoch", "epochtime", "tsevent", "datetime",
    "bartime", "candletime", "time", "ts", "t", "dt", "date", "day", "tradingday",
)  # fmt: skip
_CLOSING = (
    "closetime", "timeclose", "end", "endtime", "timeend", "windowend", "barend", "periodend",
    "timeperiodend", "closedate", "enddate", "closedat", "candleendtime",
)  # fmt: skip
_INDEX = ("", "index", "indexlevel", "unnamed")
_CLOCK = re.compile(
    r"^\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[AP]M)?(Z|[+-]\d\d(:?\d\d)?)?$|^\d{4}(\d\d)?$"
)
Columns = Mapping[str, pa.Array]


@dataclass(frozen=True, kw_only=True)
class TimeOptions:
    """What the user says of the times: column, format, unit and zone; None: nothing."""

    column: tuple[str, ...] = ()
    time_format: str | None = None
    epoch_unit: str | None = None
    zone: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A column, or two, that may hold the opening times."""

    columns: tuple[str, ...]
    rank: int  # 0 opening, 1 neutral, 2 closing
    order: int
    states_zone: bool = False
    fault: DataError | None = None
    first: Any = None

    @property
    def words(self) -> str:
        return " and ".join(self.columns)


def choose_time(
    path: Path,
    mine: list[tuple[str, str]],
    sample: Columns,
    times: TimeOptions,
    mixed: tuple[str, ...],
) -> tuple[tuple[str, ...], str]:
    """Return the column, or the two, of the opening time, and why it is that one."""
    if times.column:
        absent = [c for c in times.column if c not in sample]
        if absent or len(times.column) > 2:
            raise DataError(
                f"--time-column is {','.join(times.column)!r}",
                limit=f"one or two of {', '.join(list(sample)[:20])}",
            )
        return times.column, "as --time-column says"
    candidates = [_tried(c, sample, times, mixed) for c in _candidates(mine, sample)]
    good = [c for c in candidates if c.fault is None]
    if not good:
        raise _no_time(path, mine, sample, candidates)
    good.sort(key=lambda c: (c.rank, not c.states_zone, c.order))
    best = good[0]
    if best.rank == 2:
        raise DataError(
            f"file {path} has no opening time, only the closing time {best.words}",
            limit="bars known by their opening time",
            remedy=f"If that is meant, take it with --time-column {','.join(best.columns)}",
        )
    others = [c for c in good[1:] if not set(c.columns) & set(best.columns)]
    _refuse_rival(path, best, others, times)
    reasons = []
    closing = [c.words for c in others if c.rank == 2]
    naive = [c.words for c in others if c.rank == best.rank and best.states_zone > c.states_zone]
    if best.rank == 0 and (later := [c.words for c in others if c.rank > 0]):
        reasons.append(f"the opening time, before {', '.join(later)}")
    elif closing:
        reasons.append(f"before the closing time {', '.join(closing)}")
    if naive:
        reasons.append(f"it states its zone, {', '.join(naive)} does not")
    return best.columns, "; ".join(reasons)


def _refuse_rival(
    path: Path, best: _Candidate, others: list[_Candidate], times: TimeOptions
) -> None:
    """Refuse two columns of one rank that say different times, and a naive one beside a zoned."""
    for other in others:
        rival = other.rank == best.rank and other.states_zone == best.states_zone
        if rival and other.first is not None and other.first != best.first:
            problem = f"the columns {best.words} and {other.words} hold different times"
        elif best.rank < other.rank < 2 and other.states_zone > best.states_zone:
            if times.zone is not None:
                continue
            problem = f"the opening time {best.words} names no zone and {other.words} does"
        else:
            continue
        raise DataError(
            f"file {path}: {problem} ({best.first} and {other.first} in the first row)",
            remedy=f"Choose one with --time-column {','.join(best.columns)} or "
            f"--time-column {','.join(other.columns)}",
        )


def _candidates(mine: list[tuple[str, str]], sample: Columns) -> list[_Candidate]:
    candidates: list[_Candidate] = []
    by_plain: dict[str, list[str]] = {}
    for plain, name in mine:
        by_plain.setdefault(plain, []).append(name)
    for rank, names in ((0, _OPENING), (1, _NEUTRAL), (2, _CLOSING)):
        for order, plain in enumerate(names):
            for name in by_plain.get(plain, []):
                candidates.append(_Candidate(columns=(name,), rank=rank, order=order))
    dates = [n for p in ("date", "day", "tradingday") for n in by_plain.get(p, [])]
    clocks = [n for p in ("time", "timeofday", "clock", "bartime") for n in by_plain.get(p, [])]
    clocks = [n for n in clocks if _is_clock(sample[n])]
    if dates and clocks:
        candidates = [c for c in candidates if c.columns[0] not in (dates[0], clocks[0])]
        candidates.append(_Candidate(columns=(dates[0], clocks[0]), rank=1, order=len(_NEUTRAL)))
    candidates += [
        _Candidate(columns=(name,), rank=1, order=len(_NEUTRAL) + 1)
        for plain in _INDEX
        for name in by_plain.get(plain, [])
        if not _is_numeric(sample[name])
    ]
    if not candidates:
        typed = [n for _, n in mine if n in sample and pa.types.is_timestamp(sample[n].type)]
        if len(typed) == 1:
            candidates.append(_Candidate(columns=(typed[0],), rank=1, order=0))
    return candidates


def _tried(
    candidate: _Candidate, sample: Columns, times: TimeOptions, mixed: tuple[str, ...]
) -> _Candidate:
    """Return the candidate with what a trial of its first rows says."""
    values = joined([sample[c] for c in candidate.columns])
    typed = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
    try:
        reader = TimeReader(
            zone="UTC" if times.time_format is not None else None,
            time_format=None if typed else times.time_format,
            epoch_unit=times.epoch_unit if _is_numeric(values) else None,
            mixed_units=mixed,
        )
        read = reader.read(values)
    except DataError as error:
        return replace(candidate, fault=error)
    first = next((v.as_py() for v in read if v.is_valid), None)
    return replace(candidate, states_zone=bool(reader.states_zone), first=first)


def _no_time(
    path: Path, mine: list[tuple[str, str]], sample: Columns, tried: list[_Candidate]
) -> DataError:
    if tried:
        best = min(tried, key=lambda c: (c.rank, c.order))
        assert best.fault is not None
        return DataError(
            f"file {path}, column {best.words}: {best.fault.problem}",
            limit=best.fault.limit,
            remedy=best.fault.remedy,
        )
    names = [n for _, n in mine]
    return DataError(
        f"file {path} has the columns {', '.join(names[:20])}; missing: a time",
        remedy=f"Say which holds the opening time with --time-column, for example "
        f"--time-column {next(iter(sample))}",
    )


def joined(parts: Sequence[pa.Array]) -> pa.Array:
    """Return a column of times, or date and time joined by a space."""
    if len(parts) == 1:
        return parts[0]
    texts = [pc.utf8_trim_whitespace(p.cast(pa.string())) for p in parts]
    return pc.binary_join_element_wise(*texts, " ")


def _is_clock(values: pa.Array) -> bool:
    """Whether a column holds hours of a day and no dates."""
    if pa.types.is_time(values.type):
        return True
    if not pa.types.is_string(values.type):
        return False
    texts = [v.as_py().strip() for v in values if v.is_valid and v.as_py().strip()]
    return bool(texts) and all(_CLOCK.match(t) for t in texts)


def _is_numeric(values: pa.Array) -> bool:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return True
    if not pa.types.is_string(kind):
        return False
    texts = [v.as_py().strip() for v in values if v.is_valid]
    return any(texts) and all(re.match(r"^[+-]?\d*\.?\d*(e[+-]?\d+)?$", t) for t in texts)
