"""Bars that come back under another name, longer, in other units or as longer bars, are known."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from data_kit import SHIPPED

from moola.data.bars import read_bars
from moola.data.market import MAX_CHARS, market_sketch, same_market

HOUR = np.timedelta64(1, "h").astype("timedelta64[us]")


def walk(seed: int, num: int, step: str = "1h", start: str = "2019-03-07", price: float = 100.0):
    """A random walk as bars: ten trades a bar, rounded to a cent."""
    rng = np.random.default_rng(seed)
    trades = price * np.exp(rng.normal(0, 2e-3, num * 10).cumsum()).reshape(num, 10)
    opened = np.r_[trades[0, 0], trades[:-1, -1]]
    path = np.column_stack([opened, trades])
    ohlc = np.column_stack([path[:, 0], path.max(axis=1), path.min(axis=1), path[:, -1]])
    length = np.timedelta64(int(step[:-1]), step[-1]).astype("timedelta64[us]")
    time = np.datetime64(start, "us") + np.arange(num) * length
    return time, np.round(ohlc, 2)


def resampled(time: np.ndarray, ohlc: np.ndarray, step: str):
    length = np.timedelta64(int(step[:-1]), step[-1]).astype("timedelta64[us]")
    monday = 4 * 86_400_000_000 if step == "7D" else 0
    cell = (time.astype(np.int64) - monday) // length.astype(np.int64)
    starts = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
    ends = np.r_[starts[1:], len(cell)] - 1
    high, low = (f.reduceat(ohlc[:, i], starts) for f, i in ((np.maximum, 1), (np.minimum, 2)))
    bars = np.column_stack([ohlc[starts, 0], high, low, ohlc[ends, 3]])
    return (cell[starts] * length.astype(np.int64) + monday).astype("datetime64[us]"), bars


def known(one, other) -> bool | None:
    return same_market(market_sketch(*one), market_sketch(*other))


@pytest.mark.parametrize("source", ["btcusd_1h", "eurusd_1h"])
@pytest.mark.parametrize(
    "change",
    {
        "longer": lambda t, p: (t, p),
        "a tenth of it": lambda t, p: (t[: len(t) // 10], p[: len(t) // 10]),
        "a month of it": lambda t, p: (t[5000:5700], p[5000:5700]),
        "in other units": lambda t, p: (t, p * 0.0071),
        "as float32": lambda t, p: (t, p.astype(np.float32)),
        "rounded to four digits": lambda t, p: (t, np.round(p / p.mean(), 5)),
        "four hours": lambda t, p: resampled(t, p, "4h"),
        "six hours, cut": lambda t, p: resampled(t[3000:9000], p[3000:9000], "6h"),
        "days": lambda t, p: resampled(t, p, "1D"),
        "weeks": lambda t, p: resampled(*resampled(t, p, "1D"), "7D"),
    }.items(),
    ids=lambda change: change[0],
)
def test_a_copy_is_known(source: str, change) -> None:
    name, make = change
    bars = read_bars(SHIPPED / f"{source}.parquet")
    whole = slice(None, -720 if name == "longer" else None)  # the next month came in
    copy = make(bars.time, bars.ohlc)
    assert known((bars.time[whole], bars.ohlc[whole]), copy) is True


@pytest.mark.parametrize("step", ["1m", "5m", "1h", "4h", "1D"])
def test_unrelated_markets_are_not_taken_for_one(step: str) -> None:
    """Same calendar, same price level, same ticks: 60 pairs at each length of bar."""
    sketches = [market_sketch(*walk(seed, 3000, step)) for seed in range(16)]
    pairs = [(i, j) for i in range(16) for j in range(i)]
    assert not any(same_market(sketches[i], sketches[j]) for i, j in pairs)
    assert all(same_market(s, s) for s in sketches)


def test_the_shipped_markets_are_two() -> None:
    bars = [read_bars(SHIPPED / f"{name}.parquet") for name in ("btcusd_1h", "eurusd_1h")]
    assert known(*((b.time, b.ohlc) for b in bars)) is not True


def test_minute_bars_are_known_within_a_day_and_as_hours() -> None:
    time, ohlc = walk(3, 1440, "1m")
    assert known((time, ohlc), (time[300:900], ohlc[300:900] * 3)) is True
    assert known((time, ohlc), resampled(time, ohlc, "1h")) is True


def test_what_cannot_be_compared_is_unknown() -> None:
    one = market_sketch(*walk(1, 500))
    elsewhere = market_sketch(*walk(1, 500, start="2003-01-01"))
    flat = market_sketch(np.datetime64("2019-01-01", "us") + np.arange(50) * HOUR, np.ones((50, 4)))
    for other in (elsewhere, flat, "", "no sketch", "AAAA", base64.b64encode(b"x" * 11).decode()):
        assert same_market(one, other) is None


def test_a_sketch_fits_into_a_line_of_the_ledger() -> None:
    for step, num in (("1m", 600_000), ("1h", 200_000), ("1D", 20_000)):
        assert len(market_sketch(*walk(5, num, step))) <= MAX_CHARS
