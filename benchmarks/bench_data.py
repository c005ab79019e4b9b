"""Measure how fast windows, labels and features are made, and in how much memory.

Also what ingest needs, and what the test of synthetic windows can see.

    python benchmarks/bench_data.py                          # 10^4, 10^5 and 10^6 windows
    python benchmarks/bench_data.py --sizes 10000 100000
    python benchmarks/bench_data.py --ingest-rows 10000000   # memory of ingest
    python benchmarks/bench_data.py --synthetic-power        # size and power of the quality test
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WINDOW_BARS, HORIZON_BARS = 105, 6
BTC = Path(__file__).resolve().parents[1] / "data" / "bars" / "btcusd_1h.parquet"


def make_bars(num_bars: int, seed: int = 0):
    """Minute bars of a random walk with changing volatility: (time, OHLC)."""
    rng = np.random.default_rng(seed)
    volatility = np.exp(0.5 * np.sin(np.arange(num_bars) / 500.0)) * 0.0005
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1, num_bars) * volatility) * 0.1)
    open_ = np.r_[100.0, close[:-1]]
    high = np.maximum(open_, close) * (1 + rng.uniform(0, 1, num_bars) * volatility)
    low = np.minimum(open_, close) * (1 - rng.uniform(0, 1, num_bars) * volatility)
    clock = np.datetime64("2000-01-01", "us") + np.arange(num_bars) * np.timedelta64(60, "s")
    return clock, np.column_stack([open_, high, low, close])


def write_bars(path: Path, num_bars: int, chunk: int = 1_000_000) -> None:
    """Write a bar file chunk by chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for k, begin in enumerate(range(0, num_bars, chunk)):
        clock, ohlc = make_bars(min(chunk, num_bars - begin), seed=k)
        clock = clock + begin * np.timedelta64(60, "s")
        columns = dict(zip(("open", "high", "low", "close"), ohlc.T, strict=True))
        stamp = pa.array(clock, pa.timestamp("us", tz="UTC"))
        table = pa.table({"timestamp": stamp, **columns})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_build(root: Path) -> dict[str, float]:
    """Time the stages one by one, then a whole build; runs in a process of its own."""
    from moola.config.data import WindowRecipe
    from moola.data.bars import read_bars
    from moola.data.features import features20
    from moola.data.labels import label_windows
    from moola.data.store.data_store import DataStore
    from moola.data.windows import view_windows, window_starts

    recipe = WindowRecipe(
        source="walk", window_bars=WINDOW_BARS, horizon_bars=HORIZON_BARS, step_bars=1
    )
    start = time.perf_counter()
    bars = read_bars(root / "bars" / "walk.parquet")
    starts = window_starts(bars, recipe)
    seconds = {"windows": time.perf_counter() - start}
    before = peak_mib()
    start = time.perf_counter()
    label_windows(bars, starts, recipe)
    seconds["labels"] = time.perf_counter() - start
    view = view_windows(bars.ohlc.astype(np.float32), WINDOW_BARS)
    start = time.perf_counter()
    for begin in range(0, len(starts), 4096):
        features20(view[starts[begin : begin + 4096]])
    seconds["features"] = time.perf_counter() - start
    start = time.perf_counter()
    built = DataStore(root).build_set("labeled_windows/bench", recipe)
    seconds["build"] = time.perf_counter() - start
    return {"num": len(built), "before": before, "peak": peak_mib(), **seconds}


def measure_ingest(root: Path) -> dict[str, float]:
    """Ingest the bar file; runs in a process of its own."""
    from moola.data.ingest import ingest

    start = time.perf_counter()
    source = next(p for p in root.iterdir() if p.name.startswith("source"))
    done = ingest(source, "walk", root / "bars")
    return {
        "num": done.report.num_bars,
        "seconds": time.perf_counter() - start,
        "peak": peak_mib(),
    }


def pandas_loop(num_windows: int = 300) -> float:
    """Windows a second of the plain loop: a window, its label and four of the 20 features."""
    import pandas as pd

    clock, ohlc = make_bars(num_windows + WINDOW_BARS + HORIZON_BARS)
    frame = pd.DataFrame(ohlc, columns=["open", "high", "low", "close"], index=clock)
    start = time.perf_counter()
    for row in range(num_windows):
        window = frame.iloc[row : row + WINDOW_BARS]
        ahead = frame.iloc[row + WINDOW_BARS : row + WINDOW_BARS + HORIZON_BARS]
        ranges = window["high"].rolling(6).max() - window["low"].rolling(6).min()
        _ = int(ahead["high"].max() - ahead["low"].min() > ranges.median())
        change = window["close"].diff()
        size = (window["high"] - window["low"]).mean()
        _ = [
            ranges.iloc[-1] / ranges.median(),
            (window["high"].iloc[-1] - window["low"].iloc[-1]) / size,
            change.iloc[-24:].std() / change.std(),
            change.sum() / change.abs().sum(),
        ]
    return num_windows / (time.perf_counter() - start)


def in_process(what: str, root: Path) -> dict[str, float]:
    """Run one measurement in a fresh process, so that its peak memory is its own."""
    run = subprocess.run(
        [sys.executable, __file__, "--measure", what, str(root)],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(run.stdout))


def print_builds(sizes: list[int]) -> None:
    """Print the table of builds."""
    plain = pandas_loop()
    print(f"plain pandas loop (label and 4 of 20 features): {plain:,.0f} windows/s\n")
    print("| windows | labels/s | features/s | build s | built/s | peak MiB | beyond bars MiB "
          "| loop x |")  # fmt: skip
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_bars(root / "bars" / "walk.parquet", size + WINDOW_BARS + HORIZON_BARS - 1)
            m = in_process("build", root)
        print(
            f"| {m['num']:,.0f} | {m['num'] / m['labels']:,.0f} | {m['num'] / m['features']:,.0f} "
            f"| {m['build']:.1f} | {m['num'] / m['build']:,.0f} | {m['peak']:.0f} "
            f"| {m['peak'] - m['before']:.0f} | {m['num'] / m['build'] / plain:.0f} |",
            flush=True,
        )


def print_ingest(num_rows: int, kind: str) -> None:
    """Print what ingesting a file of so many rows takes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_bars(root / "source.parquet", num_rows)
        if kind == "csv":
            import pyarrow.csv as pa_csv
            import pyarrow.parquet as pq

            with (root / "source.csv").open("wb") as sink:
                for k, batch in enumerate(pq.ParquetFile(root / "source.parquet").iter_batches()):
                    options = pa_csv.WriteOptions(include_header=k == 0)
                    pa_csv.write_csv(batch, sink, options)
            (root / "source.parquet").unlink()
        m = in_process("ingest", root)
    print(
        f"{kind}: {m['num']:,.0f} rows in {m['seconds']:.0f} s, "
        f"{m['num'] / m['seconds']:,.0f} rows/s, peak {m['peak']:.0f} MiB"
    )


def jitter(X, rng, strength: float):
    """Noise of `strength` mean bar ranges on open and close; highs and lows enclose them."""
    size = (X[..., 1] - X[..., 2]).mean(axis=1)[:, None, None]
    X = X.copy()
    X[..., [0, 3]] += (rng.normal(0, strength, (*X.shape[:2], 2)) * size).astype(np.float32)
    X[..., 1], X[..., 2] = X.max(axis=2), X.min(axis=2)
    return X


def spread(X, rng, strength: float):
    """Each window's wicks longer or shorter by up to `strength`."""
    factor = 1 + rng.uniform(-strength, strength, (len(X), 1)).astype(np.float32)
    body_high, body_low = X[..., [0, 3]].max(axis=2), X[..., [0, 3]].min(axis=2)
    X = X.copy()
    X[..., 1] = body_high + (X[..., 1] - body_high) * factor
    X[..., 2] = body_low - (body_low - X[..., 2]) * factor
    return X


def wider(X, rng, strength: float):
    """Every wick of the last 24 bars longer by `strength`."""
    X = X.copy()
    body_high, body_low = X[:, -24:, [0, 3]].max(axis=2), X[:, -24:, [0, 3]].min(axis=2)
    X[:, -24:, 1] += (X[:, -24:, 1] - body_high) * np.float32(strength)
    X[:, -24:, 2] -= (body_low - X[:, -24:, 2]) * np.float32(strength)
    return X


def print_power(trials: int) -> None:
    """Print how often p < 0.1 for windows that are honest, and for spoilt ones."""
    from moola.data.audit.synthetic import STATISTICS, window_statistics
    from moola.data.audit.twosample import compare_samples
    from moola.data.bars import read_bars
    from moola.data.windows import cut_windows

    bars = read_bars(BTC)
    starts = np.arange(0, len(bars) - 111, 6)
    X = cut_windows(bars, starts, 105)
    F, block = window_statistics(X), starts // 111
    rng = np.random.default_rng(0)

    def rates(n: int, make) -> tuple[float, float]:
        p, distance = [], []
        for _ in range(trials):
            begin = int(rng.integers(0, len(X) - n + 1))
            rows = np.arange(begin, begin + n)
            real, real_block, other, other_block = make(rows)
            report = compare_samples(
                real, other, real_block=real_block, synthetic_block=other_block,
                names=STATISTICS, num_permutations=399, with_classifier=False,
            )  # fmt: skip
            p.append(report.p_value)
            distance.append(np.median([f.detectable_ks for f in report.features]))
        return float(np.mean(np.array(p) < 0.1)), float(np.mean(distance))

    def honest(rows):
        mine = np.unique(block[rows])
        half = rng.permutation(mine)[: len(mine) // 2]
        a, b = rows[np.isin(block[rows], half)], rows[~np.isin(block[rows], half)]
        return F[a], block[a], F[b], block[b]

    def spoilt(change, strength):
        return lambda rows: (
            F[rows], block[rows], window_statistics(change(X[rows], rng, strength)), block[rows],
        )  # fmt: skip

    cases = {"other real windows (size)": honest}
    for change in (jitter, spread, wider):
        for strength in (0.05, 0.15, 0.5):
            cases[f"{change.__name__} {strength}"] = spoilt(change, strength)
    print("| synthetic windows | n = 185 | n = 740 | n = 1480 |\n| --- | ---: | ---: | ---: |")
    for name, make in cases.items():
        found = [rates(n, make) for n in (185, 740, 1480)]
        cells = " | ".join(f"{rate:.2f} (KS {ks:.2f})" for rate, ks in found)
        print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--ingest-rows", type=int)
    parser.add_argument("--kind", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--synthetic-power", action="store_true")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, root = options.measure
        measure = {"build": measure_build, "ingest": measure_ingest}[what]
        print(json.dumps(measure(Path(root))))
    elif options.ingest_rows:
        print_ingest(options.ingest_rows, options.kind)
    elif options.synthetic_power:
        print_power(options.trials)
    else:
        print_builds(options.sizes)


if __name__ == "__main__":
    main()
