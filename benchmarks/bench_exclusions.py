"""False exclusions: honest bars keep their windows, and planted repetitions are found.

`moola bench exclusions` simulates clean series at ticks from 0.25 to 1e-8, steps from 1 s to 1 d,
quiet and wild, and counts the windows that are left out for repeated bars although nothing was
repeated. Then it plants blocks of 3 and more bars into series of ordinary ticks (a usual bar spans
ten ticks or more) and counts how many are found.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

TRADES = 16  # steps of the price within a bar
MARKETS = {
    # name: (price, tick, seconds of a bar, usual size of a trade's move in ticks)
    "index future, 1 min, tick 0.25": (4000.0, 0.25, 60, 0.5),
    "index future, 1 s, tick 0.25": (4000.0, 0.25, 1, 0.12),
    "equity, 1 s, tick 0.01": (95.0, 0.01, 1, 0.15),
    "equity, 1 min, tick 0.01": (95.0, 0.01, 60, 0.9),
    "pegged coin, 1 min, tick 0.0001": (1.0, 0.0001, 60, 0.08),
    "FX, 1 min, tick 1e-5": (1.1, 1e-5, 60, 4.0),
    "FX, 1 h, tick 1e-5": (1.1, 1e-5, 3600, 30.0),
    "coin, 1 min, tick 0.01": (30000.0, 0.01, 60, 400.0),
    "small coin, 1 h, tick 1e-8": (3e-6, 1e-8, 3600, 0.6),
    "daily, tick 0.01": (95.0, 0.01, 86400, 25.0),
}
ORDINARY = [m for m, (_, _, _, ticks) in MARKETS.items() if ticks >= 4.0]


@dataclass(frozen=True)
class Series:
    """A simulated market: times of its bars and their OHLC, shape (N, 4)."""

    time: np.ndarray
    ohlc: np.ndarray


def simulate(market: str, num: int, rng: np.random.Generator, *, wild: bool) -> Series:
    """Draw bars from trades on a grid of ticks.

    Volatility swings by the day and clusters; trades bounce between bid and ask; `wild` makes the
    swings larger and the tails heavier.
    """
    price, tick, seconds, size = MARKETS[market]
    swing = 0.8 if wild else 0.3
    day = np.sin(2 * np.pi * np.arange(num) * seconds / 86400)
    slow = np.zeros(num)
    shocks = rng.normal(0, 0.15 if wild else 0.05, num)
    for k in range(1, num):
        slow[k] = 0.98 * slow[k - 1] + shocks[k]
    volatility = size * np.exp(swing * day + slow)
    moves = rng.standard_t(4 if wild else 30, (num, TRADES)) * volatility[:, None]
    path = price / tick * np.exp(np.cumsum(moves.reshape(-1)) * tick / price)
    if market.startswith("pegged"):  # drawn back to its peg
        path = price / tick + rng.normal(0, 0.6, num * TRADES)
    bounce = rng.integers(0, 2, num * TRADES) * (rng.random(num * TRADES) < 0.5)
    trades = np.maximum(np.rint(path) + bounce, 1).reshape(num, TRADES)
    open_ = np.r_[trades[0, 0], trades[:-1, -1]]
    ticks = np.column_stack(
        [open_, np.maximum(trades.max(axis=1), open_), np.minimum(trades.min(axis=1), open_),
         trades[:, -1]]
    )  # fmt: skip
    decimals = max(0, -int(np.floor(np.log10(tick))) + 2)
    time = np.datetime64("2024-01-01", "us") + np.arange(num) * np.timedelta64(seconds, "s")
    return Series(time=time, ohlc=np.round(ticks * tick, decimals))


def plant(ohlc: np.ndarray, num: int, rng: np.random.Generator) -> tuple[int, int]:
    """Copy `num` bars of a series to a later place in it; return both places."""
    first, again = np.sort(rng.choice(len(ohlc) // num - 1, 2, replace=False)) * num
    ohlc[again : again + num] = ohlc[first : first + num]
    return int(first), int(again)


def lost_windows(series: Series) -> tuple[int, int]:
    """Return the windows left out for repeated bars, and all that could be."""
    from moola.config.data import WindowRecipe
    from moola.data.bars import Bars
    from moola.data.left_out import REPEATED
    from moola.data.windows import may_be_used

    bars = Bars(name="x", time=series.time, ohlc=series.ohlc, sha256="")
    recipe = WindowRecipe(source="x", step_bars=1)
    begin = np.arange(len(bars) - 110)
    _, left_out = may_be_used(bars, recipe, begin, begin + 111)
    return left_out.reasons[REPEATED], left_out.possible


def found(ohlc: np.ndarray, first: int, again: int, num: int) -> bool:
    """Return whether all bars of a planted block, both copies, are found."""
    from moola.data.repeats import find_repeated_blocks

    mask = np.zeros(len(ohlc), dtype=bool)
    for block in find_repeated_blocks(ohlc):
        for begin in (block.first, block.again):
            mask[begin : begin + block.num_bars] = True
    return bool(mask[first : first + num].all() and mask[again : again + num].all())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--bars", type=int, default=6000)
    parser.add_argument("--planted", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    print(
        "| market | series | windows | left out for repeated bars |\n| --- | ---: | ---: | ---: |"
    )
    tally = {m: [0, 0, 0] for m in MARKETS}
    for k in range(asked.series):
        market = list(MARKETS)[k % len(MARKETS)]
        wild = bool(k // len(MARKETS) % 2)
        lost, possible = lost_windows(simulate(market, asked.bars, rng, wild=wild))
        for column, value in enumerate((1, possible, lost)):
            tally[market][column] += value
    for market, (series, possible, lost) in tally.items():
        print(f"| {market} | {series} | {possible:,} | {lost / max(possible, 1):.2%} |")
    possible, lost = (sum(t[c] for t in tally.values()) for c in (1, 2))
    print(f"| all | {asked.series} | {possible:,} | {lost / possible:.2%} |\n")
    print("| planted bars | blocks | found |\n| ---: | ---: | ---: |")
    for num in (3, 4, 5, 12):
        hits = 0
        for k in range(asked.planted // 4):
            market = ORDINARY[k % len(ORDINARY)]
            series = simulate(market, asked.bars, rng, wild=bool(k % 2))
            hits += found(series.ohlc, *plant(series.ohlc, num, rng), num)
        print(f"| {num} | {asked.planted // 4} | {hits / max(asked.planted // 4, 1):.1%} |")


if __name__ == "__main__":
    main()
