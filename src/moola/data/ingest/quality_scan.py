"""Passes over a bar file that find gaps, flat runs and jumps, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.data.bars import gap_limit, is_step

_BATCH_ROWS = 1 << 18
LISTED = 1000
_PLOTTED = 1500


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One stretch of bars worth knowing of.

    Attributes
    ----------
    row, time
        First bar, as a row of the file and in UTC.
    num_bars
        Bars it holds; of a gap, the bars that are missing.
    detail
        What is there, in words.
    size
        What the findings are ranked by: hours of a gap, MADs of a jump, bars of a run.
    """

    row: int
    time: str
    num_bars: int
    detail: str
    size: float


def chunks(path: Path, *columns: str) -> Iterator[tuple[int, NDArray[Any], NDArray[np.float64]]]:
    """Yield (first row, times, columns as float64), each batch led by the last bar before it."""
    row, tail = 0, None
    names = ["timestamp", *columns]
    for batch in pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20).iter_batches(
        _BATCH_ROWS, columns=names
    ):
        time = batch["timestamp"].cast(pa.timestamp("us", tz="UTC")).to_numpy(zero_copy_only=False)
        values = np.column_stack(
            [batch[c].cast(pa.float64()).to_numpy(zero_copy_only=False) for c in columns]
            or [np.empty((len(time), 0))]
        )
        if tail is not None:
            time, values = np.r_[tail[0], time], np.vstack([tail[1], values])
        begin = row - (tail is not None)
        yield begin, time, values
        row, tail = begin + len(time), (time[-1:], values[-1:])


@dataclass(frozen=True, kw_only=True)
class TimeLine:
    """A bar file's times: how many, from when to when, and how far apart.

    Attributes
    ----------
    num_bars, first, last
        Of the file.
    usual
        The median distance of two bars in microseconds, 0 of a single bar.
    gap_limit
        Distance beyond which bars are missing, infinite for bars that do not come by the clock.
    """

    num_bars: int
    first: np.datetime64
    last: np.datetime64
    usual: float
    gap_limit: float


def time_line(path: Path) -> TimeLine:
    """Look at a bar file's times, a batch at a time."""
    tally: dict[int, int] = {}
    no_time = np.datetime64("NaT", "us")
    num, first, last = 0, no_time, no_time
    for row, time, _ in chunks(path):
        first = time[0] if row == 0 and num == 0 else first
        last, num = time[-1], row + len(time)
        for step, count in zip(
            *np.unique(np.diff(time).astype(np.int64), return_counts=True), strict=True
        ):
            tally[int(step)] = tally.get(int(step), 0) + int(count)
    usual = _median(tally)
    near = sum(n for step, n in tally.items() if is_step(step, usual))
    limit = gap_limit(usual, near, sum(tally.values()))
    return TimeLine(num_bars=num, first=first, last=last, usual=usual, gap_limit=limit)


def _median(tally: dict[int, int]) -> float:
    if not tally:
        return 0.0
    steps = np.array(sorted(tally))
    upto = np.cumsum([tally[int(s)] for s in steps])
    middle = [steps[np.searchsorted(upto, k + 1)] for k in ((upto[-1] - 1) // 2, upto[-1] // 2)]
    return float(np.mean(middle))


def find_gaps(path: Path, line: TimeLine) -> tuple[list[Finding], int]:
    """Return stretches without bars and their number."""
    findings: list[Finding] = []
    num = 0
    for row, time, _ in chunks(path):
        step = np.diff(time).astype(np.int64)
        for k in np.flatnonzero(step > line.gap_limit).tolist():
            num += 1
            hours = step[k] / 3.6e9
            findings.append(
                Finding(
                    row=row + k + 1,
                    time=str(time[k + 1]),
                    num_bars=round(step[k] / line.usual) - 1,
                    detail=f"{hours:g} hours after {time[k]}",
                    size=float(hours),
                )
            )
        findings = list(largest(findings, 4 * LISTED))
    return findings, num


def find_flat_runs(path: Path) -> tuple[list[Finding], int, int]:
    """Return runs of flat bars, the number of runs of 2 or more, and of flat bars."""
    findings: list[Finding] = []
    num_runs = num_flat = 0
    begin: tuple[int, str] | None = None
    end = 0

    def close(at: int) -> None:
        nonlocal num_runs
        if begin is not None:
            num_runs += at - begin[0] >= 2
            findings.append(
                Finding(
                    row=begin[0],
                    time=begin[1],
                    num_bars=at - begin[0],
                    detail=f"{at - begin[0]} flat bars",
                    size=float(at - begin[0]),
                )
            )

    for row, time, price in chunks(path, "high", "low"):
        new = slice(1, None) if row or end else slice(0, None)
        offset = row + (new.start or 0)
        flat = (price[:, 0] == price[:, 1])[new]
        num_flat += int(flat.sum())
        edges = np.flatnonzero(np.diff(np.r_[begin is not None, flat].astype(np.int8)))
        for k in edges.tolist():
            if flat[k]:
                begin = (offset + k, str(time[new][k]))
            else:
                close(offset + k)
                begin = None
        end = offset + len(flat)
        findings = list(largest(findings, 4 * LISTED))
    close(end)
    return findings, num_runs, num_flat


def find_jumps(
    path: Path, line: TimeLine, jump_mad: float
) -> tuple[list[Finding], int, tuple[float, float], NDArray[np.float64]]:
    """Return jumps, their number, median and MAD of the changes, and the curve to plot."""
    changes = np.zeros(max(line.num_bars - 1, 0), dtype=np.float32)
    for row, _, price in chunks(path, "close"):
        changes[row : row + len(price) - 1] = price[1:, 0] / price[:-1, 0] - 1.0
    median = float(np.median(changes)) if len(changes) else 0.0
    np.abs(np.subtract(changes, np.float32(median), out=changes), out=changes)
    mad = float(np.median(changes, overwrite_input=True)) if len(changes) else 0.0
    del changes
    findings: list[Finding] = []
    num, curve = 0, []
    width = max(1, -(-line.num_bars // _PLOTTED))
    for row, time, price in chunks(path, "high", "low", "close"):
        change = price[1:, 2] / price[:-1, 2] - 1.0
        far = np.abs(change - median) / mad if mad > 0 else np.zeros_like(change)
        curve += _curve(row, time, price, np.r_[0.0, far], width)
        for k in np.flatnonzero(far > jump_mad).tolist():
            num += 1
            late = (time[k + 1] - time[k]).astype(np.int64) > line.gap_limit
            findings.append(
                Finding(
                    row=row + k + 1,
                    time=str(time[k + 1]),
                    num_bars=1,
                    detail=f"close changes by {change[k]:+.2%}" + ", after a gap" * bool(late),
                    size=float(far[k]),
                )
            )
        findings = list(largest(findings, 4 * LISTED))
    return findings, num, (median, mad), np.array(curve)


def _curve(
    row: int, time: NDArray[Any], price: NDArray[np.float64], far: NDArray[np.float64], width: int
) -> list[list[float]]:
    stretch = (row + np.arange(len(time))) // width
    begin = np.flatnonzero(np.diff(stretch, prepend=-1))
    low, high = np.minimum.reduceat(price[:, 1], begin), np.maximum.reduceat(price[:, 0], begin)
    peak = np.maximum.reduceat(far, begin)
    clock = time[begin].astype(np.int64).astype(np.float64)
    return np.column_stack([clock, low, high, peak]).tolist()


def largest(findings: list[Finding], limit: int = LISTED) -> tuple[Finding, ...]:
    """Return the largest findings, in time order."""
    listed = findings if len(findings) <= limit else sorted(findings, key=lambda f: -f.size)[:limit]
    return tuple(sorted(listed, key=lambda f: f.row))
