"""Repeated blocks against chance: honest bars keep their windows, planted blocks are found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from data_kit import walk

from moola.data.repeats import RepeatedBlock, Tick, find_repeated_blocks

BENCH = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_exclusions.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_exclusions", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_bars_in_another_order_are_no_repetition():
    ohlc = walk(40)
    ohlc[[20, 21]] = ohlc[[6, 5]]
    assert find_repeated_blocks(ohlc) == []


def test_a_block_that_stands_many_times_is_found_with_every_copy():
    ohlc = walk(4000)
    places = [100, 700, 1500, 3000]
    for place in places[1:]:
        ohlc[place : place + 3] = ohlc[100:103]
    found = find_repeated_blocks(ohlc)
    assert {b.first for b in found} | {b.again for b in found} == set(places)


def test_a_day_played_again_for_weeks_is_found():
    day = walk(48)
    ohlc = np.vstack([walk(2000, seed=1), np.tile(day, (30, 1))])
    mask = np.zeros(len(ohlc), dtype=bool)
    for block in find_repeated_blocks(ohlc):
        mask[block.first : block.first + block.num_bars] = True
        mask[block.again : block.again + block.num_bars] = True
    assert mask[2000:].all()
    assert not mask[:2000].any()


def test_a_bar_that_stays_while_it_is_not_flat_is_found():
    ohlc = walk(2000)
    ohlc[500:520] = ohlc[500]
    (block,) = [b for b in find_repeated_blocks(ohlc) if b.num_bars > 10]
    assert block == RepeatedBlock(first=500, again=501, num_bars=19)


@pytest.mark.parametrize("num", [2, 3, 8])
def test_a_short_block_among_few_bars_is_found(num):
    ohlc = walk(60)
    ohlc[40 : 40 + num] = ohlc[5 : 5 + num]
    assert find_repeated_blocks(ohlc) == [RepeatedBlock(first=5, again=40, num_bars=num)]


@pytest.mark.parametrize(
    ("prices", "tick"),
    [
        ([4000.25, 4001.0], 0.25), ([1.10001, 1.1], 1e-5), ([3e-8, 5e-8], 1e-8), ([7.0, 14.0], 7.0),
        ([np.pi, 1.0], None), ([1e17, 1.0], None),
    ],
)  # fmt: skip
def test_the_tick_is_what_all_prices_are_multiples_of(prices, tick):
    found = Tick()
    for price in prices:
        found.add(np.array([[price]]))
    assert found.size == tick


@pytest.mark.medium
@pytest.mark.parametrize("market", ["index future, 1 min, tick 0.25", "equity, 1 s, tick 0.01",
                                    "pegged coin, 1 min, tick 0.0001"])  # fmt: skip
def test_bars_of_a_coarse_tick_keep_their_windows(bench, market):
    rng = np.random.default_rng(5)
    lost = [bench.lost_windows(bench.simulate(market, 3000, rng, wild=w)) for w in (True, False)]
    assert sum(n for n, _ in lost) == 0
    # and yet a long stretch that is played again is found among them
    series = bench.simulate(market, 3000, rng, wild=False)
    assert bench.found(series.ohlc, *bench.plant(series.ohlc, 60, rng), 60)


@pytest.mark.slow
def test_false_exclusions_and_power_in_the_large(bench):
    """200 clean series lose at most 1 % of their windows; 95 % of planted blocks are found."""
    rng = np.random.default_rng(2)
    lost = possible = 0
    for k in range(200):
        market = list(bench.MARKETS)[k % len(bench.MARKETS)]
        out, all_ = bench.lost_windows(bench.simulate(market, 6000, rng, wild=bool(k // 10 % 2)))
        lost, possible = lost + out, possible + all_
    assert lost <= 0.01 * possible
    for num in (3, 4, 6):
        hits = 0
        for k in range(60):
            series = bench.simulate(bench.ORDINARY[k % 4], 6000, rng, wild=bool(k % 2))
            hits += bench.found(series.ohlc, *bench.plant(series.ohlc, num, rng), num)
        assert hits >= 57
