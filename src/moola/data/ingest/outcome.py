"""The outcome of an ingest in five lines, and what of it is too absurd to be stored unasked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moola.data.bars import PRICE_COLUMNS, is_step
from moola.data.ingest.quality_scan import chunks
from moola.data.ingest.rows import Tally
from moola.data.repeats import Tick
from moola.errors import DataError
from moola.times import TimeReader

_YEAR_DAYS = 366
_SHOWN_YEARS = 12
_LATEST = 1000  # bars whose grid the last one is compared with


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a file became.

    Attributes
    ----------
    first, last
        Opening time of the first and the last bar, UTC.
    num_bars
        How many there are.
    steps
        Distances of two bars in microseconds and how often each occurs, ascending.
    usual
        The median distance in microseconds, one that does occur; 0 of a single bar.
    widest
        The longest distance, and the bar before it.
    lowest, highest
        Lowest low and highest high.
    tick
        The largest number of which all prices are multiples, None where they are no decimals.
    years
        Bars of each year.
    last_off_grid
        Whether only the last bar opens off the grid of the others.
    """

    first: np.datetime64
    last: np.datetime64
    num_bars: int
    steps: dict[int, int]
    usual: int
    widest: tuple[int, np.datetime64]
    lowest: float
    highest: float
    tick: float | None
    years: dict[int, int]
    last_off_grid: bool

    @property
    def num_usual(self) -> int:
        """Steps that are the usual one, but for a hundredth of it."""
        return sum(n for s, n in self.steps.items() if is_step(s, self.usual))


def outcome_of(path: Path) -> Outcome:
    """Look once over a bar file in Moola's own form, a batch at a time."""
    steps: dict[int, int] = {}
    years: dict[int, int] = {}
    latest = np.empty(0, dtype="datetime64[us]")
    tick = Tick()
    no_time = np.datetime64("NaT", "us")
    first, last, num = no_time, no_time, 0
    lowest, highest, widest = np.inf, -np.inf, (0, no_time)
    for row, time, prices in chunks(path, *PRICE_COLUMNS):
        new = slice(1, None) if num else slice(None)
        first = time[0] if not num else first
        last, num = time[-1], row + len(time)
        lowest = min(lowest, float(prices[:, 2].min()))
        highest = max(highest, float(prices[:, 1].max()))
        tick.add(prices[new])
        gaps = np.diff(time).astype(np.int64)
        _count(steps, gaps)
        _count(years, time[new].astype("datetime64[Y]").astype(np.int64) + 1970)
        latest = np.concatenate([latest, time[new]])[-_LATEST:]
        if len(gaps) and gaps.max() > widest[0]:
            widest = int(gaps.max()), time[int(np.argmax(gaps))]
    usual = _lower_median(steps)
    return Outcome(
        first=first, last=last, num_bars=num, steps=dict(sorted(steps.items())), usual=usual,
        widest=widest, lowest=lowest, highest=highest, tick=tick.size, years=years,
        last_off_grid=_off_grid(latest, usual),
    )  # fmt: skip


def outcome_lines(
    outcome: Outcome, *, clock: TimeReader, columns: str, why: str, tally: Tally, comments: int = 0
) -> dict[str, str]:
    """Return the five lines that are printed and kept, by name.

    Parameters
    ----------
    outcome
        What the file became.
    clock
        The reader of its times.
    columns, why
        Columns of the times, and why they were chosen.
    tally
        What was met among the rows.
    comments
        Comment lines among the data.
    """
    source = f"column {columns}" + f" ({why})" * bool(why)
    return {
        "times": f"{_moment(outcome.first)} to {_moment(outcome.last)} UTC; {clock.zone_words}; "
        f"{source}: {clock.written}",
        "step": _step_line(outcome),
        "rows": _rows_line(outcome, tally, comments),
        "prices": f"{outcome.lowest:.10g} to {outcome.highest:.10g}, "
        + (
            f"tick {outcome.tick:.10g}"
            if outcome.tick
            else "no tick size: they are no short decimals"
        ),
        "years": _years_line(outcome.years),
    }


def refuse_absurd(
    outcome: Outcome,
    clock: TimeReader,
    accept: Collection[str],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Raise DataError for an outcome that only a wrong reading gives, unless it is accepted."""
    for name, problem, limit in _absurdities(outcome, clock, now()):
        if name not in accept:
            raise DataError(problem, limit=limit, remedy=f"If it is so, take --accept {name}")


def _absurdities(
    outcome: Outcome, clock: TimeReader, now: datetime
) -> Iterator[tuple[str, str, str]]:
    start, end = np.datetime64("1969-12-31"), np.datetime64("1971-01-01")
    if start <= outcome.first and outcome.last < end and not clock.stated_epoch:
        yield (
            "early",
            f"all bars lie in 1970 ({_moment(outcome.first)} to {_moment(outcome.last)}), as "
            "numbers taken in a wrong unit do",
            "bars of the years in which they were traded",
        )
    if 0 < outcome.usual < 1_000_000 and clock.is_digits:
        yield (
            "sub-second",
            f"the usual step between bars is {outcome.usual / 1e6:g} s, from times that are "
            f"{clock.written}",
            "1 s or more",
        )
    if sum(outcome.steps.values()) >= 3 and outcome.num_usual < 2:
        yield (
            "odd-steps",
            f"no two steps between bars agree; the median is {_duration(outcome.usual)}",
            "a step that other bars confirm",
        )
    if outcome.widest[0] > max(_YEAR_DAYS * 86_400_000_000, 20 * outcome.usual):
        yield (
            "hole",
            f"after {_moment(outcome.widest[1])} no bar follows for {_duration(outcome.widest[0])}",
            f"at most {_YEAR_DAYS} days without bars",
        )
    limit = np.datetime64(now.replace(tzinfo=None), "us") + np.timedelta64(2, "D")
    if outcome.last > limit:
        yield "future", f"the last bar opens at {_moment(outcome.last)}", f"a time before {limit}"
    if outcome.last_off_grid:
        yield (
            "partial",
            f"the last bar opens at {_moment(outcome.last)}, off the grid of all others: a bar "
            "that is not yet complete",
            f"a multiple of {_duration(outcome.usual)} after the others",
        )


def _count(tally: dict[int, int], values: NDArray[np.int64]) -> None:
    for value, count in zip(*np.unique(values, return_counts=True), strict=True):
        tally[int(value)] = tally.get(int(value), 0) + int(count)


def _lower_median(steps: dict[int, int]) -> int:
    total, below = sum(steps.values()), 0
    for step in sorted(steps):
        below += steps[step]
        if 2 * below >= total:
            return step
    return 0


def _off_grid(latest: NDArray[np.datetime64], usual: int) -> bool:
    """Whether the last bar alone does not open at a whole multiple of the step after the others."""
    if len(latest) < 20 or not usual or 3_600_000_000 % usual:
        return False
    phase = latest.astype("datetime64[us]").astype(np.int64) % usual
    return bool((phase[:-1] == phase[0]).all() and phase[-1] != phase[0])


def _step_line(outcome: Outcome) -> str:
    total = sum(outcome.steps.values())
    if not total:
        return "one bar, no step"
    share = outcome.num_usual / total
    text = f"{_duration(outcome.usual)}, {outcome.num_usual:,} of {total:,} steps ({share:.1%})"
    others = [s for s in outcome.steps if not is_step(s, outcome.usual)]
    if not others:
        return text
    return text + f"; others from {_duration(min(others))} to {_duration(max(others))}"


def _rows_line(outcome: Outcome, tally: Tally, comments: int) -> str:
    dropped = {"other instruments": tally.other_rows, **dict(sorted(tally.repaired.items()))}
    gone = [
        f"{n:,} {'by ' * (name in tally.repaired)}{name}"
        for name, n in dropped.items()
        if n and name not in ("sort", "widen")
    ]
    mended = [f"{n:,} mended by {k}" for k, n in tally.repaired.items() if k in ("sort", "widen")]
    if tally.volume_unread:
        mended.append(f"{tally.volume_unread:,} without volume, which could not be read")
    if comments:
        mended.append(f"{comments:,} comment lines passed over")
    text = f"{tally.rows:,} read, {outcome.num_bars:,} bars; left out: {', '.join(gone) or 'none'}"
    return "; ".join([text, *mended])


def _years_line(years: dict[int, int]) -> str:
    parts = [f"{year}: {count:,}" for year, count in sorted(years.items())]
    if len(parts) <= _SHOWN_YEARS:
        return ", ".join(parts)
    counts = sorted(years.values())
    return f"{parts[0]}, ..., {parts[-1]}; {len(parts)} years of {counts[0]:,} to {counts[-1]:,}"


def _moment(time: np.datetime64) -> str:
    text = str(time.astype("datetime64[us]")).replace("T", " ")
    return text.removesuffix(".000000").removesuffix(":00")


def _duration(micros: float) -> str:
    seconds = micros / 1e6
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.6g} {unit}"
    return f"{seconds:.6g} s"
